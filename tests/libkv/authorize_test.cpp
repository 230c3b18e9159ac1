#include "authorize.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "plan.h"

using namespace kv;

namespace {

const NamespaceId production_id = *Uuid::parse("01890000-0000-7000-8000-000000000001");
const NamespaceId other_id = *Uuid::parse("01890000-0000-7000-8000-000000000002");

NamespaceRow production() {
    NamespaceRow row;
    row.id = production_id;
    row.application_id = "app";
    row.name = "production";
    return row;
}

KeyPattern pattern(std::string_view text) { return *KeyPattern::parse(text); }

Actor holding(Grant grant) { return Actor::with_grants("u", {std::move(grant)}); }

// Every way to select namespaces, and whether it selects production().
struct Selection {
    const char* application_id;
    decltype(Grant::namespaces) namespaces;
    bool selects;
};

std::vector<Selection> selections() {
    return {
        {"*", Grant::AnyNamespace{}, true},
        {"app", Grant::AnyNamespace{}, true},
        {"other", Grant::AnyNamespace{}, false},
        {"", Grant::AnyNamespace{}, false},
        {"*", production_id, true},
        {"app", production_id, true},
        {"other", production_id, false},
        {"*", other_id, false},
        {"app", other_id, false},
        {"*", NamespaceName{"app", "production"}, true},
        {"app", NamespaceName{"app", "production"}, true},
        {"other", NamespaceName{"app", "production"}, false},
        {"*", NamespaceName{"app", "staging"}, false},
        {"*", NamespaceName{"other", "production"}, false},
        {"app", NamespaceName{"*", "production"}, false},
    };
}

struct Keys {
    std::vector<KeyPattern> patterns;
    bool is_all;
};

std::vector<Keys> key_sets() {
    return {
        {{}, false},
        {{pattern("*")}, true},
        {{pattern("db/host")}, false},
        {{pattern("db/**")}, false},
        {{pattern("db/host"), pattern("api/**")}, false},
        {{pattern("db/host"), pattern("*")}, true},
    };
}

const std::vector<std::string> probes = {"db",      "db/host", "db/hos",  "db/host2", "db/host/x", "db-x", "db0",
                                         "api",     "api/a",   "api/a/b", "apix",     "a",         "zz",   "db/",
                                         "db/\xff", "db.",     "d"};

bool any_matches(const std::vector<KeyPattern>& patterns, const std::string& key) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const KeyPattern& one) { return one.matches(key); });
}

bool inside(const std::vector<KeyRange>& ranges, const std::string& key) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const KeyRange& range) { return key >= range.from && (range.to.empty() || key < range.to); });
}

bool is_sorted_and_disjoint(const std::vector<KeyRange>& ranges) {
    for (std::size_t i = 0; i < ranges.size(); ++i) {
        if (!ranges[i].to.empty() && ranges[i].from >= ranges[i].to) return false;
        if (i + 1 < ranges.size() && (ranges[i].to.empty() || ranges[i].to > ranges[i + 1].from)) return false;
    }
    return true;
}

}  // namespace

TEST_CASE("a key pattern is an exact path, a folder, or all keys") {
    CHECK(pattern("*").matches("anything/at/all"));
    CHECK(pattern("db/host").matches("db/host"));
    CHECK_FALSE(pattern("db/host").matches("db/host/x"));
    CHECK_FALSE(pattern("db/host").matches("db/hos"));
    CHECK(pattern("db/**").matches("db/host"));
    CHECK(pattern("db/**").matches("db/a/b"));
    CHECK_FALSE(pattern("db/**").matches("db"));
    CHECK_FALSE(pattern("db/**").matches("dbx/host"));
    for (const char* bad : {"", "/", "/a", "a/", "**", "a*", "a/*", "*/a", "a/**/b", "a//b", "/**", "a/**/**"}) {
        CAPTURE(bad);
        CHECK_FALSE(KeyPattern::parse(bad));
    }
}

