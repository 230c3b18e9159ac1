#include "kv/postgres.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "storage/conformance.h"
#include "storage/postgres_clock.h"
#include "storage/postgres_connection.h"
#include "storage/postgres_params.h"
#include "storage/postgres_proxy.h"

// What PostgreSQL alone has to do: connections that break, commits that nobody answers, several processes, roles.
namespace {

using namespace kv;
using namespace kv::conformance;
using conformance::Postgres;

template <class F>
bool eventually(F&& is_true) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!is_true()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

Changeset with_head(int sequence, std::vector<EntryRow> entries = {}) {
    Changeset changes;
    changes.entries = std::move(entries);
    changes.audit = {make_audit(sequence)};
    const AuditHead none{stream_id(1), 0, {}, HeadState::open};
    const AuditHead before{stream_id(1), static_cast<std::uint64_t>(sequence) - 1, mac(sequence - 1), HeadState::open};
    changes.heads = {{sequence == 1 ? none : before, {stream_id(1), static_cast<std::uint64_t>(sequence), mac(sequence), HeadState::open}}};
    return changes;
}

struct Node {
    explicit Node(const PostgresOptions& options) : storage(open_postgres_storage(options).value()) {}

    Result<void> apply(const Changeset& changes) {
        return storage->write([&](StorageWriter& writer) { return writer.apply(changes); });
    }
    Result<std::uint64_t> head() {
        const StreamId stream = stream_id(1);
        KV_TRY(const auto heads, storage->get_audit_heads({&stream, 1}));
        return heads.empty() ? std::uint64_t{0} : heads.front().sequence;
    }
    std::string value(const std::string& key) {
        const EntryRef ref{ns_id(1), key};
        const Found found = storage->find({&ref, 1}, {.value = true}).value().at(0);
        return found.entry ? found.entry->value : "";
    }
    std::string log(bool newest_first) {
        AuditRange range;
        range.newest_first = newest_first;
        const auto page = storage->scan_audit(range);
        if (!page) return std::string(code_name(page.error().code));
        std::string text;
        for (const AuditRow& row : page->rows) text += std::to_string(row.record.sequence) + " ";
        return text;
    }

