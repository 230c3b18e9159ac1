#include "storage/postgres_schema.h"

#include <charconv>
#include <iterator>

namespace kv::postgres {
namespace {

constexpr std::int64_t schema_version = 3;
constexpr std::chrono::seconds migration_patience{300};

// Values stand last and are never compressed: what is sealed cannot be, and a copy to the versions costs nothing more.
//
// A row is updated in place (a heap-only tuple) as long as no indexed column changes. So what becomes due has columns of its
// own that stay as they are, and pages keep some room.
//
// The log is partitioned by month, so that an administrator can drop or move old months. Its positions come from a sequence,
// which has gaps where a write failed, and gives a number before the write that took it is committed. Of one stream they ascend
// in commit order all the same, because each write of a stream follows the commit of the one before. Across streams a lower
// position may come to light after a higher one: who reads from the oldest on waits for the writes under way, see
// AuditTail. No foreign keys: what is logged outlasts what it tells of.
constexpr const char* tables_sql = R"sql(
create table meta (
    name text collate "C" primary key,
    value text not null
);

create table namespaces (
    id uuid primary key,
    application_id text collate "C" not null,
    name text collate "C" not null,
    description text not null,
    is_secret boolean not null,
    sealing boolean not null,
    default_ttl_seconds bigint,
    keeps_history boolean not null,
    history_limit bigint,
    deletion_protection boolean not null,
    version bigint not null,
    revision bigint not null,
    key_generation bigint not null,
    seals bigint not null,
    version_floor bigint not null,
    version_base bigint not null,
    changed_at timestamptz not null,
    created_at timestamptz not null,
    created_by text not null,
    updated_at timestamptz not null,
    updated_by text not null,
    deleted_at timestamptz,
    mac bytea not null
) with (fillfactor = 50);
create unique index namespaces_live on namespaces (application_id, name) where deleted_at is null;
create index namespaces_by_name on namespaces (application_id, name, id);
create index namespaces_deleted on namespaces (application_id, name, id) where deleted_at is not null;
create index namespaces_sealing on namespaces (application_id, name, id) where sealing;

create table entries (
    id uuid primary key,
    namespace_id uuid not null,
    key_path text collate "C" not null,
    is_tombstone boolean not null,     -- deleted or expired
    value_type smallint not null,      -- 1 string, 2 json, 3 number, 4 boolean, 5 binary
    key_generation bigint not null,    -- 0: the value is plain, otherwise sealed by that data key
    version bigint not null,
    revision bigint not null,
    reason smallint not null,          -- 1 create, 2 update, 3 rotation, 4 rollback, 5 delete, 6 expiry
    comment text not null,
    rolled_back_from bigint,
    ttl_seconds bigint,
    expires_at timestamptz,
    metadata text not null,
    history_floor bigint not null,
    hidden_since timestamptz,
    created_at timestamptz not null,
    created_by text not null,
    updated_at timestamptz not null,
    updated_by text not null,
    request_id text not null,
    has_history boolean not null,      -- there are rows in versions
    forgettable_since timestamptz generated always as
        (case when is_tombstone and hidden_since is null and not has_history then updated_at end) stored,
    value bytea not null
) with (fillfactor = 70);
alter table entries alter column value set storage external;
create unique index entries_by_key on entries (namespace_id, key_path);
create index entries_by_generation on entries (namespace_id, key_generation, id) where not is_tombstone;
create index entries_expiring on entries (expires_at, id) where not is_tombstone and expires_at is not null;
create index entries_hidden on entries (hidden_since, id) where hidden_since is not null;
create index entries_forgettable on entries (forgettable_since, id) where forgettable_since is not null;

create table versions (
    entry_id uuid not null,
    namespace_id uuid not null,
    version bigint not null,
    is_tombstone boolean not null,
    value_type smallint not null,
    key_generation bigint not null,
    revision bigint not null,
    reason smallint not null,
    comment text not null,
    rolled_back_from bigint,
    ttl_seconds bigint,
    expires_at timestamptz,
    metadata text not null,
    changed_at timestamptz not null,
    changed_by text not null,
    request_id text not null,
    value bytea not null,
    primary key (entry_id, version)
);
alter table versions alter column value set storage external;
create index versions_by_generation on versions (namespace_id, key_generation, entry_id, version) where not is_tombstone;

create sequence audit_position;
create table audit (
    position bigint not null default nextval('audit_position'),
    stream uuid not null,
    sequence bigint not null,
    at timestamptz not null,
    namespace_id uuid,
    entry_id uuid,
    key_path text not null,
    action smallint not null,          -- 1 read, 2 write, 3 delete, 4 rotate, 5 rollback
    operation text not null,
    user_id text not null,
    credential_id text not null,
    application_id text not null,
    peer text not null,
    request_id text not null,
    success boolean not null,
    reason text not null,
    version bigint,
    revision bigint,
    count bigint not null,
    mac bytea not null
) partition by range (at);
alter sequence audit_position owned by audit.position;
create index audit_by_position on audit (position);
create index audit_by_namespace on audit (namespace_id, at);
create index audit_by_time on audit using brin (at);
create table audit_other partition of audit default;

create table audit_heads (
    stream uuid primary key,
    sequence bigint not null,
    mac bytea not null,
    closed smallint not null           -- 0 open, 1 closed, 2 witnessed by a later stream
) with (fillfactor = 50);

create table outbox (
    namespace_id uuid not null,
    revision bigint not null,
    entry_id uuid not null,
    key_path text not null,
    kind smallint not null,            -- 1 created, 2 updated, 3 rotated, 4 rolled back, 5 deleted, 6 expired, 7 touched
    version bigint not null,
    at timestamptz not null,
    user_id text not null,
    primary key (namespace_id, revision)
);

create table data_keys (
    purpose smallint not null check (purpose between 1 and 6),  -- canary, audit, row mac, token, cursor, data of a namespace
    namespace_id uuid not null,
    generation bigint not null,
    application_id text not null,
    created_at timestamptz not null,
    wrap_key_id text not null,
    wrap bytea not null,
    second_wrap_key_id text not null,
    second_wrap bytea not null,
    commitment bytea not null,
    primary key (purpose, namespace_id, generation)
);

insert into meta (name, value) values ('storage.schema_version', '1');
)sql";

// Whoever has rights on the events has the same on who is told them, so that a role that may make no tables goes on serving
// after somebody else migrated.
constexpr const char* sinks_sql = R"sql(
create table sinks (
    name text collate "C" primary key,
    registered_at timestamptz not null,
    owner text not null,               -- which process delivers to it; empty: none
    owned_until timestamptz not null,
    owners bigint not null
) with (fillfactor = 50);

create table sink_cursors (
    sink text collate "C" not null,
    namespace_id uuid not null,
    application_id text not null,
    revision bigint not null,          -- every event up to this one arrived
    primary key (sink, namespace_id)
) with (fillfactor = 50);
create index sink_cursors_by_namespace on sink_cursors (namespace_id, sink);

-- A page of a namespace's audit rows is read in the order of their positions. Rows of no namespace are left out, so that who
-- asks by position alone never takes this index for the one by position, which over a month without rows would cost the same.
drop index audit_by_namespace;
create index audit_by_namespace on audit (namespace_id, position) where namespace_id is not null;

do $$
declare
    held record;
begin
    for held in
        select a.grantee::regrole as role, a.privilege_type as privilege from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'outbox'::regclass and a.grantee not in (0, c.relowner)
        and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant %s on sinks, sink_cursors to %s', held.privilege, held.role);
    end loop;
end
$$;

update meta set value = '2' where name = 'storage.schema_version';
)sql";

