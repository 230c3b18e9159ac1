#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

std::string keys_of(const EntryList& list) {
    std::string out;
    for (const Entry& entry : list.items) out += entry.key_path + " ";
    for (const std::string& folder : list.prefixes) out += "[" + folder + "] ";
    return out;
}

Actor holding(PermissionSet permissions, const std::vector<std::string>& patterns = {"*"}, const std::string& user = "limited") {
    Grant grant;
    grant.permissions = permissions;
    grant.keys.clear();
    for (const std::string& text : patterns) grant.keys.push_back(*KeyPattern::parse(text));
    return Actor::with_grants(user, {grant});
}

// One of each operation on a namespace.
std::vector<Request> every_operation(const Fixture& kv) {
    UpdateNamespace update;
    update.ns = kv.ns;
    update.description = std::optional<std::string>("x");
    DeleteNamespace remove;
    remove.ns = kv.ns;
    ExportEntries everything;
    everything.ns = kv.ns;
    ListAudit audit;
    audit.ns = kv.ns;
    return {kv.get_request("k"),
            kv.get_request("k", 1),
            kv.get_request("missing"),
            GetNamespace{kv.ns, {}},
            kv.list_request(),
            kv.list_request("", false),
            kv.versions_request("k"),
            kv.versions_request("missing"),
            kv.bulk_get_request({"k", "missing"}),
            everything,
            audit,
            kv.put_request("k", "new"),
            kv.put_request("new", "new"),
            kv.patch_request("k", R"({"a":1})"),
            kv.delete_request("k"),
            kv.delete_request("k", true),
            kv.rotate_request("k", "new"),
            kv.rollback_request("k"),
            kv.bulk_set_request({{"k", "new"}}),
            kv.bulk_set_request({{"k", "new"}}, false),
            kv.bulk_delete_request({"k"}),
            kv.bulk_delete_request({"k"}, false, true),
            update,
            remove};
}

}  // namespace

TEST_CASE("what was put is what is read, and both are on record") {
    auto store = kv::open("memory:", {});
    REQUIRE(store);
    const Actor actor = Actor::trusted("tester");
    CreateNamespace create;
    create.name = "production";
    create.application_id = "app-123";
    create.is_secret = true;
    REQUIRE((*store)->call(actor, create));
    auto cfg = (*store)->in("app-123", "production", actor);
    auto put = cfg.put("database/host", "localhost");
    REQUIRE_MESSAGE(put, put.error().message);
    auto got = cfg.get<std::string>("database/host");
    REQUIRE_MESSAGE(got, got.error().message);
    CHECK(*got == "localhost");
    auto audit = (*store)->call(actor, ListAudit{});
    REQUIRE(audit);
    CHECK(audit->items.size() == 4);
}

TEST_CASE("put with a stale version changes nothing and is audited as failed") {
    Fixture kv;
    REQUIRE(kv.put("db/host", "one"));
    Precondition stale;
    stale.expected_version = 7;
    auto refused = kv.call(kv.put_request("db/host", "two", {}, stale));
    REQUIRE(refused == Errc::version_conflict);
    CHECK(refused.error().current_version == 1);
    CHECK(kv.dump() == "db/host v1 one\n"
                       "audit WRITE db/host v1 ok\n"
                       "audit WRITE db/host version-conflict\n");
}

TEST_CASE("a handle gives plain C++ values") {
    Fixture kv;
    auto cfg = kv.store->in("app", "ns", kv.actor);
    CHECK(cfg.put("text", "localhost"));
    CHECK(cfg.put("port", 5432));
    CHECK(cfg.put("ratio", 0.25));
    CHECK(cfg.put("on", true));
    CHECK(cfg.put("bytes", ValueInput::bytes(std::string_view("\0\x01", 2))));
    CHECK(cfg.get<std::string>("text").value() == "localhost");
    CHECK(cfg.get<std::string>("port").value() == "5432");
    CHECK(cfg.get<std::int64_t>("port").value() == 5432);
    CHECK(cfg.get<double>("port").value() == 5432.0);
    CHECK(cfg.get<double>("ratio").value() == 0.25);
    CHECK(cfg.get<bool>("on").value());
    CHECK(cfg.get<SecretBytes>("bytes").value().reveal() == std::string_view("\0\x01", 2));
    CHECK(cfg.get<std::string>("bytes") == Errc::invalid_value);
    CHECK(cfg.get<std::int64_t>("text") == Errc::invalid_value);
    CHECK(cfg.get<std::int64_t>("ratio") == Errc::invalid_value);
    CHECK(cfg.get<bool>("port") == Errc::invalid_value);
    CHECK(cfg.get<std::string>("missing") == Errc::not_found);
    CHECK(cfg.put("nan", std::numeric_limits<double>::quiet_NaN()) == Errc::invalid_value);
    CHECK(cfg.list("").value().size() == 5);
    CHECK(cfg.rotate("text", ValueInput::text("other")).value().version == 2);
    CHECK(cfg.rollback("text").value().version == 3);
    CHECK(cfg.get<std::string>("text").value() == "localhost");
    CHECK(cfg.remove("text"));
    CHECK(cfg.remove("text") == Errc::not_found);
}

