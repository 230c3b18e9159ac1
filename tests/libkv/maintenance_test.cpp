#include "maintenance.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

UpdateNamespace make_secret(const Fixture& kv) {
    UpdateNamespace update;
    update.ns = kv.ns;
    update.is_secret = true;
    return update;
}

DeleteNamespace delete_namespace(const Fixture& kv, bool purge = false) {
    DeleteNamespace request;
    request.ns = kv.ns;
    request.purge = purge;
    return request;
}

std::size_t rows_of(const Fixture& kv, const NamespaceId& ns) {
    DueRange range;
    range.kind = DueRange::Kind::all;
    range.ns = ns;
    range.limit = range.bytes = 1'000'000'000;
    return kv.storage->scan_due(range).value().size();
}

bool exists(const Fixture& kv, const NamespaceId& ns) {
    const EntryRef ref{ns, "", {}};
    return kv.storage->find(std::span(&ref, 1), {}).value()[0].ns != nullptr;
}

}  // namespace

// ---- expiry ----

TEST_CASE("an entry is gone at the instant it expires, everywhere, and its event follows") {
    for (const Kind kind : {Kind::secret, Kind::plain, Kind::no_history}) {
        Fixture kv(kind);
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("k", "two", Ttl::after(10)));
        kv.clock.pass(10s - 1us);
        CHECK(kv.get("k") == "two");
        kv.clock.pass(1us);
        const auto is_gone = [&] {
            CHECK(kv.get("k") == "!not-found");
            CHECK(kv.get("k", 1) == "!not-found");
            CHECK(kv.get("k", 2) == "!not-found");
            CHECK(kv.call(kv.list_request())->items.empty());
            CHECK(kv.call(kv.list_request("", false))->items.empty());
            CHECK(kv.call(kv.bulk_get_request({"k"}))->missing.size() == 1);
            CHECK(kv.call(kv.versions_request("k")) == Errc::not_found);
            CHECK(kv.call(kv.rollback_request("k", 1)) == (kind == Kind::no_history ? Errc::history_disabled : Errc::not_found));
            CHECK(kv.call(kv.patch_request("k", "null")) == Errc::not_found);
            CHECK(kv.call(kv.delete_request("k")) == Errc::not_found);
            CHECK(kv.call(kv.delete_request("k", true)) == Errc::not_found);
            ExportEntries everything;
            everything.ns = kv.ns;
            CHECK(kv.call(everything)->text.reveal().find("two") == std::string_view::npos);
        };
        is_gone();
        kv.new_audit();
        kv.maintain();
        CHECK(kv.new_audit() == "audit DELETE k v3 ok by system\n");
        CHECK(kv.event_lines(2) == "expired k v3 r3\n");
        CHECK(kv.store->stats().expired_entries == 1);
        is_gone();
        // What it held is kept for the grace, out of everybody's reach, and destroyed then.
        CHECK(kv.rows().find("two") != std::string::npos);
        kv.clock.pass(1h - 1us);
        kv.maintain();
        CHECK(kv.rows().find("two") != std::string::npos);
        kv.clock.pass(1us);
        kv.maintain();
        CHECK(kv.rows() == "k v3 expired\n");
        is_gone();
        CHECK(kv.namespace_row().revision == 3);
    }
}

TEST_CASE("a key that expires again and again does not keep what expired long ago") {
    Fixture kv;
    // Put for half an hour each time, and put again when it is over: always within the grace of the last one.
    for (int i = 0; i < 10; ++i) {
        REQUIRE(kv.put("k", "value " + std::to_string(i), Ttl::after(1800)));
        kv.clock.pass(30min);
        kv.maintain();
        const std::string rows = kv.rows();
        for (int old = 0; old <= i; ++old) {
            CAPTURE(i);
            CAPTURE(old);
            // An hour is two rounds.
            CHECK((rows.find("value " + std::to_string(old) + "\n") != std::string::npos) == (i - old < 2));
        }
    }
    kv.clock.pass(1h);
    kv.maintain();
    CHECK(kv.rows() == "k v20 expired\n");
}

TEST_CASE("destroying what expired leaves what was put since alone") {
    Fixture kv;
    REQUIRE(kv.put("k", "old", Ttl::after(10)));
    kv.clock.pass(10s);
    REQUIRE(kv.put("k", "new"));
    REQUIRE(kv.put("k", "newer"));
    kv.clock.pass(2h);
    kv.maintain();
    CHECK(kv.rows() == "k v4 newer\n  v3 CREATE new\n");
    CHECK(kv.get("k", 3) == "new");
    CHECK(kv.get("k", 1) == "!not-found");
    CHECK(kv.call(kv.rollback_request("k"))->entry.version == 5);
}