TEST_CASE("every permission holds just where a grant gives it") {
    const NamespaceRow ns = production();
    for (int given = 0; given < permission_count; ++given) {
        for (const Selection& selection : selections()) {
            for (const Keys& keys : key_sets()) {
                Grant grant;
                grant.permissions = {static_cast<Permission>(given)};
                grant.application_id = selection.application_id;
                grant.namespaces = selection.namespaces;
                grant.keys = keys.patterns;
                const Actor actor = holding(grant);
                const Rights rights(actor, ns);
                CHECK(rights.touches() == (selection.selects && !keys.patterns.empty()));
                for (int asked = 0; asked < permission_count; ++asked) {
                    const auto permission = static_cast<Permission>(asked);
                    const bool holds = selection.selects && asked == given;
                    CHECK(rights.allows(permission) == (holds && keys.is_all));
                    CHECK(rights.allows_somewhere(permission) == (holds && !keys.patterns.empty()));
                    CHECK(holds_anywhere(actor, permission) == (asked == given && !keys.patterns.empty()));
                    const auto ranges = rights.ranges(permission);
                    CHECK(is_sorted_and_disjoint(ranges));
                    for (const std::string& key : probes) {
                        const bool is_allowed = rights.allows(permission, key);
                        CHECK(is_allowed == (holds && any_matches(keys.patterns, key)));
                        // "db/" is inside its folder's range, but no entry can have that key.
                        if (!key.ends_with('/')) CHECK(inside(ranges, key) == is_allowed);
                    }
                }
            }
        }
    }
}

TEST_CASE("permissions do not add up across grants for other namespaces") {
    Grant reads_here;
    reads_here.permissions = {Permission::entry_read};
    reads_here.namespaces = production_id;
    Grant writes_there;
    writes_there.permissions = PermissionSet::all();
    writes_there.namespaces = other_id;
    const Actor actor = Actor::with_grants("u", {reads_here, writes_there});
    const NamespaceRow ns = production();
    CHECK(Rights(actor, ns).allows(Permission::entry_read));
    CHECK_FALSE(Rights(actor, ns).allows(Permission::entry_write));
    CHECK_FALSE(Rights(actor, ns).allows_somewhere(Permission::entry_write));
    CHECK(holds_anywhere(actor, Permission::entry_write));
}

TEST_CASE("grants on parts of the keys never make a grant on the whole namespace") {
    Grant grant;
    grant.permissions = PermissionSet::all();
    grant.keys = {pattern("a/**"), pattern("b/**"), pattern("c")};
    const Actor actor = holding(grant);
    const NamespaceRow ns = production();
    CHECK_FALSE(Rights(actor, ns).allows(Permission::namespace_write));
    CHECK(Rights(actor, ns).allows_somewhere(Permission::namespace_write));
}

TEST_CASE("an actor without grants may nothing and touches nothing") {
    Actor nobody;
    nobody.user_id = "nobody";
    const NamespaceRow ns = production();
    Grant empty;
    for (const Actor& actor : {nobody, Actor::with_grants("nobody", {}), Actor::with_grants("nobody", {empty})}) {
        CHECK_FALSE(Rights(actor, ns).touches());
        for (int i = 0; i < permission_count; ++i) {
            const auto permission = static_cast<Permission>(i);
            CHECK_FALSE(Rights(actor, ns).allows(permission));
            CHECK_FALSE(Rights(actor, ns).allows(permission, "a"));
            CHECK_FALSE(holds_anywhere(actor, permission));
            CHECK(Rights(actor, ns).ranges(permission).empty());
        }
    }
}

TEST_CASE("a trusted actor may everything") {
    const Actor actor = Actor::trusted("host");
    const NamespaceRow ns = production();
    CHECK(Rights(actor, ns).touches());
    for (int i = 0; i < permission_count; ++i) {
        const auto permission = static_cast<Permission>(i);
        CHECK(Rights(actor, ns).allows(permission));
        CHECK(Rights(actor, ns).allows(permission, "a"));
        CHECK(holds_anywhere(actor, permission));
        CHECK(Rights(actor, ns).ranges(permission) == std::vector<KeyRange>{KeyRange{}});
    }
}

TEST_CASE("a namespace that no grant touches looks exactly like one that does not exist") {
    Grant elsewhere;
    elsewhere.permissions = PermissionSet::all();
    elsewhere.namespaces = other_id;
    const Actor actor = holding(elsewhere);
    const NamespaceRow ns = production();
    NamespaceRow deleted = production();
    deleted.deleted_at = Time(std::chrono::seconds(1));
    const auto missing = may_touch(actor, nullptr);
    const auto untouched = may_touch(actor, &ns);
    const auto gone = may_touch(Actor::trusted("host"), &deleted);
    REQUIRE(missing == Errc::not_found);
    REQUIRE(untouched == Errc::not_found);
    REQUIRE(gone == Errc::not_found);
    auto text = [](Result<void> result) { return result.error().message + "|" + result.error().key_path + "|" + result.error().field; };
    CHECK(text(missing) == text(untouched));
    CHECK(text(missing) == text(gone));
}