TEST_CASE("a handle's list goes through every page") {
    Options options;
    options.limits.page_items_max = 3;
    Fixture kv(Kind::plain, options);
    for (int i = 0; i < 10; ++i) REQUIRE(kv.put("k" + std::to_string(i), "v"));
    CHECK(kv.store->in("app", "ns", kv.actor).list("").value().size() == 10);
}

// ---- lists ----

TEST_CASE("a list goes on to the end at every limit and shows each key once") {
    Fixture kv(Kind::plain);
    std::vector<std::string> keys;
    for (const char* folder : {"", "a/", "a/b/", "b/", "b-/"}) {
        for (int i = 0; i < 4; ++i) keys.push_back(std::string(folder) + "k" + std::to_string(i));
    }
    for (const std::string& key : keys) REQUIRE(kv.put(key, "value of " + key));
    std::sort(keys.begin(), keys.end());
    for (const bool values : {false, true}) {
        for (const std::string prefix : {"", "a", "a/", "b", "a/b/k", "none"}) {
            for (std::uint64_t limit = 1; limit <= keys.size() + 1; ++limit) {
                std::vector<std::string> expected;
                std::copy_if(keys.begin(), keys.end(), std::back_inserter(expected), [&](const auto& key) { return key.starts_with(prefix); });
                std::vector<std::string> seen;
                ListEntries request = kv.list_request(prefix, values);
                request.page.limit = limit;
                while (true) {
                    auto page = kv.call(request);
                    REQUIRE(page);
                    CHECK(page->items.size() <= limit);
                    for (const Entry& entry : page->items) {
                        seen.push_back(entry.key_path);
                        CHECK(entry.value.has_value() == values);
                        if (values) CHECK(entry.value->reveal() == "value of " + entry.key_path);
                    }
                    if (!page->next_cursor) break;
                    CHECK(page->items.size() == limit);
                    request.page.cursor = *page->next_cursor;
                }
                CHECK(seen == expected);
            }
        }
    }
}

TEST_CASE("folders are folded, each named once, at every limit") {
    Fixture kv(Kind::plain);
    for (const char* key : {"a", "a-b", "a/1", "a/2", "a/b/3", "b/1", "b0", "c/d/e/1", "c/d/e/2", "d"}) REQUIRE(kv.put(key, "v"));
    const auto fold = [&](const std::string& prefix, std::uint64_t limit) {
        std::string all;
        ListEntries request = kv.list_request(prefix);
        request.fold_folders = true;
        request.page.limit = limit;
        while (true) {
            auto page = kv.call(request);
            REQUIRE(page);
            CHECK(page->items.size() + page->prefixes.size() <= limit);
            for (const Entry& entry : page->items) all += entry.key_path + " ";
            for (const std::string& folder : page->prefixes) all += folder + " ";
            if (!page->next_cursor) return all;
            request.page.cursor = *page->next_cursor;
        }
    };
    for (std::uint64_t limit = 1; limit < 12; ++limit) {
        CAPTURE(limit);
        const auto sorted = [](const std::string& text) {
            std::set<std::string> words;
            for (std::size_t at = 0; at < text.size();) {
                const std::size_t end = text.find(' ', at);
                CHECK(words.insert(text.substr(at, end - at)).second);
                at = end + 1;
            }
            return words;
        };
        CHECK(sorted(fold("", limit)) == std::set<std::string>{"a", "a-b", "a/", "b/", "b0", "c/", "d"});
        CHECK(sorted(fold("a/", limit)) == std::set<std::string>{"a/1", "a/2", "a/b/"});
        CHECK(sorted(fold("c/", limit)) == std::set<std::string>{"c/d/"});
        CHECK(sorted(fold("c/d/e/", limit)) == std::set<std::string>{"c/d/e/1", "c/d/e/2"});
        CHECK(sorted(fold("a", limit)) == std::set<std::string>{"a", "a-b", "a/"});
    }
}