TEST_CASE("more than a batch expires in one go of rounds") {
    Fixture kv;
    std::vector<std::pair<std::string, std::string>> items;
    for (int batch = 0; batch < 2; ++batch) {
        items.clear();
        for (int i = 0; i < 800; ++i) items.emplace_back("k" + std::to_string(batch) + "/" + std::to_string(i), "v");
        BulkSet set = kv.bulk_set_request(items);
        for (EntryWrite& write : set.entries) write.ttl = Ttl::after(10);
        REQUIRE(kv.call(set));
    }
    kv.clock.pass(10s);
    kv.maintain();
    CHECK(kv.namespace_row().revision == 3200);
    CHECK(kv.store->stats().expired_entries == 1600);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("a store tidies by itself when it is not told not to") {
    SettableClock clock;
    auto storage = make_memory_storage(clock);
    Storage& rows = *storage;
    Options options;
    options.keys = make_fixed_key(fixed_key());
    options.clock = &clock;
    options.maintenance_interval = 1ms;
    auto store = Store::open(std::move(storage), options).value();
    CreateNamespace create;
    create.name = "ns";
    const Actor actor = Actor::trusted("tester");
    const NamespaceId ns = store->call(actor, create).value().ns.id;
    REQUIRE(store->in(ns, actor).put("k", "v", Ttl::after(10)));
    clock.pass(10s);
    CHECK(eventually([&] { return rows.scan_events({{{ns, 1}}, 10}).value().size() == 1; }));
    CHECK(eventually([&] { return store->stats().expired_entries == 1; }));
}

// ---- versions are never used twice ----

TEST_CASE("a forgotten key starts above every version it ever had") {
    for (const Kind kind : {Kind::secret, Kind::no_history}) {
        Fixture kv(kind);
        for (int i = 0; i < 5; ++i) REQUIRE(kv.put("k", "v"));
        REQUIRE(kv.put("other", "v"));
        REQUIRE(kv.call(kv.delete_request("k", true)));
        kv.clock.pass(24h * 30 - 1us);
        kv.maintain();
        CHECK(kv.entry_row("k"));
        kv.clock.pass(1us);
        kv.maintain();
        CHECK_FALSE(kv.entry_row("k"));
        CHECK(kv.namespace_row().version_floor == 6);
        CHECK(kv.put("k", "again")->entry.version == 7);
        CHECK(kv.put("never seen", "v")->entry.version == 7);
        CHECK(kv.put("other", "w")->entry.version == 2);
    }
}

TEST_CASE("a deleted key with history is not forgotten") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.call(kv.delete_request("k")));
    kv.clock.pass(24h * 365);
    kv.maintain();
    CHECK(kv.rows() == "k v2 deleted\n  v1 CREATE one\n");
    CHECK(kv.call(kv.rollback_request("k"))->entry.version == 3);
    CHECK(kv.get("k") == "one");
}

// ---- namespaces ----

TEST_CASE("a deleted namespace is hidden at once, can be restored for a week, and is purged then") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    const NamespaceId old = kv.ns;
    REQUIRE(kv.call(delete_namespace(kv)));
    CHECK(kv.get("k") == "!not-found");
    CHECK(kv.call(kv.put_request("k", "v")) == Errc::not_found);
    CHECK(kv.call(GetNamespace{old, {}}) == Errc::not_found);
    CHECK(kv.call(GetNamespace{NamespaceName{"app", "ns"}, {}}) == Errc::not_found);
    CHECK(kv.call(delete_namespace(kv)) == Errc::not_found);
    CHECK(kv.call(ListNamespaces{})->items.empty());
    ListNamespaces deleted;
    deleted.deleted = true;
    CHECK(kv.call(deleted)->items.size() == 1);

    SUBCASE("restored") {
        kv.clock.pass(24h * 7 - 1us);
        kv.maintain();
        auto restored = kv.call(RestoreNamespace{old});
        REQUIRE(restored);
        CHECK_FALSE(restored->ns.deleted_at);
        CHECK(kv.get("k") == "v");
        CHECK(kv.call(RestoreNamespace{old}) == Errc::not_found);
    }
    SUBCASE("its name is free for another one, and then it cannot be restored") {
        const NamespaceId next = kv.make_namespace("ns", Kind::secret);
        CHECK(next != old);
        CHECK(kv.call(RestoreNamespace{old}) == Errc::namespace_exists);
        kv.ns = next;
        CHECK(kv.get("k") == "!not-found");
        CHECK(kv.put("k", "new"));
        kv.clock.pass(24h * 8);
        kv.maintain();
        CHECK_FALSE(exists(kv, old));
        CHECK(kv.get("k") == "new");
        CHECK(kv.store->in("app", "ns", kv.actor).get<std::string>("k").value() == "new");
    }
    SUBCASE("too late") {
        kv.clock.pass(24h * 7);
        CHECK(kv.call(RestoreNamespace{old}) == Errc::not_found);
        kv.clock.pass(1us);
        kv.maintain();
        CHECK_FALSE(exists(kv, old));
        CHECK(rows_of(kv, old) == 0);
        CHECK(kv.call(RestoreNamespace{old}) == Errc::not_found);
        const KeyRef key{KeyPurpose::data, old, {}};
        CHECK(kv.storage->get_keys(std::span(&key, 1)).value().empty());
    }
}

