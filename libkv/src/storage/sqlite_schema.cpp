#include "storage/sqlite_schema.h"

#include "storage/sqlite_migration.h"

namespace kv::sqlite {
namespace {

constexpr std::int64_t schema_version = 4;
constexpr std::int64_t application_id = 0x6b764b56;  // "kvKV"

// Ids are the 16 bytes of a UUID: lower(hex(id)) shows them. Times are microseconds since 1970 in UTC:
// datetime(at / 1000000, 'unixepoch') shows them. The values stand last, so that reading the other columns never
// follows the pages that a large one spills to.
//
// Tables that hold values have a row id: in a table without one a large row costs every search that passes it.
constexpr const char* schema = R"sql(
create table meta (
    name text not null primary key,
    value text not null
) strict, without rowid;

create table namespaces (
    id blob not null primary key,
    application_id text not null,
    name text not null,
    description text not null,
    is_secret integer not null,
    sealing integer not null,
    default_ttl_seconds integer,
    keeps_history integer not null,
    history_limit integer,
    deletion_protection integer not null,
    version integer not null,
    revision integer not null,
    key_generation integer not null,
    seals integer not null,
    version_floor integer not null,
    version_base integer not null default 0,
    changed_at integer not null,
    created_at integer not null,
    created_by text not null,
    updated_at integer not null,
    updated_by text not null,
    deleted_at integer,
    mac blob not null
) strict;
create unique index namespaces_live on namespaces (application_id, name) where deleted_at is null;
create index namespaces_by_name on namespaces (application_id, name, id);
create index namespaces_deleted on namespaces (application_id, name, id) where deleted_at is not null;
create index namespaces_sealing on namespaces (application_id, name, id) where sealing = 1;

create table entries (
    id blob not null primary key,
    namespace_id blob not null,
    key_path text not null,
    is_tombstone integer not null,    -- 1: deleted or expired
    value_type integer not null,      -- 1 string, 2 json, 3 number, 4 boolean, 5 binary
    key_generation integer not null,  -- 0: the value is plain, otherwise sealed by that data key
    version integer not null,
    revision integer not null,
    reason integer not null,          -- 1 create, 2 update, 3 rotation, 4 rollback, 5 delete, 6 expiry
    comment text not null,
    rolled_back_from integer,
    ttl_seconds integer,
    expires_at integer,
    metadata text not null,
    history_floor integer not null,
    hidden_since integer,
    created_at integer not null,
    created_by text not null,
    updated_at integer not null,
    updated_by text not null,
    request_id text not null,
    has_history integer not null,     -- 1: there are rows in versions
    value blob not null
) strict;
create unique index entries_by_key on entries (namespace_id, key_path);
create index entries_by_generation on entries (namespace_id, is_tombstone, key_generation);
create index entries_expiring on entries (expires_at, id) where is_tombstone = 0 and expires_at is not null;
create index entries_hidden on entries (hidden_since, id) where hidden_since is not null;
create index entries_forgettable on entries (updated_at, id)
    where is_tombstone = 1 and hidden_since is null and has_history = 0;

create table versions (
    entry_id blob not null,
    namespace_id blob not null,
    version integer not null,
    is_tombstone integer not null,
    value_type integer not null,
    key_generation integer not null,
    revision integer not null,
    reason integer not null,
    comment text not null,
    rolled_back_from integer,
    ttl_seconds integer,
    expires_at integer,
    metadata text not null,
    changed_at integer not null,
    changed_by text not null,
    request_id text not null,
    value blob not null,
    primary key (entry_id, version)
) strict;
create index versions_by_generation on versions (namespace_id, key_generation) where is_tombstone = 0;

create table audit (
    position integer not null primary key,
    stream blob not null,
    sequence integer not null,
    at integer not null,
    namespace_id blob,
    entry_id blob,
    key_path text not null,
    action integer not null,          -- 1 read, 2 write, 3 delete, 4 rotate, 5 rollback
    operation text not null,
    user_id text not null,
    credential_id text not null,
    application_id text not null,
    peer text not null,
    request_id text not null,
    success integer not null,
    reason text not null,
    version integer,
    revision integer,
    count integer not null,
    mac blob not null
) strict;

create table audit_heads (
    stream blob not null primary key,
    sequence integer not null,
    mac blob not null,
    closed integer not null
) strict, without rowid;

create table outbox (
    namespace_id blob not null,
    revision integer not null,
    entry_id blob not null,
    key_path text not null,
    kind integer not null,            -- 1 created, 2 updated, 3 rotated, 4 rolled back, 5 deleted, 6 expired, 7 touched
    version integer not null,
    at integer not null,
    user_id text not null,
    primary key (namespace_id, revision)
) strict, without rowid;

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

create table data_keys (
    purpose integer not null,         -- 1 canary, 2 audit, 3 row mac, 4 token, 5 cursor, 6 data of a namespace
    namespace_id blob not null,
    generation integer not null,
    application_id text not null,
    created_at integer not null,
    wrap_key_id text not null,
    wrap blob not null,
    second_wrap_key_id text not null,
    second_wrap blob not null,
    commitment blob not null,
    primary key (purpose, namespace_id, generation)
) strict, without rowid;

insert into meta (name, value) values ('storage.schema_version', '4');
pragma application_id = 0x6b764b56;
pragma user_version = 4;
)sql";

Error foreign() { return {Errc::integrity, "the file is a database of another program"}; }

// Creates everything in one transaction: a crash leaves an empty file, which counts as new.
void create(Connection& connection) {
    connection.execute("begin immediate");
    connection.execute_script(schema);
    connection.execute("commit");
}

Error newer(std::int64_t version) {
    return {Errc::newer_schema, "the database has schema " + std::to_string(version) + ", newer than " +
                                    std::to_string(schema_version) + " of this library"};
}

// Of a database of ours; 0 if it is empty.
Result<std::int64_t> find_version(Connection& connection) {
    const std::int64_t version = read_schema_version(connection);
    const std::int64_t application = connection.ask_integer("pragma application_id");
    if (application == application_id && version > schema_version) return newer(version);
    if (application == application_id && version > 0) return version;
    const bool is_empty = connection.ask_integer("select count(*) from sqlite_schema") == 0;
    if (application == 0 && version == 0 && is_empty) return std::int64_t{0};
    return foreign();
}

// The version stands twice: in the header, and where people look for it.
Result<void> check_name(Connection& connection, std::int64_t version) {
    const std::string name = connection.ask("select value from meta where name = 'storage.schema_version'");
    if (name != std::to_string(version)) return foreign();
    return {};
}

void write_header(Connection& connection, std::int64_t version) {
    connection.execute_script(("pragma user_version = " + std::to_string(version)).c_str());
}

}  // namespace