TEST_CASE("a cursor is good for its own query, user and store only") {
    Fixture kv(Kind::plain);
    for (int i = 0; i < 6; ++i) REQUIRE(kv.put("a/k" + std::to_string(i), "v"));
    ListEntries request = kv.list_request("a/", false);
    request.page.limit = 2;
    const std::string cursor = *kv.call(request)->next_cursor;
    request.page.cursor = cursor;
    CHECK(keys_of(*kv.call(request)) == "a/k2 a/k3 ");
    request.page.limit = 3;  // the size of a page is not part of the query
    CHECK(keys_of(*kv.call(request)) == "a/k2 a/k3 a/k4 ");

    const auto refused = [&](ListEntries other, const Actor& who) {
        other.page.cursor = cursor;
        auto reply = kv.call_as(who, other);
        CHECK(reply == Errc::invalid_cursor);
        if (!reply) CHECK(reply.error().field == "cursor");
    };
    refused(kv.list_request("a", false), kv.actor);
    refused(kv.list_request("a/", true), kv.actor);
    refused(kv.list_request("a/", false), Actor::trusted("somebody else"));
    ListEntries folded = kv.list_request("a/", false);
    folded.fold_folders = true;
    refused(folded, kv.actor);
    ListEntries expiring = kv.list_request("a/", false);
    expiring.expiring_before = kv.clock.now();
    refused(expiring, kv.actor);
    ListEntries elsewhere = kv.list_request("a/", false);
    elsewhere.ns = kv.make_namespace("other", Kind::plain);
    refused(elsewhere, kv.actor);
    ListVersions versions = kv.versions_request("a/k0");
    versions.page.cursor = cursor;
    CHECK(kv.call(versions) == Errc::invalid_cursor);
    for (const std::string& bad : std::vector<std::string>{"x", "AAAA", std::string(200, 'A')}) {
        ListEntries broken = kv.list_request("a/", false);
        broken.page.cursor = bad;
        CHECK(kv.call(broken) == Errc::invalid_cursor);
    }
    // A store of its own with the same master key.
    Fixture other(Kind::plain);
    ListEntries there = other.list_request("a/", false);
    there.page.cursor = cursor;
    CHECK(other.call(there) == Errc::invalid_cursor);
    kv.close();
    kv.open();
    request.page.cursor = cursor;
    CHECK(kv.call(request));  // a store opened again is the same store
}

TEST_CASE("a page of values ends early, and the next one goes on") {
    Options options;
    options.limits.page_value_bytes_max = 1000;
    for (const Kind kind : {Kind::plain, Kind::secret}) {
        Fixture kv(kind, options);
        const std::string text(400, 'x');
        for (int i = 0; i < 10; ++i) REQUIRE(kv.put("k" + std::to_string(i), text));
        for (int i = 0; i < 9; ++i) REQUIRE(kv.put("k0", text));
        ListEntries request = kv.list_request();
        std::size_t pages = 0;
        std::size_t items = 0;
        for (std::optional<std::string> next = ""; next; ++pages) {
            request.page.cursor = *next;
            auto page = kv.call(request);
            REQUIRE(page);
            CHECK(page->items.size() <= 3);
            items += page->items.size();
            next = page->next_cursor;
        }
        CHECK(items == 10);
        CHECK(pages >= 4);
        CHECK(kv.call(kv.list_request("", false))->items.size() == 10);

        ListVersions versions = kv.versions_request("k0");
        std::uint64_t expected = 10;
        for (std::optional<std::string> next = ""; next;) {
            versions.page.cursor = *next;
            auto page = kv.call(versions);
            REQUIRE(page);
            CHECK(page->items.size() <= 5);
            for (const Version& version : page->items) CHECK(version.version == expected--);
            next = page->next_cursor;
        }
        CHECK(expected == 0);
    }
}

TEST_CASE("keys that expire soon can be listed") {
    Fixture kv;
    REQUIRE(kv.put("soon", "v", Ttl::after(10)));
    REQUIRE(kv.put("later", "v", Ttl::after(100)));
    REQUIRE(kv.put("never", "v"));
    ListEntries request = kv.list_request();
    request.expiring_before = kv.clock.now() + 50s;
    CHECK(keys_of(*kv.call(request)) == "soon ");
    request.expiring_before = kv.clock.now() + 200s;
    CHECK(keys_of(*kv.call(request)) == "later soon ");
    kv.clock.pass(10s);
    CHECK(keys_of(*kv.call(request)) == "later ");
}

TEST_CASE("who may see some keys sees those, and no count of the others") {
    Fixture kv;
    for (const char* key : {"a/1", "a/2", "b/1", "b/2", "c", "d/1"}) REQUIRE(kv.put(key, key));
    const Actor some = holding({Permission::namespace_read, Permission::entry_read}, {"a/**", "c", "d/1"});
    CHECK(keys_of(*kv.call_as(some, kv.list_request())) == "a/1 a/2 c d/1 ");
    CHECK(keys_of(*kv.call_as(some, kv.list_request("b/"))) == "");
    ListEntries paged = kv.list_request();
    paged.page.limit = 4;
    CHECK_FALSE(kv.call_as(some, paged)->next_cursor);
    ListEntries folded = kv.list_request();
    folded.fold_folders = true;
    CHECK(keys_of(*kv.call_as(some, folded)) == "c [a/] [d/] ");
    // Seeing a key is one thing, its value another.
    Grant sees;
    sees.permissions = {Permission::namespace_read};
    Grant reads;
    reads.permissions = {Permission::entry_read};
    reads.keys = {*KeyPattern::parse("b/**")};
    const Actor mixed = Actor::with_grants("mixed", {sees, reads});
    CHECK(keys_of(*kv.call_as(mixed, kv.list_request("", false))) == "a/1 a/2 b/1 b/2 c d/1 ");
    CHECK(keys_of(*kv.call_as(mixed, kv.list_request("", true))) == "b/1 b/2 ");
    CHECK(kv.call_as(holding({Permission::entry_read}), kv.list_request("", false)) == Errc::permission_denied);
    CHECK(kv.call_as(holding({Permission::namespace_read}), kv.list_request("", true)) == Errc::permission_denied);
    CHECK(keys_of(*kv.call_as(holding({Permission::namespace_read}), kv.list_request("", false))) == "a/1 a/2 b/1 b/2 c d/1 ");
}

