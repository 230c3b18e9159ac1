#include "audit.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "fixture.h"
#include "text.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

std::vector<AuditRow> all_rows(const Fixture& kv) {
    AuditRange range;
    range.newest_first = false;
    range.limit = range.walk = 1'000'000;
    return kv.storage->scan_audit(range).value().rows;
}

}  // namespace

TEST_CASE("every row of the audit log follows from the one before it, and the head is the last one") {
    Fixture kv;
    const auto is_sound = [&] {
        CHECK(audit_fault(*kv.storage, *kv.keys) == "");
        const AuditHead head = kv.store->audit_heads().front();
        const auto stored = kv.storage->get_audit_heads(std::span(&head.stream, 1)).value().at(0);
        CHECK(stored.sequence == head.sequence);
        CHECK(stored.mac == head.mac);
    };
    for (int i = 0; i < 20; ++i) {
        REQUIRE(kv.put("k" + std::to_string(i), "v"));
        is_sound();
        kv.get("k0");
        is_sound();
        CHECK(kv.call(kv.delete_request("missing")) == Errc::not_found);
        is_sound();
    }
    std::vector<Request> many;
    for (int i = 0; i < 50; ++i) many.push_back(kv.put_request("k", "v"));
    kv.together(std::move(many));
    is_sound();
}

TEST_CASE("a changed, removed or exchanged row of the audit log shows") {
    Fixture kv;
    REQUIRE(kv.put("a", "v"));
    REQUIRE(kv.put("b", "v"));
    const auto rows = all_rows(kv);
    const crypto::Key key = kv.keys->audit_stream_key(rows[0].record.stream);
    Mac mac{};
    for (const AuditRow& row : rows) {
        CHECK(audit_mac(key, mac, row.record) == row.mac);
        const std::vector<std::function<void(AuditRecord&)>> changes = {
            [](AuditRecord& r) { r.timestamp += 1us; },    [](AuditRecord& r) { r.sequence += 1; },
            [](AuditRecord& r) { r.key_path += "x"; },     [](AuditRecord& r) { r.action = AuditAction::rollback; },
            [](AuditRecord& r) { r.user_id += "x"; },      [](AuditRecord& r) { r.credential_id += "x"; },
            [](AuditRecord& r) { r.application_id += "x"; }, [](AuditRecord& r) { r.peer += "x"; },
            [](AuditRecord& r) { r.request_id += "x"; },   [](AuditRecord& r) { r.success = !r.success; },
            [](AuditRecord& r) { r.reason += "x"; },       [](AuditRecord& r) { r.version = r.version.value_or(0) + 1; },
            [](AuditRecord& r) { r.count += 1; },          [](AuditRecord& r) { r.operation += "x"; },
            [](AuditRecord& r) { r.namespace_id = Uuid{}; }, [](AuditRecord& r) { r.entry_id = Uuid{}; },
            [](AuditRecord& r) { std::swap(r.key_path, r.operation); },
        };
        for (const auto& change : changes) {
            AuditRecord changed = row.record;
            change(changed);
            CHECK(audit_mac(key, mac, changed) != row.mac);
        }
        const Mac previous = mac;
        mac = row.mac;
        CHECK(audit_mac(key, previous, row.record) == row.mac);
    }
}