TEST_CASE("some grant, but not the one that is needed, is a refusal that says which") {
    Grant grant;
    grant.permissions = {Permission::entry_read};
    grant.keys = {pattern("db/**")};
    const Actor actor = holding(grant);
    const NamespaceRow ns = production();
    CHECK(may(actor, &ns, Permission::entry_read, "db/host"));
    auto other_key = may(actor, &ns, Permission::entry_read, "api/token");
    REQUIRE(other_key == Errc::permission_denied);
    CHECK(other_key.error().key_path == "api/token");
    CHECK(other_key.error().message == "This needs the permission kv-entry:read.");
    CHECK(may(actor, &ns, Permission::entry_write, "db/host") == Errc::permission_denied);
    CHECK(may(actor, &ns, Permission::entry_read) == Errc::permission_denied);
    CHECK(may(actor, nullptr, Permission::entry_read) == Errc::not_found);
}

TEST_CASE("the end of a prefix is the first string above everything that begins with it") {
    CHECK(prefix_end("").empty());
    CHECK(prefix_end("a") == "b");
    CHECK(prefix_end("a/") == "a0");
    CHECK(prefix_end("a\xff") == "b");
    CHECK(prefix_end("a\xff\xff") == "b");
    CHECK(prefix_end("\xff\xff").empty());
    CHECK(prefix_end("\x7f") == "\x80");
}

TEST_CASE("a prefix's range holds just the keys that begin with it") {
    std::mt19937_64 random(7);
    const std::string letters("a/b\xfe\xff", 5);
    const auto text = [&](std::size_t longest) {
        std::string out(random() % (longest + 1), ' ');
        for (char& c : out) c = letters[random() % letters.size()];
        return out;
    };
    for (int i = 0; i < 20'000; ++i) {
        const std::string prefix = text(3);
        const std::string key = text(6);
        CAPTURE(prefix);
        CAPTURE(key);
        CHECK(inside({prefix_range(prefix)}, key) == key.starts_with(prefix));
    }
}

TEST_CASE("ranges of many patterns hold just the keys that a pattern matches") {
    std::mt19937_64 random(11);
    const auto key = [&] {
        std::string out(1, "abc"[random() % 3]);
        while (random() % 2 == 0) out += std::string("/") + "abc"[random() % 3];
        return out;
    };
    const NamespaceRow ns = production();
    for (int i = 0; i < 3'000; ++i) {
        Grant grant;
        grant.permissions = {Permission::entry_read};
        grant.keys.clear();
        for (std::size_t n = random() % 6; n > 0; --n) grant.keys.push_back(pattern(random() % 2 == 0 ? key() : key() + "/**"));
        const Actor actor = holding(grant);
        const auto ranges = Rights(actor, ns).ranges(Permission::entry_read);
        CHECK(is_sorted_and_disjoint(ranges));
        for (int probe = 0; probe < 20; ++probe) {
            const std::string path = key();
            CHECK(inside(ranges, path) == any_matches(grant.keys, path));
        }
    }
}

TEST_CASE("an intersection holds just what lies in both") {
    std::mt19937_64 random(13);
    const auto text = [&] {
        std::string out(random() % 3, ' ');
        for (char& c : out) c = static_cast<char>('a' + random() % 4);
        return out;
    };
    // Sorted and disjoint; the last may be open.
    const auto ranges = [&] {
        std::vector<std::string> cuts;
        for (std::size_t n = random() % 8; n > 0; --n) cuts.push_back(text());
        std::sort(cuts.begin(), cuts.end());
        cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
        std::vector<KeyRange> out;
        for (std::size_t i = 0; i < cuts.size(); i += 2) out.push_back({cuts[i], i + 1 < cuts.size() ? cuts[i + 1] : ""});
        return out;
    };
    for (int i = 0; i < 5'000; ++i) {
        const auto a = ranges();
        const auto b = ranges();
        const auto common = intersect(a, b);
        CHECK(is_sorted_and_disjoint(common));
        for (int probe = 0; probe < 30; ++probe) {
            const std::string key = text();
            CHECK(inside(common, key) == (inside(a, key) && inside(b, key)));
        }
    }
}