TEST_CASE("one read is recorded for every key whose value is shown") {
    Fixture kv;
    for (const char* key : {"a", "b", "c"}) REQUIRE(kv.put(key, "v"));
    kv.new_audit();
    REQUIRE(kv.call(kv.list_request()));
    CHECK(kv.new_audit() == "audit READ ok\naudit READ a v1 ok\naudit READ b v1 ok\naudit READ c v1 ok\n");
    REQUIRE(kv.call(kv.list_request("a", false)));
    CHECK(kv.new_audit() == "audit READ a ok\n");
    REQUIRE(kv.call(kv.bulk_get_request({"c", "missing", "a"})));
    CHECK(kv.new_audit() == "audit READ c v1 ok\naudit READ missing not-found\naudit READ a v1 ok\n");
    REQUIRE(kv.put("a", "w"));
    kv.new_audit();
    REQUIRE(kv.call(kv.versions_request("a")));
    CHECK(kv.new_audit() == "audit READ a ok\naudit READ a v2 ok\naudit READ a v1 ok\n");
    REQUIRE(kv.call(kv.versions_request("a", false)));
    CHECK(kv.new_audit() == "audit READ a ok\n");
    kv.get("a", 1);
    CHECK(kv.new_audit() == "audit READ a v1 ok\n");
    ExportEntries everything;
    everything.ns = kv.ns;
    REQUIRE(kv.call(everything));
    CHECK(kv.new_audit() == "audit READ ok\naudit READ a v2 ok\naudit READ b v1 ok\naudit READ c v1 ok\n");
    PutEntry shown = kv.put_request("a", "x");
    shown.include_value = true;
    auto put = kv.call(shown);
    REQUIRE(put);
    CHECK(put->entry.value->reveal() == "x");
    CHECK(kv.new_audit() == "audit WRITE a v3 ok\naudit READ a v3 ok\n");
    REQUIRE(kv.call(GetNamespace{kv.ns, {}}));
    REQUIRE(kv.call(ListNamespaces{}));
    REQUIRE(kv.call(ListAudit{}));
    CHECK(kv.new_audit() == "audit READ ok\naudit READ ok\naudit READ ok\n");
}

TEST_CASE("an export that finds two names alike gives nothing out and says so on record") {
    Fixture kv;
    REQUIRE(kv.put("a-b", "1"));
    REQUIRE(kv.put("a.b", "2"));
    kv.new_audit();
    ExportEntries everything;
    everything.ns = kv.ns;
    CHECK(kv.call(everything) == Errc::name_conflict);
    CHECK(kv.new_audit() == "audit READ name-conflict\n");
}

TEST_CASE("a read that fails half-way is not on record as one that succeeded") {
    Fixture kv;
    REQUIRE(kv.put("a", "v"));
    kv.close();
    kv.open();  // forgets the data key, so that opening a value has to ask for it
    kv.new_audit();
    ExportEntries everything;
    everything.ns = kv.ns;
    for (const Request& request : {Request(kv.list_request()), Request(everything), Request(kv.versions_request("a")), Request(kv.get_request("a"))}) {
        kv.faults.fail_reads_of_keys(Errc::unavailable);
        CHECK(code_of(kv.store->wait(kv.actor, request)) == "unavailable");
        kv.faults.fail_reads_of_keys({});
        const std::string audit = kv.new_audit();
        CHECK(audit.find(" ok\n") == std::string::npos);
        CHECK(audit.find("unavailable\n") != std::string::npos);
    }
    CHECK(kv.get("a") == "v");
}

// ---- etags ----

TEST_CASE("what the caller has already is not sent again, and asking is recorded") {
    Fixture kv;
    auto put = kv.put("a", "v");
    REQUIRE(kv.put("b", "v"));
    kv.new_audit();
    GetEntry get = kv.get_request("a");
    get.if_none_match = {"other", put->etag};
    auto reply = kv.call(get);
    REQUIRE(reply);
    CHECK(reply->not_modified);
    CHECK_FALSE(reply->entry.value);
    CHECK(kv.new_audit() == "audit READ a v1 ok\n");
    // Any change of the entry, a patch too, is a new ETag.
    REQUIRE(kv.call(kv.patch_request("a", R"({"x":1})")));
    reply = kv.call(get);
    CHECK_FALSE(reply->not_modified);
    CHECK(reply->entry.value->reveal() == "v");

    ListEntries list = kv.list_request();
    list.if_none_match = {kv.call(list)->etag};
    CHECK(kv.call(list)->not_modified);
    CHECK(kv.call(list)->items.empty());
    REQUIRE(kv.put("b", "w"));
    CHECK_FALSE(kv.call(list)->not_modified);
    BulkGet bulk = kv.bulk_get_request({"a", "nothing"});
    bulk.if_none_match = {kv.call(bulk)->etag};
    CHECK(kv.call(bulk)->not_modified);
    REQUIRE(kv.put("nothing", "new"));
    CHECK_FALSE(kv.call(bulk)->not_modified);
    ListVersions versions = kv.versions_request("a");
    versions.if_none_match = {kv.call(versions)->etag};
    CHECK(kv.call(versions)->not_modified);
    REQUIRE(kv.put("a", "w"));
    CHECK_FALSE(kv.call(versions)->not_modified);
    ExportEntries everything;
    everything.ns = kv.ns;
    everything.if_none_match = {kv.call(everything)->etag};
    CHECK(kv.call(everything)->not_modified);
    CHECK(kv.call(everything)->text.empty());
    REQUIRE(kv.call(kv.delete_request("nothing")));
    CHECK_FALSE(kv.call(everything)->not_modified);
    ListNamespaces all;
    all.if_none_match = {kv.call(all)->etag};
    CHECK(kv.call(all)->not_modified);
    REQUIRE(kv.put("b", "x"));
    CHECK_FALSE(kv.call(all)->not_modified);  // it shows the revision
}