TEST_CASE("a stream opens when something is to be recorded and ends with its closing") {
    Fixture kv;
    const StreamId first = kv.store->audit_heads().front().stream;
    REQUIRE(kv.put("k", "v"));
    kv.close();
    auto rows = all_rows(kv);
    CHECK(rows.front().record.operation == "audit.open");
    CHECK(rows.back().record.operation == "audit.close");
    CHECK(rows.back().record.user_id == "system");
    CHECK(kv.storage->get_audit_heads(std::span(&first, 1)).value()[0].state == HeadState::closed);
    // A store that does nothing leaves no trace.
    kv.open();
    kv.close();
    CHECK(all_rows(kv).size() == rows.size());
    kv.open();
    kv.get("k");
    CHECK(kv.store->audit_heads().front().stream != first);
    kv.close();
    const auto after = all_rows(kv);
    CHECK(after.size() == rows.size() + 4);
    // It names the stream before it, once: from then on that one cannot go unnoticed.
    CHECK(after[rows.size() + 1].record.operation == "audit.closed");
    const auto named = read_head_record(after[rows.size() + 1].record);
    REQUIRE(named);
    CHECK(named->stream == first);
    CHECK(named->sequence == rows.size());
    CHECK(named->mac == rows.back().mac);
    CHECK(kv.storage->get_audit_heads(std::span(&first, 1)).value()[0].state == HeadState::witnessed);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("a stream that nobody closed is named at the next opening, with its head") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    const AuditHead left = kv.store->audit_heads().front();
    kv.faults.fail_writes(Errc::unavailable, 1);  // closing fails
    kv.close();
    CHECK(kv.storage->get_audit_heads(std::span(&left.stream, 1)).value()[0].state == HeadState::open);
    kv.open();
    kv.get("k");
    const auto rows = all_rows(kv);
    const auto named = std::find_if(rows.begin(), rows.end(), [](const AuditRow& row) { return row.record.operation == "audit.unclosed"; });
    REQUIRE(named != rows.end());
    CHECK(named->record.request_id == left.stream.to_string());
    CHECK(named->record.version == left.sequence);
    CHECK(named->record.credential_id == hex_encode({reinterpret_cast<const char*>(left.mac.data()), left.mac.size()}));
    CHECK(named->record.sequence == 2);
    CHECK(kv.storage->get_audit_heads(std::span(&left.stream, 1)).value()[0].state == HeadState::witnessed);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("a record says who, by what, from where, on what, and how it ended") {
    Fixture kv;
    Actor who = Actor::trusted("alice");
    who.credential_id = "token-1";
    who.application_id = "their-app";
    who.peer = "10.0.0.1:1234";
    who.request_id = "req-1";
    const auto put = kv.call_as(who, kv.put_request("k", "v"));
    REQUIRE(put);
    const AuditRecord record = kv.audit_rows().back().record;
    CHECK(record.user_id == "alice");
    CHECK(record.credential_id == "token-1");
    CHECK(record.application_id == "app");  // of the namespace
    CHECK(record.peer == "10.0.0.1:1234");
    CHECK(record.request_id == "req-1");
    CHECK(record.namespace_id == kv.ns);
    CHECK(record.entry_id == put->entry.id);
    CHECK(record.operation == "entry.put");
    CHECK(record.version == 1);
    CHECK(record.timestamp == kv.clock.now());
    CHECK(kv.entry_row("k")->request_id == "req-1");
    // Where the caller has no request id, one is drawn.
    REQUIRE(kv.put("k", "w"));
    CHECK(kv.audit_rows().back().record.request_id.size() == 36);
}

TEST_CASE("the audit log is paged to its end at every limit, in both directions") {
    Fixture kv;
    for (int i = 0; i < 7; ++i) REQUIRE(kv.put("k" + std::to_string(i), "v"));
    CHECK(kv.call(kv.delete_request("missing")) == Errc::not_found);
    for (std::uint64_t limit = 1; limit < 12; ++limit) {
        for (const bool newest_first : {true, false}) {
            ListAudit request;
            request.operation = "entry.put";
            request.newest_first = newest_first;
            request.page.limit = limit;
            std::vector<std::string> seen;
            for (std::optional<std::string> next = ""; next;) {
                request.page.cursor = *next;
                auto page = kv.call(request);
                REQUIRE(page);
                CHECK(page->items.size() <= limit);
                for (const AuditRecord& record : page->items) seen.push_back(record.key_path);
                next = page->next_cursor;
            }
            std::vector<std::string> expected = {"k0", "k1", "k2", "k3", "k4", "k5", "k6"};
            if (newest_first) std::reverse(expected.begin(), expected.end());
            CHECK(seen == expected);
        }
    }
}

TEST_CASE("the audit log is filtered by every member") {
    Fixture kv;
    Actor alice = Actor::trusted("alice");
    alice.credential_id = "token";
    REQUIRE(kv.call_as(alice, kv.put_request("a", "v")));
    kv.clock.pass(10s);
    REQUIRE(kv.put("b", "v"));
    REQUIRE(kv.call(kv.rotate_request("b", "w")));
    CHECK(kv.get("missing") == "!not-found");
    const auto count = [&](auto&& set) {
        ListAudit request;
        set(request);
        auto reply = kv.call(request);
        REQUIRE(reply);
        return reply->items.size();
    };
    CHECK(count([](ListAudit& r) { r.user_id = "alice"; }) == 1);
    CHECK(count([](ListAudit& r) { r.credential_id = "token"; }) == 1);
    CHECK(count([](ListAudit& r) { r.key_path = "b"; }) == 2);
    CHECK(count([](ListAudit& r) { r.key_path = "b", r.action = AuditAction::rotate; }) == 1);
    CHECK(count([](ListAudit& r) { r.success = false; }) == 1);
    CHECK(count([](ListAudit& r) { r.operation = "entry.put"; }) == 2);
    CHECK(count([&](ListAudit& r) { r.operation = "entry.put", r.from = kv.clock.now(); }) == 1);
    CHECK(count([&](ListAudit& r) { r.operation = "entry.put", r.to = kv.clock.now(); }) == 1);
    CHECK(count([&](ListAudit& r) { r.operation = "entry.put", r.ns = kv.ns; }) == 2);
    CHECK(count([&](ListAudit& r) { r.operation = "entry.put", r.ns = NamespaceName{"app", "ns"}; }) == 2);
    ListAudit elsewhere;
    elsewhere.ns = *Uuid::parse("01890000-0000-7000-8000-0000000000ff");
    CHECK(kv.call(elsewhere) == Errc::not_found);
}

TEST_CASE("a filtered page of the audit log may be short, and goes on all the same") {
    Options options;
    options.limits.audit_rows_walked_max = 10;
    Fixture kv(Kind::secret, options);
    REQUIRE(kv.put("needle", "v"));
    for (int i = 0; i < 55; ++i) REQUIRE(kv.put("hay", "v"));
    ListAudit request;
    request.key_path = "needle";
    std::size_t pages = 0;
    std::size_t found = 0;
    for (std::optional<std::string> next = ""; next; ++pages) {
        request.page.cursor = *next;
        auto page = kv.call(request);
        REQUIRE(page);
        for (const AuditRecord& record : page->items) found += record.operation == "entry.put" ? 1 : 0;
        next = page->next_cursor;
    }
    CHECK(found == 1);
    CHECK(pages >= 5);
}

TEST_CASE("the audit log shows only what the caller may know of") {
    Fixture kv;
    REQUIRE(kv.put("a/1", "v"));
    REQUIRE(kv.put("b/1", "v"));
    const NamespaceId first = kv.ns;
    kv.ns = kv.make_namespace("second", Kind::plain);
    REQUIRE(kv.put("a/1", "v"));
    const auto seen = [&](Grant grant) {
        std::multiset<std::string> out;
        auto reply = kv.call_as(Actor::with_grants("auditor", {std::move(grant)}), ListAudit{});
        REQUIRE(reply);
        for (const AuditRecord& record : reply->items) {
            if (record.user_id == "tester") out.insert(record.operation + " " + record.key_path);
        }
        return out;
    };
    Grant all;
    all.permissions = {Permission::audit_read};
    CHECK(seen(all).size() == 5);
    Grant one = all;
    one.namespaces = first;
    CHECK(seen(one) == std::multiset<std::string>{"namespace.create ", "entry.put a/1", "entry.put b/1"});
    Grant keys = all;
    keys.keys = {*KeyPattern::parse("a/**")};
    CHECK(seen(keys) == std::multiset<std::string>{"entry.put a/1", "entry.put a/1"});
    Grant other = all;
    other.application_id = "other";
    CHECK(seen(other).empty());
    Grant none;
    none.permissions = {Permission::entry_read};
    CHECK(kv.call_as(Actor::with_grants("reader", {none}), ListAudit{}) == Errc::permission_denied);
    // Without the permission in this namespace, though held elsewhere.
    Grant touches;
    touches.permissions = {Permission::entry_read};
    ListAudit here;
    here.ns = first;
    CHECK(kv.call_as(Actor::with_grants("mixed", {touches, other}), here) == Errc::permission_denied);
}

TEST_CASE("what happened in a namespace stays on record when it is gone") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    DeleteNamespace remove;
    remove.ns = kv.ns;
    REQUIRE(kv.call(remove));
    ListAudit request;
    request.ns = kv.ns;
    CHECK(kv.call(request)->items.size() == 3);
    remove.purge = true;
    REQUIRE(kv.call(remove));
    CHECK(kv.call(request) == Errc::not_found);
    ListAudit everything;
    everything.key_path = "k";
    CHECK(kv.call(everything)->items.size() == 1);
}