constexpr const char* tokens_sql = R"sql(
create table tokens (
    id uuid primary key,               -- a part of the hash
    hash bytea not null,               -- SHA-256 of the token, which is kept nowhere
    name text not null,
    user_id text not null,
    grants text not null,              -- JSON
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz,
    last_used_at timestamptz,
    mac bytea not null                 -- over everything but last_used_at
) with (fillfactor = 80);
create index tokens_by_expiry on tokens (expires_at) where expires_at is not null;

do $$
declare
    held record;
begin
    for held in
        select a.grantee::regrole as role, a.privilege_type as privilege from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'outbox'::regclass and a.grantee not in (0, c.relowner)
        and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant %s on tokens to %s', held.privilege, held.role);
    end loop;
end
$$;

update meta set value = '3' where name = 'storage.schema_version';
)sql";

// From each version to the next, the first from nothing. A step is never edited once it has been released.
constexpr const char* steps[] = {tables_sql, sinks_sql, tokens_sql};
static_assert(std::size(steps) == schema_version);

// This month's and the next two years'. A month whose rows lie in audit_other already stays there.
constexpr const char* months_sql = R"sql(
do $$
declare
    month timestamp := date_trunc('month', now() at time zone 'UTC');
begin
    for i in 0 .. 24 loop
        begin
            execute format('create table if not exists %I partition of audit for values from (%L) to (%L)',
                           'audit_' || to_char(month, 'YYYY_MM'), month at time zone 'UTC',
                           (month + interval '1 month') at time zone 'UTC');
        exception when check_violation then
            null;
        end;
        month := month + interval '1 month';
    end loop;
end
$$;
)sql";

// One at a time per schema of the database. DDL may take its time.
constexpr const char* begin_migration =
    "begin; set local statement_timeout = 0; set local lock_timeout = 0; set local client_min_messages = warning;"
    " select pg_advisory_xact_lock(hashtext('kv migration'), hashtext(current_schema()))";