std::int64_t read_schema_version(Connection& connection) { return connection.ask_integer("pragma user_version"); }

void write_schema_version(Connection& connection, std::int64_t version) {
    connection.run("update meta set value = ?1 where name = 'storage.schema_version'", std::to_string(version)).finish();
    write_header(connection, version);
}

// SQLite writes no page for an update that leaves a row as it is; this number it always writes.
void rewrite_schema_version(Connection& connection) { write_header(connection, schema_version); }

Result<void> prepare_schema(Connection& connection, const std::string& path) {
    KV_TRY(const std::int64_t version, find_version(connection));
    if (version != 0) KV_CHECK(check_name(connection, version));
    // Only before the first table, and before WAL writes the first page.
    if (version == 0) connection.execute("pragma auto_vacuum = incremental");
    // A failed switch is no failed statement: it answers with the mode that stayed.
    if (connection.ask("pragma journal_mode = wal") != "wal") {
        return Error{Errc::unavailable, "the database could not be switched to write-ahead logging"};
    }
    if (version == 0) {
        create(connection);
    } else if (version < schema_version) {
        return migrate(connection, path, version, schema_version);
    }
    return {};
}

Result<void> check_schema(Connection& connection) {
    KV_TRY(const std::int64_t version, find_version(connection));
    if (version == 0) return Error{Errc::not_found, "the file holds no database yet"};
    if (version < schema_version) {
        return Error{Errc::unsupported, "the database has schema " + std::to_string(version) + ", older than " +
                                            std::to_string(schema_version) +
                                            " of this library: opening it for writing migrates it"};
    }
    return check_name(connection, version);
}

}  // namespace kv::sqlite