    std::unique_ptr<Storage> storage;
};

// A storage that comes through a proxy.
struct Proxied {
    Proxied() : proxy("127.0.0.1", std::stoi(database.sql.run("select setting from pg_settings where name = 'port'"))), node(options()) {
        Changeset changes;
        changes.namespaces = {make_namespace(1)};
        node.apply(changes).value();
    }
    PostgresOptions options() {
        PostgresOptions options = database.options();
        options.uri += "&hostaddr=127.0.0.1&port=" + std::to_string(proxy.port());
        return options;
    }
    Postgres database;
    Proxy proxy;
    Node node;
};

// ---- bytes and texts ----

// Broken on purpose: without the step back behind the last character, "\xf4\x90" cut no range.
TEST_CASE("a text that bounds a range cuts it where the bytes would") {
    std::mt19937 random(20'260'101);
    const auto draw = [&](unsigned below) { return random() % below; };
    const std::vector<std::string> characters = {"\1", "/", "0", "a", "\x7f", "\xc2\x80", "\xc3\xa4", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                                                 "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    const std::string bytes("\0\1/0a\x7f\x80\x8f\x90\xa0\xbf\xc0\xc2\xc3\xdf\xe0\xed\xee\xef\xf0\xf4\xf5\xff", 23);
    int odd = 0;
    for (int round = 0; round < 20'000; ++round) {
        std::string text;
        for (unsigned i = draw(4); i > 0; --i) text += characters[draw(static_cast<unsigned>(characters.size()))];
        std::string bound;
        for (unsigned i = draw(3); i > 0; --i) bound += characters[draw(static_cast<unsigned>(characters.size()))];
        for (unsigned i = draw(4); i > 0; --i) bound += bytes[draw(static_cast<unsigned>(bytes.size()))];
        const auto from = postgres::text_from(bound);
        odd += !from || *from != bound;
        CHECK((text >= bound) == (from && text >= *from));
    }
    CHECK(odd > 1000);
}

TEST_CASE("times beyond what the server knows become its infinities, all others come back as they were") {
    using postgres::server_time;
    using postgres::time_of;
    for (const std::int64_t micros : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{946'684'800'000'000}, std::int64_t{253'402'300'799'999'999}}) {
        CHECK(time_of(server_time(Time(Time::duration(micros)))) == Time(Time::duration(micros)));
    }
    CHECK(time_of(server_time(Time::min())) == Time::min());
    CHECK(time_of(server_time(Time::max())) == Time::max());
}

// ---- connections and transactions ----

// Broken on purpose: without the look at the transaction's state and the command's tag it was committed, with nothing in it.
TEST_CASE("the commit of a transaction that failed is refused") {
    Postgres database;
    Node node(database.options());
    postgres::Connection connection({database.uri() + "&application_name=direct"});
    connection.begin("begin", nullptr, {});
    connection.run("insert into meta (name, value) values ('made', '1')");
    CHECK_THROWS_AS(connection.run("select 1 / 0"), postgres::Failure);
    CHECK_THROWS_AS(connection.commit(std::chrono::seconds(5)), postgres::Failure);
    connection.roll_back();
    CHECK(connection.is_sound());
    CHECK(database.sql.run("select count(*) from meta") == "1");
}

// Broken on purpose: with no second attempt the write was Errc::unavailable wherever the connection broke.
TEST_CASE("a connection that breaks before the changes are sent costs a second attempt, and nothing is done twice") {
    for (const int step : {0, 1}) {
        Postgres database;
        const std::string name = database.schema + "_" + std::to_string(step);
        PostgresOptions options = database.options();
        options.uri += "&application_name=" + name;
        Node node(options);
        Changeset changes;
        changes.namespaces = {make_namespace(1)};
        changes.entries = {make_entry(1, "count", "0")};
        node.apply(changes).value();
        int attempts = 0;
        const auto cut = [&](int at) {
            if (at != step || attempts > 1) return;
            database.sql.run("select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = '" + name + "'");
        };
        const Result<void> done = node.storage->write([&](StorageWriter& writer) -> Result<void> {
            ++attempts;
            const EntryRef ref{ns_id(1), "count"};
            cut(0);
            KV_CHECK(writer.lock({&ref.ns, 1}));
            cut(1);
            KV_TRY(auto found, writer.find({&ref, 1}, {.value = true}));
            Changeset next;
            next.entries = {*found[0].entry};
            next.entries[0].value = std::to_string(std::stoi(found[0].entry->value) + 1);
            next.entries[0].version = 2;
            next.archive = {entry_id(1)};
            return writer.apply(next);
        });
        REQUIRE(done);
        CHECK(attempts == 2);
        CHECK(node.value("count") == "1");
        CHECK(database.sql.run("select count(*) from versions") == "1");
    }
}

// Broken on purpose, and noticed: a lost commit counted as nothing done, so the body ran twice.
TEST_CASE("a connection that breaks before the commit leaves nothing, and the head says so") {
    for (const bool is_together : {false, true}) {
        Postgres database;
        PostgresOptions options = database.options();
        options.uri += "&application_name=" + database.schema;
        Node node(options);
        node.apply(with_head(1)).value();
        int attempts = 0;
        CHECK(node.storage->write([&](StorageWriter& writer) -> Result<void> {
            ++attempts;
            const NamespaceRef ns = ns_id(1);
            if (is_together) KV_CHECK(writer.lock({&ns, 1}));
            KV_CHECK(writer.apply(with_head(2)));
            database.sql.run("select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = '" + database.schema + "'");
            return {};
        }) == Errc::outcome_unknown);
        CHECK(attempts == 1);
        CHECK(node.head().value() == 1);
        CHECK(node.apply(with_head(2)));
    }
}

TEST_CASE("a question is asked again where its connection has broken, and one that nobody can answer is unavailable") {
    Proxied proxied;
    proxied.database.sql.run("select pg_terminate_backend(pid, 10000) from pg_stat_activity where pid <> pg_backend_pid()"
                             " and query like '%namespaces%' and datname = current_database()");
    CHECK(proxied.node.value("nothing").empty());
    PostgresOptions nowhere = proxied.options();
    nowhere.uri += "&port=1&password=s3cret";
    const auto refused = open_postgres_storage(nowhere);
    REQUIRE(refused == Errc::unavailable);
    CHECK((refused.error().message + refused.error().detail).find("s3cret") == std::string::npos);
}

// ---- commits that nobody answers ----

namespace {

// What the changes wait for goes to the server before them: then they go together with the commit.
Result<void> apply_with_commit(Node& node, const Changeset& changes) {
    return node.storage->write([&](StorageWriter& writer) -> Result<void> {
        const NamespaceRef ns = ns_id(1);
        KV_CHECK(writer.lock({&ns, 1}));
        return writer.apply(changes);
    });
}

}  // namespace

// Broken on purpose, and noticed: what broke was taken for a refusal, so the write was tried again, although it had happened.
TEST_CASE("a commit whose answer is lost is unknown, and the head says that it happened") {
    for (const bool is_together : {false, true}) {
        Proxied proxied;
        proxied.node.apply(with_head(1)).value();
        proxied.proxy.next_commit(Proxy::Commit::lose_answer);
        CHECK((is_together ? apply_with_commit(proxied.node, with_head(2)) : proxied.node.apply(with_head(2))) == Errc::outcome_unknown);
        CHECK(eventually([&] { return proxied.node.head().has_value(); }));
        CHECK(proxied.node.head().value() == 2);
    }
}

// Broken on purpose, and noticed: without its conditions the statement changed no head and archived nothing, and was committed.
TEST_CASE("what the server refuses of the changes is not committed with them, and is said as what it is") {
    Proxied proxied;
    Node& node = proxied.node;
    Changeset first = with_head(1);
    first.namespaces = {make_namespace(1)};
    node.apply(first).value();
    Changeset changes = with_head(3);
    changes.meta = {{"trace", "left"}};
    CHECK(apply_with_commit(node, changes) == Errc::invalid_state);
    changes.heads.clear();
    changes.archive = {entry_id(1)};
    CHECK(apply_with_commit(node, changes) == Errc::internal);
    changes.archive.clear();
    changes.namespaces = {make_namespace(2)};
    changes.namespaces[0].name = first.namespaces[0].name;
    CHECK(apply_with_commit(node, changes) == Errc::namespace_exists);
    CHECK(node.storage->get_meta().value().empty());
    CHECK(node.head().value() == 1);
    CHECK(apply_with_commit(node, with_head(2)));
    CHECK(node.head().value() == 2);
}

// Broken on purpose: without the question how the transaction ended, the head was read too early, and said that the write had
// not happened, which then did.
TEST_CASE("a head is not read before a commit that is still under way has ended") {
    for (const int first : {1, 2, 3}) {  // also where there is no head yet, and where the commit goes together with the changes
        Proxied proxied;
        for (int before = 1; before < first; ++before) proxied.node.apply(with_head(before)).value();
        proxied.proxy.next_commit(Proxy::Commit::hold);
        const Changeset changes = with_head(first);
        CHECK((first == 3 ? apply_with_commit(proxied.node, changes) : proxied.node.apply(changes)) == Errc::outcome_unknown);
        CHECK(proxied.node.head() == Errc::unavailable);
        CHECK(proxied.node.head() == Errc::unavailable);
        proxied.proxy.release();
        CHECK(eventually([&] {
            const auto head = proxied.node.head();
            return head && *head == static_cast<std::uint64_t>(first);
        }));
    }
}

// ---- round trips ----

// Broken on purpose: with BEGIN sent by itself a write took one round trip more, and so with a commit that waited for the changes.
TEST_CASE("a write takes two round trips and a question one, whatever their size") {
    Proxied proxied;
    Storage& storage = *proxied.node.storage;
    int version = 0;
    const auto put = [&](int count) {
        ++version;
        const int before = proxied.proxy.round_trips();
        std::vector<EntryRef> refs;
        for (int i = 1; i <= count; ++i) refs.push_back({ns_id(1), "key" + std::to_string(i)});
        storage.write([&](StorageWriter& writer) -> Result<void> {
            KV_TRY(const auto loaded, writer.lock_and_find({&refs[0].ns, 1}, refs, {}));
            const std::vector<Found>& found = loaded.entries;
            Changeset changes = with_head(version);
            changes.namespaces = {*found[0].ns};
            for (int i = 1; i <= count; ++i) {
                changes.entries.push_back(make_entry(i, "key" + std::to_string(i)));
                changes.entries.back().version = static_cast<std::uint64_t>(version);
                changes.events.push_back(make_event(1, static_cast<std::uint64_t>(version * 1000 + i)));
                if (found[static_cast<std::size_t>(i) - 1].entry) changes.archive.push_back(entry_id(i));
            }
            return writer.apply(changes);
        }).value();
        return proxied.proxy.round_trips() - before;
    };
    put(200);
    put(200);
    CHECK(put(1) == 2);
    CHECK(put(200) == 2);
    const auto ask = [&](int count) {
        const int before = proxied.proxy.round_trips();
        std::vector<EntryRef> refs;
        for (int i = 1; i <= count; ++i) refs.push_back({NamespaceName{"default", "production"}, "key" + std::to_string(i)});
        CHECK(storage.find(refs, {.value = true}).value().size() == refs.size());
        (void)storage.now();
        return proxied.proxy.round_trips() - before;
    };
    CHECK(ask(1) == 1);
    CHECK(ask(200) == 1);
}

// ---- several of them ----

// Broken on purpose: with the head moved from wherever it stood both were told that they had moved it.
TEST_CASE("of two nodes that move one head, one is told that it has moved on") {
    for (const int sequence : {1, 2}) {
        Postgres database;
        Node one(database.options());
        Node other(database.options());
        if (sequence == 2) one.apply(with_head(1)).value();
        std::optional<Result<void>> late;
        std::thread thread;
        CHECK(one.storage->write([&](StorageWriter& writer) -> Result<void> {
            KV_CHECK(writer.apply(with_head(sequence)));
            thread = std::thread([&] { late = other.apply(with_head(sequence)); });
            CHECK(eventually([&] {
                return database.sql.run("select count(*) from pg_locks where not granted and database ="
                                        " (select oid from pg_database where datname = current_database()) or (not granted and"
                                        " locktype = 'transactionid')") != "0";
            }));
            return {};
        }));
        thread.join();
        CHECK(*late == Errc::invalid_state);
        CHECK(other.head().value() == static_cast<std::uint64_t>(sequence));
        CHECK(one.log(true) == (sequence == 1 ? "1 " : "2 1 "));
    }
}

TEST_CASE("of two nodes that make one sink, the later finds what the other made") {
    Postgres database;
    Node one(database.options());
    Node other(database.options());
    std::optional<SinkRow> found;
    Result<void> late;
    std::thread thread;
    CHECK(one.storage->write([&](StorageWriter& writer) -> Result<void> {
        CHECK_FALSE(writer.lock_sink("s").value());
        thread = std::thread([&] {
            late = other.storage->write([&](StorageWriter& later) -> Result<void> {
                KV_TRY(found, later.lock_sink("s"));
                return {};
            });
        });
        CHECK(eventually([&] { return database.sql.run("select count(*) from pg_locks where not granted") != "0"; }));
        Changeset changes;
        changes.sinks = {{"s", at(1), "one", at(2), 1}};
        return writer.apply(changes);
    }));
    thread.join();
    CHECK(late);
    CHECK((found && found->owner == "one"));
}

// Broken on purpose: without the lock one of four could not be opened, its tables being there already.
TEST_CASE("nodes that start at once on an empty database make its schema once") {
    Postgres database;
    std::atomic<int> opened = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            const auto storage = open_postgres_storage(database.options());
            if (storage) ++opened;
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(opened == 4);
    // A month each for this one and the next two years, and the rest.
    CHECK(database.sql.run("select count(*) from pg_inherits where inhparent = 'audit'::regclass") == "26");
}

// Broken on purpose: without waiting for the writes under way the oldest-first page was "2 ", and row 1 came up behind it.
TEST_CASE("who reads the log from its oldest row waits for a lower position that is not committed yet") {
    Postgres database;
    Node one(database.options());
    PostgresOptions hasty = database.options();
    hasty.lock_timeout = std::chrono::milliseconds(100);
    Node other(hasty);
    one.storage->write([&](StorageWriter& writer) -> Result<void> {
        Changeset first;
        first.audit = {make_audit(1)};
        KV_CHECK(writer.apply(first));
        Changeset second;
        second.audit = {make_audit(2)};
        other.apply(second).value();
        CHECK(other.log(true) == "2 ");
        CHECK(other.log(false) == "unavailable");
        return {};
    }).value();
    CHECK(other.log(false) == "1 2 ");
    CHECK(other.log(true) == "2 1 ");
}

// Broken on purpose: with the offset alone, jittered, it went back.
TEST_CASE("the time is the database's, and never goes back") {
    Postgres database;
    Node node(database.options());
    const auto seconds = [](Time time) { return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count(); };
    const std::int64_t there = std::stoll(database.sql.run("select extract(epoch from clock_timestamp())::bigint"));
    CHECK(std::abs(seconds(node.storage->now().value()) - there) <= 5);
    Time last = node.storage->now().value();
    for (int i = 0; i < 200; ++i) {
        if (i % 10 == 0) CHECK(node.value("none").empty());
        const Time now = node.storage->now().value();
        CHECK(now >= last);
        last = now;
    }
    node.storage->write([&](StorageWriter& writer) -> Result<void> {
        const NamespaceRef ref = ns_id(1);
        KV_CHECK(writer.lock({&ref, 1}));
        CHECK(writer.now().value() >= last);
        return {};
    }).value();
}

// Broken on purpose, and noticed: back from any time that is a day ahead of what the server says, back from none.
TEST_CASE("the time goes back from a leap that server and machine agree on, and from nothing else") {
    using std::chrono::hours;
    const auto there = [] { return std::chrono::time_point_cast<Time::duration>(std::chrono::system_clock::now()); };
    postgres::DatabaseClock clock(nullptr);
    clock.hear(there());
    CHECK(clock.now() >= there() - hours(1));
    clock.hear(there() + hours(240));
    CHECK(clock.now() > there() + hours(239));
    CHECK(clock.at_least(there() + hours(230)) > there() + hours(239));  // no day behind what was told
    clock.hear(there());
    CHECK(clock.now() < there() + hours(1));
    CHECK(clock.at_least(there() + hours(240)) > there() + hours(239));
    CHECK(clock.at_least(there()) < there() + hours(1));
    // Half a day is no leap, and a server that is behind while this machine is not is the one that is wrong.
    clock.hear(there() + hours(12));
    CHECK(clock.now() > there() + hours(11));
    clock.hear(there());
    CHECK(clock.now() > there() + hours(11));
    clock.hear(there() - hours(240));
    CHECK(clock.now() > there() + hours(11));
    CHECK(clock.at_least(there() - hours(240)) > there() + hours(11));
}

// ---- schemas and roles ----

// Broken on purpose: without the comparison of versions the newer one was opened.
TEST_CASE("a newer schema, another program's, and none at all are told apart") {
    Postgres database;
    PostgresOptions reading = database.options();
    reading.read_only = true;
    CHECK(open_postgres_storage(reading) == Errc::not_found);
    CHECK(migrate_postgres(database.options()).value() == 3);
    CHECK(migrate_postgres(database.options()).value() == 3);
    auto storage = open_postgres_storage(reading).value();
    CHECK(storage->write([](StorageWriter&) -> Result<void> { return {}; }) == Errc::unsupported);
    database.sql.run("update meta set value = '4' where name = 'storage.schema_version'");
    CHECK(open_postgres_storage(database.options()) == Errc::newer_schema);
    CHECK(open_postgres_storage(reading) == Errc::newer_schema);
    CHECK(migrate_postgres(database.options()) == Errc::newer_schema);
    database.sql.run("update meta set value = 'mine' where name = 'storage.schema_version'");
    CHECK(open_postgres_storage(database.options()) == Errc::integrity);
    CHECK(open_postgres_storage({.uri = "postgresql://user:s3cret@[/db"}).error().message.find("s3cret") == std::string::npos);
}

// Broken on purpose: with the right to update granted as well, the log was changed.
TEST_CASE("a role that may make no tables serves what an administrator made for it, and cannot change the log") {
    Postgres database;
    const std::string role = database.schema + "_role";
    database.sql.run("create role " + role + " login password 'opened'");
    database.sql.run("grant usage on schema " + database.schema + " to " + role);
    PostgresOptions options = database.options();
    options.uri += "&user=" + role + "&password=opened";
    const auto empty = open_postgres_storage(options);
    CHECK(empty == Errc::unsupported);
    database.sql.run(postgres_schema_sql(role));
    {
        Node node(options);
        CHECK(node.apply(with_head(1, {make_entry(1, "key")})));
        Changeset more = with_head(2);
        more.events = {make_event(1, 1), make_event(1, 2)};
        more.erase_events = {{ns_id(1), 1}};
        more.sinks = {{"s", at(1), "", {}, 0}};
        more.cursors = {{"s", ns_id(1), "default", 1}};
        CHECK(node.apply(more));
        CHECK(node.storage->write([](StorageWriter& writer) -> Result<void> {
            KV_TRY(const auto sink, writer.lock_sink("s"));
            Changeset changes;
            changes.erase_sinks = {sink->name};
            return writer.apply(changes);
        }));
        node.storage->idle();
        CHECK(node.log(false) == "1 2 ");
        Sql sql(options.uri);
        CHECK_THROWS(sql.run("update audit set success = not success"));
        CHECK_THROWS(sql.run("truncate audit"));
        CHECK_THROWS(sql.run("create table mine (id int)"));
    }
    database.sql.run("drop owned by " + role + "; drop role " + role);
}

TEST_CASE("the partitions that the months to come need are made when there is nothing else to do") {
    Postgres database;
    Node node(database.options());
    const std::string last = database.sql.run("select 'audit_' || to_char(now() at time zone 'UTC' + interval '23 months', 'YYYY_MM')");
    database.sql.run("drop table " + last);
    node.storage->idle();
    CHECK(database.sql.run("select to_regclass('" + last + "') is not null") == "t");
    node.apply(with_head(1)).value();  // of 1970
    CHECK(database.sql.run("select count(*) from audit_other") == "1");
}

}  // namespace
