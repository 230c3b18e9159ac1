#include <fstream>
#include <sstream>

#include "fixture.h"
#include "storage/conformance.h"

// Schemas that an earlier release made in PostgreSQL.
namespace {

using namespace kv;
using conformance::Postgres;
using conformance::Sql;

// The schema 1 that lies among the vectors.
struct OldDatabase : Postgres {
    OldDatabase() {
        std::ostringstream text;
        text << std::ifstream(KV_TEST_DATA "/vectors/postgres_schema_1.sql").rdbuf();
        sql.run(text.str());
    }
    std::string version() { return sql.run("select value from meta where name = 'storage.schema_version'"); }
};

// Every table but the months of the log, its columns and its indexes.
std::string tables_of(Postgres& database) {
    return database.sql.run(
               "select string_agg(concat_ws(' ', table_name, column_name, data_type, is_nullable, collation_name, column_default,"
               " generation_expression), chr(10) order by table_name, column_name)"
               " from information_schema.columns where table_schema = current_schema() and table_name !~ '^audit_[0-9]'") +
           database.sql.run("select string_agg(replace(indexdef, current_schema() || '.', ''), chr(10) order by indexname)"
                            " from pg_indexes where schemaname = current_schema() and tablename !~ '^audit_[0-9]'");
}

// A role that may make no tables, with the rights that serving schema 1 took. Goes with its rights.
struct Role {
    explicit Role(OldDatabase& in) : database(in), name(in.schema + "_role") {
        database.sql.run("create role " + name + " login password 'opened'; grant usage on schema " + database.schema + " to " + name +
                         "; grant select, insert, update, delete on meta, namespaces, entries, versions, audit_heads, outbox, data_keys to " +
                         name + "; grant select, insert on audit to " + name + "; grant usage on sequence audit_position to " + name);
    }
    ~Role() { database.sql.run("drop owned by " + name + "; drop role " + name); }
    PostgresOptions options() const {
        PostgresOptions options = database.options();
        options.uri += "&user=" + name + "&password=opened";
        return options;
    }
    OldDatabase& database;
    std::string name;
};

// All that a role does with the tables of sinks.
Result<void> use_sinks(Storage& storage) {
    return storage.write([](StorageWriter& writer) -> Result<void> {
        KV_CHECK(writer.lock_sink("s"));
        Changeset changes;
        changes.sinks = {{"s", Time{}, "", {}, 0}};
        changes.cursors = {{"s", conformance::ns_id(1), "app-1", 1}};
        changes.erase_sinks = {"s"};
        return writer.apply(changes);
    });
}

TEST_CASE("a database of schema 1 is migrated, and has its rows and the tables of a new one") {
    OldDatabase database;
    PostgresOptions reading = database.options();
    reading.read_only = true;
    const auto older = open_postgres_storage(reading);
    REQUIRE(older == Errc::unsupported);
    CHECK(older.error().message == "the database has schema 1, older than 3 of this library: opening it for writing migrates it");
    CHECK(database.version() == "1");

    auto storage = open_postgres_storage(database.options()).value();
    CHECK(database.version() == "3");
    CHECK(storage->walk_entries({}).value().size() == 4);
    CHECK(storage->walk_versions({}).value().size() == 4);
    CHECK(storage->walk_events({}).value().size() == 8);
    CHECK(storage->walk_keys({}).value().size() == 6);
    CHECK(storage->walk_audit_heads({}).value().size() == 3);
    CHECK(storage->scan_audit({}).value().rows.size() == 15);
    auto keys = crypto::Keyring::open(test::fixed_key(), CryptoBackend::openssl, storage->internal_keys().value(),
                                      storage->now().value());
    REQUIRE(keys);
    CHECK(test::audit_fault(*storage, **keys) == "");
    const auto backlog = storage->scan_backlog({.sink = "s"}).value();
    REQUIRE(backlog.size() == 2);
    CHECK(backlog[0].newest + backlog[1].newest == 8);
    CHECK(use_sinks(*storage));

    Postgres fresh;
    CHECK(migrate_postgres(fresh.options()).value() == 3);
    CHECK(tables_of(database) == tables_of(fresh));

    Options options;
    options.keys = make_fixed_key(test::fixed_key());
    options.maintenance_interval = std::chrono::milliseconds(0);
    auto store = Store::open(std::move(storage), std::move(options)).value();
    const Actor actor = Actor::trusted("tester");
    CHECK(store->in("app-1", "production", actor).get<std::string>("database/password").value() == "second-password");
    CHECK(store->in("app-1", "config", actor).get<std::int64_t>("database/port").value() == 5432);
}

TEST_CASE("a role that may make no tables serves a schema that somebody else migrated") {
    OldDatabase database;
    Role role(database);
    const auto refused = open_postgres_storage(role.options());
    REQUIRE(refused == Errc::unsupported);
    CHECK(refused.error().message == "the database has schema 1, older than 3 of this library, and its role may not migrate it:"
                                     " an administrator can, by what kvd migrate --print gives");
    CHECK(database.version() == "1");
    CHECK(migrate_postgres(database.options()).value() == 3);
    auto storage = open_postgres_storage(role.options()).value();
    CHECK(use_sinks(*storage));
    storage.reset();
}

TEST_CASE("what an administrator runs migrates too, and may be run again") {
    OldDatabase database;
    Role role(database);
    database.sql.run(postgres_schema_sql(role.name));
    CHECK(database.version() == "3");
    database.sql.run(postgres_schema_sql(role.name));
    CHECK(database.version() == "3");
    auto storage = open_postgres_storage(role.options()).value();
    CHECK(use_sinks(*storage));
    CHECK(storage->walk_entries({}).value().size() == 4);
    storage.reset();

    Postgres fresh;
    fresh.sql.run(postgres_schema_sql(role.name));
    fresh.sql.run(postgres_schema_sql(role.name));
    CHECK(tables_of(database) == tables_of(fresh));
}

}  // namespace