TEST_CASE("a namespace's ETag follows all it shows, but locks its settings alone") {
    Fixture kv(Kind::plain);
    const auto etag = [&] { return kv.call(GetNamespace{kv.ns, {}})->etag; };
    const auto is_unchanged = [&](const std::string& tag) { return kv.call(GetNamespace{kv.ns, {tag}})->not_modified; };
    const std::string first = etag();
    CHECK(is_unchanged(first));
    REQUIRE(kv.put("k", "v"));
    CHECK_FALSE(is_unchanged(first));  // the revision has moved
    UpdateNamespace update;
    update.ns = kv.ns;
    update.is_secret = true;
    update.precondition.if_match = std::vector<std::string>{first};
    auto updated = kv.call(update);
    REQUIRE_MESSAGE(updated, updated.error().message);
    CHECK(updated->ns.sealing);
    kv.maintain();
    CHECK_FALSE(is_unchanged(updated->etag));  // sealing is done
    update.is_secret.reset();
    update.description = std::optional<std::string>("x");
    CHECK(kv.call(update) == Errc::precondition_failed);
    update.precondition.if_match = std::vector<std::string>{updated->etag};
    CHECK(kv.call(update));
}

// ---- bulk get ----

TEST_CASE("a bulk get fills up in the order asked and names the rest") {
    Options options;
    options.limits.bulk_get_bytes_max = 1000;
    Fixture kv(Kind::secret, options);
    std::vector<std::string> keys;
    for (int i = 0; i < 80; ++i) {
        keys.push_back("k" + std::to_string(99 - i));
        if (i % 10 != 3) REQUIRE(kv.put(keys.back(), std::string(300, 'x')));
    }
    auto reply = kv.call(kv.bulk_get_request(keys));
    REQUIRE(reply);
    CHECK(reply->entries.size() == 4);
    CHECK(reply->entries[0].key_path == "k99");
    CHECK(reply->entries[3].key_path == "k95");
    CHECK(reply->missing.front() == "k96");
    CHECK(reply->entries.size() + reply->missing.size() + reply->remaining.size() == 80);
    // Asking for what remains comes to an end, and then everything was there.
    std::size_t found = reply->entries.size();
    std::size_t missing = reply->missing.size();
    while (!reply->remaining.empty()) {
        auto next = kv.call(kv.bulk_get_request(reply->remaining));
        REQUIRE(next);
        CHECK_FALSE(next->entries.empty());
        found += next->entries.size();
        missing += next->missing.size();
        reply = std::move(next);
    }
    CHECK(found == 72);
    CHECK(missing == 8);
}

TEST_CASE("one denied key denies a bulk get and is named; the denial is on record") {
    Fixture kv;
    for (const char* key : {"a/1", "b/1", "c"}) REQUIRE(kv.put(key, "v"));
    kv.new_audit();
    auto reply = kv.call_as(holding({Permission::entry_read}, {"a/**"}), kv.bulk_get_request({"a/1", "b/1", "c"}));
    REQUIRE(reply == Errc::permission_denied);
    REQUIRE(reply.error().items.size() == 2);
    CHECK(reply.error().items[0].key_path == "b/1");
    CHECK(reply.error().items[1].key_path == "c");
    CHECK(kv.new_audit() == "audit READ b/1 permission-denied\naudit READ c permission-denied\n");
    CHECK(kv.store->stats().denials == 1);
}

// ---- who may ----