TEST_CASE("a purge destroys a namespace with all that is in it before it is answered") {
    Fixture kv;
    for (int batch = 0; batch < 2; ++batch) {
        std::vector<std::pair<std::string, std::string>> items;
        for (int i = 0; i < 700; ++i) items.emplace_back(std::to_string(batch) + "/" + std::to_string(i), "v");
        REQUIRE(kv.call(kv.bulk_set_request(items)));
    }
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.put("k", "two"));
    const EntryId id = kv.entry_row("k")->id;
    const NamespaceId doomed = kv.ns;
    kv.new_audit();
    bool was_deleted = false;
    SUBCASE("at once") {}
    SUBCASE("after it was deleted") {
        REQUIRE(kv.call(delete_namespace(kv)));
        was_deleted = true;
    }
    REQUIRE(kv.call(delete_namespace(kv, true)));
    CHECK_FALSE(exists(kv, doomed));
    CHECK(rows_of(kv, doomed) == 0);
    CHECK(kv.archived(id).empty());
    const std::string version = std::to_string(was_deleted ? 3 : 2);
    CHECK(kv.new_audit().ends_with("audit DELETE v" + version + " ok\naudit DELETE ok by system\n"));
    CHECK(kv.call(delete_namespace(kv, true)) == Errc::not_found);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
    kv.ns = kv.make_namespace("ns", Kind::secret);
    CHECK(kv.get("k") == "!not-found");
}

TEST_CASE("a purge that the storage cannot finish says so, and goes on later") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    const NamespaceId doomed = kv.ns;
    kv.faults.judge_apply([](const Changeset& changes) -> std::optional<Errc> {
        if (changes.erase_entries.empty()) return std::nullopt;
        return Errc::storage_full;
    });
    CHECK(kv.call(delete_namespace(kv, true)) == Errc::storage_full);
    CHECK(kv.call(RestoreNamespace{doomed}) == Errc::not_found);
    ListNamespaces deleted;
    deleted.deleted = true;
    CHECK(kv.call(deleted)->items.empty());
    kv.faults.clear();
    kv.maintain();
    CHECK_FALSE(exists(kv, doomed));
}

TEST_CASE("several namespaces that are due are all purged") {
    Fixture kv;
    std::vector<NamespaceId> all = {kv.ns};
    for (int i = 0; i < 3; ++i) all.push_back(kv.make_namespace("n" + std::to_string(i), Kind::plain));
    for (const NamespaceId& id : all) {
        kv.ns = id;
        REQUIRE(kv.call(delete_namespace(kv)));
    }
    kv.clock.pass(24h * 8);
    kv.maintain();
    for (const NamespaceId& id : all) CHECK_FALSE(exists(kv, id));
}

// ---- sealing ----