TEST_CASE("an audit cursor is good for its own filters and user only") {
    Fixture kv;
    for (int i = 0; i < 5; ++i) REQUIRE(kv.put("k", "v"));
    ListAudit request;
    request.page.limit = 2;
    const std::string cursor = *kv.call(request)->next_cursor;
    const auto with = [&](auto&& set) {
        ListAudit other;
        other.page.cursor = cursor;
        set(other);
        return other;
    };
    CHECK(kv.call(with([](ListAudit&) {})));
    CHECK(kv.call(with([](ListAudit& r) { r.key_path = "k"; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([](ListAudit& r) { r.user_id = "k"; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([](ListAudit& r) { r.operation = "k"; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([](ListAudit& r) { r.success = true; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([](ListAudit& r) { r.newest_first = false; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([&](ListAudit& r) { r.ns = kv.ns; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([](ListAudit& r) { r.action = AuditAction::read; })) == Errc::invalid_cursor);
    CHECK(kv.call(with([&](ListAudit& r) { r.from = kv.clock.now(); })) == Errc::invalid_cursor);
    CHECK(kv.call(with([&](ListAudit& r) { r.to = kv.clock.now(); })) == Errc::invalid_cursor);
    CHECK(kv.call_as(Actor::trusted("other"), with([](ListAudit&) {})) == Errc::invalid_cursor);
}