TEST_CASE("each operation needs its permission, and without a grant there is no namespace") {
    using P = Permission;
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.put("k", "two"));
    const auto requests = every_operation(kv);
    // In the order of every_operation().
    const std::vector<std::optional<P>> needed = {
        P::entry_read,   P::entry_read,    P::entry_read,    P::namespace_read, P::entry_read, P::namespace_read,
        P::entry_read,   P::entry_read,    P::entry_read,    P::entry_read,     P::audit_read, P::entry_write,
        P::entry_write,  P::entry_write,   P::entry_delete,  P::entry_delete,   P::secret_rotate, P::secret_rotate,
        P::entry_write,  P::entry_write,   P::entry_delete,  P::entry_delete,   P::namespace_write, P::namespace_delete};
    REQUIRE(needed.size() == requests.size());
    Grant elsewhere;
    elsewhere.permissions = PermissionSet::all();
    elsewhere.namespaces = NamespaceName{"app", "another"};
    const Actor stranger = Actor::with_grants("stranger", {elsewhere});
    for (std::size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        kv.new_audit();
        const std::string before = kv.rows();
        CHECK(code_of(kv.store->wait(stranger, requests[i])) == "not-found");
        // Everything but the one that is needed.
        PermissionSet others;
        for (int p = 0; p < permission_count; ++p) {
            if (static_cast<P>(p) != *needed[i]) others.add(static_cast<P>(p));
        }
        const auto denied = kv.store->wait(holding(others), requests[i]);
        // A bulk that judges each item answers item by item.
        if (const auto* set = std::get_if<BulkSet>(&requests[i]); set && !set->atomic && denied) {
            CHECK(std::get<BulkSetReply>(*denied).results[0].error->code == Errc::permission_denied);
        } else {
            CHECK(code_of(denied) == "permission-denied");
        }
        CHECK(kv.rows() == before);
        const std::string audit = kv.new_audit();
        CHECK(audit.find(" ok\n") == std::string::npos);
        CHECK(std::count(audit.begin(), audit.end(), '\n') >= 2);
    }
    // With all of them each works, apart from what is not there.
    for (const Request& request : requests) {
        const std::string code = code_of(kv.store->wait(holding(PermissionSet::all()), request));
        CHECK((code == "ok" || code == "not-found"));
    }
}

TEST_CASE("a stranger cannot tell a namespace from one that never was") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    Grant elsewhere;
    elsewhere.permissions = PermissionSet::all();
    elsewhere.application_id = "other";
    const Actor stranger = Actor::with_grants("stranger", {elsewhere});
    const auto words = [&](const Request& request) {
        auto reply = kv.store->wait(stranger, request);
        REQUIRE_FALSE(reply);
        const Error& error = reply.error();
        return std::string(code_name(error.code)) + error.message + error.field + error.key_path + std::to_string(error.items.size());
    };
    const auto here = every_operation(kv);
    kv.ns = *Uuid::parse("01890000-0000-7000-8000-0000000000ff");
    const auto nowhere = every_operation(kv);
    for (std::size_t i = 0; i < here.size(); ++i) CHECK(words(here[i]) == words(nowhere[i]));
}

TEST_CASE("what is refused before it is looked at is on record, without what cannot be text") {
    Fixture kv;
    CHECK(kv.put("bad//key", "v") == Errc::invalid_key);
    CHECK(kv.put("a/rotate", "v") == Errc::reserved_key_segment);
    CHECK(kv.put("bad\xff", "v") == Errc::invalid_key);
    CHECK(kv.get("bad\nkey") == "!invalid-key");
    CHECK(kv.new_audit() == "audit WRITE bad//key invalid-key\n"
                            "audit WRITE a/rotate reserved-key-segment\n"
                            "audit WRITE invalid-key\n"
                            "audit READ invalid-key\n");
    Actor broken = Actor::trusted("bad\xff\xfe");
    broken.request_id = "not visible\n";
    CHECK(kv.call_as(broken, kv.get_request("k")) == Errc::invalid_request);
    const AuditRecord record = kv.audit_rows().back().record;
    CHECK(record.user_id == "");
    CHECK(record.request_id == "");
    CHECK(record.reason == "invalid-request");
    BulkSet set = kv.bulk_set_request({{"good", "1"}, {"bad\xff", "2"}}, false);
    auto reply = kv.call(set);
    REQUIRE(reply);
    CHECK(reply->results[0].status == BulkSetResult::Status::created);
    CHECK(reply->results[1].error->code == Errc::invalid_key);
    auto removed = kv.call(kv.bulk_delete_request({"good", "bad\xff"}, false));
    REQUIRE(removed);
    CHECK(removed->failed.size() == 1);
    for (const AuditRow& row : kv.audit_rows()) CHECK(row.record.key_path.find('\xff') == std::string::npos);
}

TEST_CASE("a front end's own refusals are recorded as it says") {
    Fixture kv;
    RecordRefusal refusal;
    refusal.action = AuditAction::write;
    refusal.operation = "entry.put";
    refusal.key_path = "some/key";
    refusal.reason = Errc::unauthenticated;
    CHECK(kv.call(refusal));
    CHECK(kv.new_audit() == "audit WRITE some/key unauthenticated\n");
}

// ---- tampering ----

