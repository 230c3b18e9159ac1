#include "storage/postgres_hints.h"

#include <doctest/doctest.h>

#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "storage/conformance.h"

// Hints between storages that share a database. Nobody relies on them: these tests wait for each as long as a slow machine may take.
namespace {

using namespace kv;
using namespace kv::conformance;
using conformance::Postgres;
using Hint = Storage::Hint;

template <class F>
bool eventually(F&& is_true) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!is_true()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

// A storage, and what it heard. Threads: any.
struct Node {
    explicit Node(const PostgresOptions& options) : storage(open_postgres_storage(options).value()) {}
    // Comes back once the server listens.
    void listen() {
        storage->listen([this](std::span<const Hint> hints) {
            std::lock_guard lock(mutex);
            ++calls;
            if (hints.empty()) ++missed;
            for (const Hint& hint : hints) latest[hint.ns] = hint.revision;
        });
        REQUIRE(eventually([&] { return times_missed() == 1; }));
    }
    void announce(std::vector<Hint> hints) { storage->announce(hints); }
    std::uint64_t heard(int ns) {
        std::lock_guard lock(mutex);
        const auto found = latest.find(ns_id(ns));
        return found == latest.end() ? 0 : found->second;
    }
    bool hears(int ns, std::uint64_t revision) {
        return eventually([&] { return heard(ns) == revision; });
    }
    int times_missed() {
        std::lock_guard lock(mutex);
        return missed;
    }