Error foreign() { return {Errc::integrity, "the database's schema is of another program"}; }
Error newer(std::int64_t version) {
    return {Errc::newer_schema, "the database has schema " + std::to_string(version) + ", newer than " +
                                    std::to_string(schema_version) + " of this library"};
}
std::string older(std::int64_t version) {
    return "the database has schema " + std::to_string(version) + ", older than " + std::to_string(schema_version) + " of this library";
}
Error not_ours_to_make(std::int64_t version) {
    return {Errc::unsupported, (version == 0 ? "the database has no schema yet, and its role may not make one"
                                             : older(version) + ", and its role may not migrate it") +
                                   ": an administrator can, by what kvd migrate --print gives"};
}

// 0: there is none.
Result<std::int64_t> find_version(Connection& connection) {
    Rows there = connection.run("select to_regclass('meta') is not null");
    there.next();
    bool is_there = false;
    there.read(is_there);
    if (!is_there) return std::int64_t{0};
    Rows rows = connection.run("select value from meta where name = 'storage.schema_version'");
    std::string text;
    if (rows.next()) rows.read(text);
    std::int64_t version = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || version <= 0) return foreign();
    if (version > schema_version) return newer(version);
    return version;
}

bool may_not(const Failure& failure) { return failure.code() == "42501" || failure.code() == "25006"; }

// In the transaction that has the lock.
Result<std::int64_t> make_schema(Connection& connection) {
    KV_TRY(const std::int64_t version, find_version(connection));
    if (version == schema_version) return version;
    try {
        for (auto step = static_cast<std::size_t>(version); step < std::size(steps); ++step) {
            connection.execute(steps[step], migration_patience);
        }
        if (version == 0) connection.execute(months_sql, migration_patience);
    } catch (const Failure& failure) {
        if (may_not(failure)) return not_ours_to_make(version);
        throw;
    }
    return schema_version;
}

}  // namespace

Result<std::int64_t> prepare_schema(Connection& connection) {
    KV_TRY(const std::int64_t found, find_version(connection));
    if (found == schema_version) return found;
    connection.execute(begin_migration, migration_patience);
    Result<std::int64_t> made = guard([&] { return make_schema(connection); });
    if (!made) {
        connection.roll_back();
        return made;
    }
    if (connection.commit(migration_patience) != Connection::Commit::committed) {
        return Error{Errc::outcome_unknown, "whether the schema was made is not known"};
    }
    return made;
}

Result<std::int64_t> check_schema(Connection& connection) {
    KV_TRY(const std::int64_t version, find_version(connection));
    if (version == 0) return Error{Errc::not_found, "the database holds no schema yet"};
    if (version < schema_version) {
        return Error{Errc::unsupported, older(version) + ": opening it for writing migrates it"};
    }
    return version;
}

void extend_audit(Connection& connection) {
    Rows rows = connection.run(
        "select to_regclass('audit_' || to_char(now() at time zone 'UTC' + interval '23 months', 'YYYY_MM')) is null"
        " and pg_has_role(relowner, 'usage') from pg_class where oid = 'audit'::regclass");
    bool is_due = false;
    if (rows.next()) rows.read(is_due);
    if (!is_due) return;
    // A table's partitions cannot be added while a statement uses them all: rather later than waited for.
    connection.execute("set lock_timeout = 200", std::chrono::seconds(5));
    try {
        connection.execute(months_sql, migration_patience);
    } catch (const Failure&) {
        connection.poison();
        throw;
    }
    connection.execute("reset lock_timeout", std::chrono::seconds(5));
}

namespace {

// Whatever version is there, none too: the steps from it on.
std::string migration_sql() {
    std::string sql = "do $migrate$\nbegin\n";
    for (std::size_t step = 0; step < std::size(steps); ++step) {
        const std::string is_due = step == 0 ? std::string("to_regclass('meta') is null")
                                             : "(select value from meta where name = 'storage.schema_version') = '" +
                                                   std::to_string(step) + "'";
        sql += "if " + is_due + " then execute $step$" + steps[step] + "$step$; end if;\n";
    }
    return sql + "end\n$migrate$;\n";
}

}  // namespace

// The serving role never changes the log, and removes rows of it only where it is to keep its retention itself.
std::string schema_sql(std::string_view role, AuditRemoval removal) {
    std::string quoted = "\"";
    for (const char c : role) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    quoted += '"';
    std::string sql = "begin;\nset local client_min_messages = warning;\n" + migration_sql() + months_sql +
                      "\n-- What the role that serves it needs.\n"
                      "grant select, insert, update, delete on meta, namespaces, entries, versions, audit_heads, outbox, sinks, sink_cursors, tokens, data_keys to " +
                      quoted + ";\ngrant select, insert on audit to " + quoted + ";\ngrant usage on sequence audit_position to " +
                      quoted + ";\n";
    if (removal == AuditRemoval::allowed) {
        sql += "-- So that it removes the rows that are older than --audit-retention.\ngrant delete on audit to " + quoted + ";\n";
    }
    return sql + "commit;\n";
}

}  // namespace kv::postgres
