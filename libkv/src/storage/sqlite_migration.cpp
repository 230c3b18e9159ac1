#include "storage/sqlite_migration.h"

#include "storage/sqlite_file.h"
#include "storage/sqlite_schema.h"

namespace kv::sqlite {
namespace {

// From its schema to the next. A step is never edited once it has been released: what it made must be what a database
// made new by that release had.
struct Step {
    std::int64_t from;
    const char* sql;
};
constexpr Step steps[] = {
    {1, R"sql(
alter table namespaces add column version_base integer not null default 0;
alter table audit add column revision integer;
)sql"},
    {2, R"sql(
create table sinks (
    name text not null primary key,
    registered_at integer not null,
    owner text not null,              -- which process delivers to it; empty: none
    owned_until integer not null,
    owners integer not null
) strict, without rowid;

create table sink_cursors (
    sink text not null,
    namespace_id blob not null,
    application_id text not null,
    revision integer not null,        -- every event up to this one arrived
    primary key (sink, namespace_id)
) strict, without rowid;
create index sink_cursors_by_namespace on sink_cursors (namespace_id, sink);
)sql"},
    {3, R"sql(
create table tokens (
    id blob not null primary key,     -- a part of the hash
    hash blob not null,               -- SHA-256 of the token, which is kept nowhere
    name text not null,
    user_id text not null,
    grants text not null,             -- JSON
    created_at integer not null,
    created_by text not null,
    expires_at integer,
    last_used_at integer,
    mac blob not null                 -- over everything but last_used_at
) strict, without rowid;
create index tokens_by_expiry on tokens (expires_at) where expires_at is not null;
)sql"},
};

// Through SQLite, so that what is still in the WAL is in it too, and under another name until it is whole.
Result<void> copy(Connection& connection, const std::string& path, const std::string& name) {
    const std::string unfinished = path + ".copy";
    KV_CHECK(make_empty_file(unfinished));
    Result<void> copied = guard([&] { connection.run("vacuum into ?1", unfinished).finish(); });
    if (copied) copied = put_in_place(unfinished, name);
    if (!copied) remove_file(unfinished);
    return copied;
}

}  // namespace

Result<void> migrate(Connection& connection, const std::string& path, std::int64_t from, std::int64_t to) {
    if (Result<void> copied = copy(connection, path, path + ".schema-" + std::to_string(from)); !copied) {
        Error error = std::move(copied).error();
        error.message = "the database could not be copied before its migration: " + error.message;
        return error;
    }
    connection.execute("begin immediate");
    for (const Step& step : steps) {
        if (step.from >= from && step.from < to) connection.execute_script(step.sql);
    }
    write_schema_version(connection, to);
    connection.execute("commit");
    return {};
}

}  // namespace kv::sqlite