    std::mutex mutex;
    std::map<NamespaceId, std::uint64_t> latest;
    int missed = 0;
    int calls = 0;
    std::unique_ptr<Storage> storage;  // goes first
};

// With a name in the server's list of sessions.
PostgresOptions named(const Postgres& database, const std::string& name) {
    PostgresOptions options = database.options();
    options.uri += "&application_name=" + database.schema + "_" + name;
    return options;
}
std::string hints_of_node(const Postgres& database, const std::string& name) {
    return "from pg_stat_activity where application_name = '" + database.schema + "_" + name + " hints'";
}
void cut(Postgres& database, const std::string& name) {
    CHECK(database.sql.run("select count(pg_terminate_backend(pid, 10000)) " + hints_of_node(database, name)) == "1");
}

TEST_CASE("hints fit into a payload or say that anything may have changed, and what is no payload says so too") {
    std::map<NamespaceId, std::uint64_t> hints;
    CHECK(postgres::payload_of(hints).empty());
    for (int ns = 1; ns <= 128; ++ns) hints[ns_id(ns)] = UINT64_MAX;
    const std::string payload = postgres::payload_of(hints);
    CHECK(payload.size() < 8000);
    const std::vector<Hint> read = postgres::hints_of(payload);
    REQUIRE(read.size() == 128);
    for (int ns = 1; ns <= 128; ++ns) {
        CHECK(read[static_cast<std::size_t>(ns) - 1].ns == ns_id(ns));
        CHECK(read[static_cast<std::size_t>(ns) - 1].revision == UINT64_MAX);
    }
    hints[ns_id(129)] = 1;
    CHECK(postgres::payload_of(hints).empty());
    const std::string id = ns_id(1).to_string();
    CHECK(postgres::hints_of(id + ":7").size() == 1);
    for (const std::string& odd : {id, id + ":", id + ":7x", id + "=7", id + ":-1", id + ":7  " + id + ":8", id + ":7 x",
                                   std::string("x"), std::string(" "), id + ":18446744073709551616", id + ":7\n"}) {
        CHECK(postgres::hints_of(odd).empty());
    }
}

TEST_CASE("what one storage announces another hears, unless it is of another schema") {
    Postgres database;
    Postgres elsewhere;
    Node one(database.options());
    Node other(database.options());
    Node stranger(elsewhere.options());
    Node strangers_friend(elsewhere.options());
    other.listen();
    stranger.listen();
    one.announce({{ns_id(1), 5}, {ns_id(2), 7}});
    CHECK(other.hears(1, 5));
    CHECK(other.hears(2, 7));
    strangers_friend.announce({{ns_id(3), 1}});
    CHECK(stranger.hears(3, 1));
    CHECK(stranger.heard(1) == 0);
    CHECK(other.heard(3) == 0);
    one.listen();
    other.announce({{ns_id(4), 2}});
    CHECK(one.hears(4, 2));
    CHECK(other.times_missed() == 1);
    database.sql.run("select pg_notify('kv_hints_' || (hashtext(current_schema())::bigint & 4294967295), 'somebody else')");
    CHECK(eventually([&] { return other.times_missed() == 2; }));
}

TEST_CASE("a storage that is not asked for hints has no connection for them") {
    Postgres database;
    Node node(named(database, "node"));
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    node.storage->write([&](StorageWriter& writer) { return writer.apply(changes); }).value();
    node.announce({});
    CHECK(database.sql.run("select count(*) " + hints_of_node(database, "node")) == "0");
    node.announce({{ns_id(1), 1}});
    CHECK(eventually([&] { return database.sql.run("select count(*) " + hints_of_node(database, "node")) == "1"; }));
    node.storage.reset();
    CHECK(eventually([&] { return database.sql.run("select count(*) " + hints_of_node(database, "node")) == "0"; }));
}

TEST_CASE("a listener whose connection was cut is told that it may have missed something, and hears again") {
    Postgres database;
    Node one(database.options());
    Node other(named(database, "other"));
    other.listen();
    one.announce({{ns_id(1), 1}});
    CHECK(other.hears(1, 1));
    for (int times = 1; times <= 2; ++times) {
        cut(database, "other");
        CHECK(eventually([&] { return other.times_missed() == 1 + times; }));
        one.announce({{ns_id(1), static_cast<std::uint64_t>(1 + times)}});
        CHECK(other.hears(1, static_cast<std::uint64_t>(1 + times)));
    }
}

TEST_CASE("what was announced when the announcer's connection was cut is announced as anything") {
    Postgres database;
    Node one(named(database, "one"));
    Node other(database.options());
    other.listen();
    one.announce({{ns_id(1), 1}});
    CHECK(other.hears(1, 1));
    cut(database, "one");
    one.announce({{ns_id(1), 2}});
    CHECK(eventually([&] { return other.heard(1) == 2 || other.times_missed() == 2; }));
}

TEST_CASE("what is announced while a notification is under way goes with the next, and what is too much is anything") {
    Postgres database;
    Node one(database.options());
    Node other(database.options());
    other.listen();
    constexpr std::uint64_t announcements = 10'000;
    for (std::uint64_t revision = 1; revision <= announcements; ++revision) {
        one.announce({{ns_id(1), revision}, {ns_id(2 + static_cast<int>(revision % 2)), revision}});
    }
    CHECK(other.hears(1, announcements));
    CHECK(other.hears(2, announcements));
    CHECK(other.hears(3, announcements - 1));
    {
        std::lock_guard lock(other.mutex);
        CHECK(other.calls < 1000);
    }
    CHECK(other.times_missed() == 1);
    std::vector<Hint> many;
    for (int ns = 1; ns <= 1000; ++ns) many.push_back({ns_id(ns), announcements + 1});
    one.announce(many);
    CHECK(eventually([&] { return other.times_missed() == 2; }));
    one.announce({{ns_id(1), announcements + 2}});
    CHECK(other.hears(1, announcements + 2));
}

TEST_CASE("who has stopped to listen hears no more, and may begin again") {
    Postgres database;
    Node one(database.options());
    Node other(database.options());
    Node third(database.options());
    other.listen();
    third.listen();
    one.announce({{ns_id(1), 1}});
    CHECK(other.hears(1, 1));
    other.storage->listen({});
    one.announce({{ns_id(1), 2}});
    CHECK(third.hears(1, 2));
    // Behind what it would have heard, the same thread does this.
    other.announce({{ns_id(2), 1}});
    CHECK(third.hears(2, 1));
    CHECK(other.heard(1) == 1);
    {
        std::lock_guard lock(other.mutex);
        other.missed = 0;
    }
    other.listen();
    one.announce({{ns_id(1), 3}});
    CHECK(other.hears(1, 3));
}

}  // namespace