TEST_CASE("a namespace made secret is sealed in batches, and readable at every moment") {
    Fixture kv(Kind::plain);
    std::vector<std::pair<std::string, std::string>> items;
    for (int i = 0; i < 600; ++i) items.emplace_back("k" + std::to_string(1000 + i), "one " + std::to_string(i));
    REQUIRE(kv.call(kv.bulk_set_request(items)));
    for (auto& item : items) item.second = "two " + item.second;
    REQUIRE(kv.call(kv.bulk_set_request(items)));
    REQUIRE(kv.call(kv.delete_request("k1599")));
    REQUIRE(kv.put("due", "x", Ttl::after(5)));

    auto updated = kv.call(make_secret(kv));
    REQUIRE(updated);
    CHECK(updated->ns.is_secret);
    CHECK(updated->ns.sealing);
    CHECK(kv.put("sealed at once", "y"));
    CHECK(kv.entry_row("sealed at once")->key_generation == 1);
    const auto is_readable = [&] {
        CHECK(kv.get("k1000") == "two one 0");
        CHECK(kv.get("k1000", 1) == "one 0");
        CHECK(kv.get("k1598") == "two one 598");
        CHECK(kv.get("k1598", 1) == "one 598");
        CHECK(kv.call(kv.list_request())->items.size() >= 600);
        CHECK(kv.call(kv.versions_request("k1599"))->items.size() == 3);
    };
    is_readable();
    int rounds = 0;
    while (*kv.store->run_maintenance()) {
        is_readable();
        if (++rounds == 1) {
            CHECK(kv.call(kv.rollback_request("k1001"))->entry.version == 3);
            CHECK(kv.put("k1002", "changed meanwhile"));
        }
    }
    CHECK(rounds >= 4);
    CHECK_FALSE(kv.namespace_row().sealing);
    CHECK(kv.get("k1001") == "one 1");
    CHECK(kv.get("k1002") == "changed meanwhile");
    is_readable();
    DueRange all;
    all.kind = DueRange::Kind::all;
    all.ns = kv.ns;
    all.values = true;
    all.limit = all.bytes = 1'000'000'000;
    const std::vector<EntryRow> rows = kv.storage->scan_due(all).value();
    for (const EntryRow& row : rows) {
        if (!row.is_tombstone) CHECK(row.key_generation == 1);
        for (const VersionRow& version : kv.archived(row.id)) {
            if (!version.is_tombstone) CHECK(version.key_generation == 1);
        }
    }
    // Sealing changed nothing that anybody watches.
    CHECK(kv.namespace_row().revision == 1205);
    UpdateNamespace plain;
    plain.ns = kv.ns;
    plain.is_secret = false;
    CHECK(kv.call(plain) == Errc::immutable);
    CHECK(kv.namespace_row().is_secret);
}

TEST_CASE("after sealing an unsealed value is refused, however it got there") {
    Fixture kv(Kind::plain);
    REQUIRE(kv.put("k", "one"));
    const EntryRow plain = *kv.entry_row("k");
    REQUIRE(kv.call(make_secret(kv)));
    kv.maintain();
    CHECK(kv.get("k") == "one");
    Changeset tampered;
    tampered.entries.push_back(plain);
    kv.tamper(tampered);
    CHECK(kv.get("k") == "!integrity");
}

TEST_CASE("sealing goes on after a restart, where it stopped") {
    Fixture kv(Kind::plain);
    std::vector<std::pair<std::string, std::string>> items;
    for (int i = 0; i < 900; ++i) items.emplace_back("k" + std::to_string(i), "v");
    REQUIRE(kv.call(kv.bulk_set_request(items)));
    REQUIRE(kv.call(make_secret(kv)));
    REQUIRE(*kv.store->run_maintenance());
    kv.close();
    kv.open();
    CHECK(kv.get("k0") == "v");
    CHECK(kv.namespace_row().sealing);
    kv.maintain();
    CHECK_FALSE(kv.namespace_row().sealing);
    CHECK(kv.get("k0") == "v");
    CHECK(kv.get("k899") == "v");
}

TEST_CASE("sealing is not over while a value is unsealed, whoever writes meanwhile") {
    Fixture kv(Kind::plain);
    // Two values of this size to a batch.
    const std::string text((1u << 20) - 1, 'x');
    for (const char* key : {"a", "b", "c"}) REQUIRE(kv.put(key, text));
    UpdateNamespace update = make_secret(kv);
    update.history_limit = std::optional<std::uint64_t>(1);
    REQUIRE(kv.call(update));
    // While the batch of "a" and "b" is on its way to be sealed, both are written anew.
    kv.faults.close_gate();
    Replies first(1);
    kv.store->submit(kv.actor, kv.put_request("a", "new"), first.slot(0));
    REQUIRE(kv.faults.wait_at_gate(1));
    Replies second(1);
    kv.store->submit(kv.actor, kv.put_request("b", "new"), second.slot(0));
    std::thread round([&] { CHECK(kv.store->run_maintenance()); });
    CHECK(eventually([&] { return kv.store->stats().queued == 2; }));
    kv.faults.open_gate();
    round.join();
    CHECK(first.take()[0].has_value());
    CHECK(second.take()[0].has_value());
    kv.maintain();
    CHECK(kv.get("a") == "new");
    CHECK(kv.get("c") == text);
    CHECK_FALSE(kv.namespace_row().sealing);
}

// ---- outages ----

TEST_CASE("after an outage the store is ready again without anybody asking it for something") {
    Fixture kv;
    kv.faults.fail_writes(Errc::unavailable, 2);
    CHECK(kv.put("k", "v") == Errc::unavailable);
    CHECK(kv.store->ready() == Errc::unavailable);
    CHECK(kv.store->run_maintenance() == Errc::unavailable);  // still
    CHECK(kv.store->ready() == Errc::unavailable);
    CHECK(kv.store->run_maintenance());
    CHECK(kv.store->ready());
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}