TEST_CASE("a namespace row that was changed outside is refused by every operation, and nothing is written") {
    const std::vector<std::function<void(NamespaceRow&)>> changes = {
        [](NamespaceRow& row) { row.is_secret = false; },
        [](NamespaceRow& row) { row.sealing = true; },
        [](NamespaceRow& row) { row.key_generation = 0; },
        [](NamespaceRow& row) { row.key_generation = 2; },
        [](NamespaceRow& row) { row.application_id = "another"; },
        [](NamespaceRow& row) { row.mac[5] ^= 1; },
        [](NamespaceRow& row) { row.is_secret = false, row.key_generation = 0; },
    };
    for (std::size_t i = 0; i < changes.size(); ++i) {
        CAPTURE(i);
        Fixture kv;
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("k", "two"));
        REQUIRE(kv.put("due", "x", Ttl::after(1)));
        kv.clock.pass(10s);
        NamespaceRow row = kv.namespace_row();
        changes[i](row);
        Changeset tampered;
        tampered.namespaces.push_back(row);
        kv.tamper(tampered);
        const std::uint64_t revision = row.revision;
        for (const Request& request : every_operation(kv)) {
            const auto reply = kv.store->wait(kv.actor, request);
            CHECK(code_of(reply) == "integrity");
        }
        ListNamespaces all;
        CHECK(kv.call(all)->items.empty());
        kv.maintain();
        CHECK(kv.namespace_row().revision == revision);
        CHECK(kv.namespace_row().mac == row.mac);  // above all it was not signed anew
        CHECK(kv.entry_row("k")->version == 2);
        CHECK_FALSE(kv.entry_row("due")->is_tombstone);
        CHECK(kv.store->stats().integrity_failures == every_operation(kv).size());
    }
}

TEST_CASE("a value moved, swapped, cut or put under another version, key or type never opens") {
    struct Case {
        const char* what;
        std::function<void(EntryRow&, const EntryRow& other, const VersionRow& old)> change;
    };
    const std::vector<Case> cases = {
        {"the value of another entry", [](EntryRow& row, const EntryRow& other, const VersionRow&) { row.value = other.value; }},
        {"an older value", [](EntryRow& row, const EntryRow&, const VersionRow& old) { row.value = old.value; }},
        {"another version", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.version += 1; }},
        {"another type", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.value_type = ValueType::json; }},
        {"another key", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.key_path = "moved"; }},
        {"another generation", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.key_generation = 2; }},
        {"said to be plain", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.key_generation = 0; }},
        {"plain", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.key_generation = 0, row.value = "planted"; }},
        {"a flipped bit", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.value.back() ^= 1; }},
        {"cut", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.value.pop_back(); }},
        {"empty", [](EntryRow& row, const EntryRow&, const VersionRow&) { row.value.clear(); }},
    };
    for (const Case& one : cases) {
        CAPTURE(one.what);
        Fixture kv;
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("k", "two"));
        REQUIRE(kv.put("other", "else"));
        EntryRow row = *kv.entry_row("k");
        one.change(row, *kv.entry_row("other"), kv.archived(row.id).at(0));
        Changeset tampered;
        tampered.entries.push_back(row);
        kv.tamper(tampered);
        CHECK(kv.get(row.key_path) == "!integrity");
        auto list = kv.call(kv.list_request(row.key_path));
        REQUIRE(list);
        REQUIRE(list->items.size() == 1);
        CHECK(list->items[0].error->code == Errc::integrity);
        CHECK_FALSE(list->items[0].value);
        auto bulk = kv.call(kv.bulk_get_request({row.key_path, "other"}));
        REQUIRE(bulk);
        CHECK(bulk->entries[0].error->code == Errc::integrity);
        CHECK(bulk->entries[1].value->reveal() == "else");
        auto versions = kv.call(kv.versions_request(row.key_path));
        REQUIRE(versions);
        CHECK(versions->items[0].error->code == Errc::integrity);
        CHECK(kv.new_audit().find("integrity") != std::string::npos);
        CHECK(kv.get("other") == "else");
    }
}

TEST_CASE("an archived value that was tampered with never opens, nor can it be rolled back to") {
    const std::vector<std::function<void(VersionRow&, const EntryRow&)>> cases = {
        [](VersionRow& row, const EntryRow& current) { row.value = current.value; },
        [](VersionRow& row, const EntryRow&) { row.value_type = ValueType::json; },
        [](VersionRow& row, const EntryRow&) { row.key_generation = 0, row.value = "planted"; },
        [](VersionRow& row, const EntryRow&) { row.value[20] ^= 4; },
    };
    for (const auto& change : cases) {
        Fixture kv;
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("k", "two"));
        const EntryRow current = *kv.entry_row("k");
        VersionRow row = kv.archived(current.id).at(0);
        change(row, current);
        Changeset erase;
        erase.erase_versions.push_back({row.entry_id, 1, 1});
        kv.tamper(erase);
        Changeset insert;
        insert.versions.push_back(row);
        kv.tamper(insert);
        CHECK(kv.get("k", 1) == "!integrity");
        CHECK(kv.call(kv.rollback_request("k")) == Errc::integrity);
        CHECK(kv.call(kv.rollback_request("k", 1)) == Errc::integrity);
        CHECK(kv.get("k") == "two");
        CHECK(kv.entry_row("k")->version == 2);
        auto versions = kv.call(kv.versions_request("k"));
        REQUIRE(versions);
        CHECK(versions->items[0].value->reveal() == "two");
        CHECK(versions->items[1].error->code == Errc::integrity);
    }
}

TEST_CASE("values of two namespaces cannot be exchanged") {
    Fixture kv;
    REQUIRE(kv.put("k", "here"));
    const EntryRow here = *kv.entry_row("k");
    kv.ns = kv.make_namespace("other", Kind::secret);
    REQUIRE(kv.put("k", "there"));
    EntryRow there = *kv.entry_row("k");
    there.value = here.value;
    Changeset tampered;
    tampered.entries.push_back(there);
    kv.tamper(tampered);
    CHECK(kv.get("k") == "!integrity");
}

TEST_CASE("a secret is in no row, event, record or error in the clear") {
    Fixture kv;
    const std::string secret = "correct horse battery staple";
    REQUIRE(kv.put("k", secret));
    REQUIRE(kv.call(kv.rotate_request("k", secret + "2")));
    REQUIRE(kv.call(kv.rollback_request("k")));
    CHECK(kv.get("k") == secret);
    const EntryRow row = *kv.entry_row("k");
    CHECK(row.value.find(secret) == std::string::npos);
    for (const VersionRow& version : kv.archived(row.id)) CHECK(version.value.find(secret) == std::string::npos);
    PutEntry wrong = kv.put_request("k", secret);
    wrong.write.value.type = ValueType::number;
    auto refused = kv.call(wrong);
    REQUIRE_FALSE(refused);
    CHECK((refused.error().message + refused.error().detail).find("horse") == std::string::npos);
}

TEST_CASE("the clock may go back: nothing that had expired comes back to life") {
    Fixture kv;
    REQUIRE(kv.put("k", "v", Ttl::after(10)));
    kv.clock.pass(20s);
    REQUIRE(kv.put("other", "v"));
    kv.clock.pass(-15s);  // before the expiry again, by this clock
    CHECK(kv.get("k") == "!not-found");
    CHECK(keys_of(*kv.call(kv.list_request())) == "other ");
    CHECK(kv.call(kv.bulk_get_request({"k"}))->missing.size() == 1);
    CHECK(kv.call(kv.versions_request("k")) == Errc::not_found);
    Precondition fresh;
    fresh.expected_version = 0;
    auto put = kv.call(kv.put_request("k", "w", {}, fresh));
    REQUIRE(put);
    CHECK(put->created);
}

// ---- namespaces ----

TEST_CASE("namespaces are listed page by page, each once, as far as they may be seen") {
    Fixture kv;
    std::vector<std::string> names;
    for (const char* app : {"a", "b"}) {
        if (app == std::string("b")) names.push_back("app~ns");  // sorted by application first
        for (int i = 0; i < 5; ++i) {
            CreateNamespace create;
            create.application_id = app;
            create.name = "n" + std::to_string(i);
            REQUIRE(kv.call(create));
            names.push_back(std::string(app) + "~n" + std::to_string(i));
        }
    }
    const auto list = [&](const Actor& who, ListNamespaces request) {
        std::vector<std::string> seen;
        for (std::optional<std::string> next = ""; next;) {
            request.page.cursor = *next;
            auto page = kv.call_as(who, request);
            REQUIRE(page);
            for (const Namespace& ns : page->items) seen.push_back(ns.application_id + "~" + ns.name);
            next = page->next_cursor;
        }
        return seen;
    };
    for (std::uint64_t limit = 1; limit < 13; ++limit) {
        ListNamespaces request;
        request.page.limit = limit;
        CHECK(list(kv.actor, request) == names);
        Grant grant;
        grant.permissions = {Permission::namespace_read};
        grant.application_id = "b";
        CHECK(list(Actor::with_grants("u", {grant}), request).size() == 5);
        request.application_id = "a";
        CHECK(list(kv.actor, request).size() == 5);
        request.name = "n3";
        CHECK(list(kv.actor, request) == std::vector<std::string>{"a~n3"});
    }
    CHECK(kv.call_as(holding({Permission::entry_read}), ListNamespaces{}) == Errc::permission_denied);
}

TEST_CASE("a wrong master key is told, and nothing is written") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    kv.close();
    Options wrong = kv.options;
    wrong.keys = make_fixed_key(SecretBytes("another key of thirty-two bytes!"));
    const std::size_t rows = kv.audit_rows().size();
    CHECK(Store::open(std::make_unique<FaultStorage>(*kv.storage, kv.faults), wrong) == Errc::wrong_key);
    CHECK(kv.audit_rows().size() == rows);
    kv.open();
    CHECK(kv.get("k") == "v");
}

TEST_CASE("a namespace that takes over a name takes over no ETag") {
    Fixture kv;
    const auto first = kv.call(PutEntry{.ns = kv.ns, .write = {.key_path = "a", .value = ValueInput::text("one")}});
    REQUIRE(first);
    const auto described = kv.call(GetNamespace{kv.ns, {}});
    REQUIRE(described);
    REQUIRE(kv.call(DeleteNamespace{.ns = kv.ns}));
    CreateNamespace create;
    create.name = described->ns.name;
    create.application_id = described->ns.application_id;
    create.is_secret = described->ns.is_secret;
    const auto created = kv.call(create);
    REQUIRE(created);
    CHECK(created->etag != described->etag);
    const auto second = kv.call(PutEntry{.ns = NamespaceRef(created->ns.id), .write = {.key_path = "a", .value = ValueInput::text("two")}});
    REQUIRE(second);
    CHECK(second->entry.revision == first->entry.revision);
    CHECK(second->etag != first->etag);
}
