#include "storage/sqlite_changes.h"

#include <algorithm>
#include <limits>

#include "storage/rows.h"

namespace kv::sqlite {
namespace {

std::int64_t bound(std::uint64_t value) {
    constexpr std::uint64_t integer_max = std::numeric_limits<std::int64_t>::max();
    return static_cast<std::int64_t>(std::min(value, integer_max));
}

constexpr auto namespace_columns = [](const auto& row, auto&& io) { exchange_namespace(row, io); };

// Binds all columns of a row and runs the statement.
template <class Row, class Exchange>
void run_with(Connection& connection, const char* sql, const Row& row, Exchange&& exchange) {
    Run run = connection.run(sql);
    exchange(row, [&](const auto&... fields) { run.bind(fields...); });
    run.finish();
}

// Setting a column rewrites its indexes even if it stays the same, which costs five times the update itself. So the usual
// change, which leaves the indexed columns alone, has a statement of its own.
bool update_namespace(Connection& connection, const NamespaceRow& row) {
    run_with(connection,
             "update namespaces set description = ?4, is_secret = ?5, default_ttl_seconds = ?7, keeps_history = ?8,"
             " history_limit = ?9, deletion_protection = ?10, version = ?11, revision = ?12, key_generation = ?13,"
             " seals = ?14, version_floor = ?15, version_base = ?16, changed_at = ?17, created_at = ?18,"
             " created_by = ?19, updated_at = ?20, updated_by = ?21, mac = ?23"
             " where id = ?1 and application_id = ?2 and name = ?3 and sealing = ?6 and deleted_at is ?22",
             row, namespace_columns);
    return connection.changes() == 1;
}

void replace_namespace(Connection& connection, const NamespaceRow& row) {
    run_with(connection,
             "insert into namespaces (" KV_NAMESPACE_COLUMNS
             ") values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,"
             " ?21, ?22, ?23)"
             " on conflict (id) do update set application_id = ?2, name = ?3, description = ?4, is_secret = ?5,"
             " sealing = ?6, default_ttl_seconds = ?7, keeps_history = ?8, history_limit = ?9,"
             " deletion_protection = ?10, version = ?11, revision = ?12, key_generation = ?13, seals = ?14,"
             " version_floor = ?15, version_base = ?16, changed_at = ?17, created_at = ?18, created_by = ?19,"
             " updated_at = ?20, updated_by = ?21, deleted_at = ?22, mac = ?23",
             row, namespace_columns);
}

Result<void> put_namespace(Connection& connection, const NamespaceRow& row) {
    if (update_namespace(connection, row)) return {};
    try {
        replace_namespace(connection, row);
    } catch (const Failure& failure) {
        if (!is_taken_name(failure.code)) throw;
        return Error{Errc::namespace_exists, "a live namespace of that name exists"};
    }
    return {};
}

void mark_history(Connection& connection, const EntryId& id) {
    connection.run("update entries set has_history = 1 where id = ?1 and has_history = 0", id).finish();
}

#define KV_ARCHIVE                                                                                             \
    "insert into versions (" KV_VERSION_COLUMNS                                                                \
    ", value) select id, namespace_id, version, is_tombstone, value_type, key_generation, revision, reason,"   \
    " comment, rolled_back_from, ttl_seconds, expires_at, metadata, updated_at, updated_by, request_id, value" \
    " from entries where "

Result<void> archive(Connection& connection, const EntryId& id, const std::int64_t* row_id) {
    if (row_id) {
        connection.run(KV_ARCHIVE "rowid = ?2 and id = ?1", id, *row_id).finish();
    } else {
        connection.run(KV_ARCHIVE "id = ?1", id).finish();
    }
    if (connection.changes() != 1) return Error{Errc::internal, "there is no entry to archive"};
    return {};
}

void insert_version(Connection& connection, const VersionRow& row) {
    run_with(connection,
             "insert into versions (" KV_VERSION_COLUMNS
             ", value) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
             row, [](const auto& fields, auto&& io) { exchange_version(fields, io); });
    mark_history(connection, row.entry_id);
}

// `is_archived`: by this change, so that it has a history from now on.
template <class... T>
void run_with_entry(Connection& connection, const char* sql, const EntryRow& row, bool is_archived, const T&... more) {
    Run run = connection.run(sql);
    exchange_entry(row, [&](const auto&... fields) { run.bind(fields...); });
    run.bind(is_archived, more...);
    run.finish();
}

#define KV_UPDATE_ENTRY                                                                                       \
    "update entries set value_type = ?5, version = ?7, revision = ?8, reason = ?9, comment = ?10,"            \
    " rolled_back_from = ?11, ttl_seconds = ?12, expires_at = ?13, metadata = ?14, history_floor = ?15,"      \
    " hidden_since = ?16, created_at = ?17, created_by = ?18, updated_at = ?19, updated_by = ?20,"            \
    " request_id = ?21, value = ?22, has_history = has_history or ?23"                                        \
    " where id = ?1 and namespace_id = ?2 and key_path = ?3 and is_tombstone = ?4 and key_generation = ?6"

bool update_entry(Connection& connection, const EntryRow& row, bool is_archived, const std::int64_t* row_id) {
    if (row_id) {
        run_with_entry(connection, KV_UPDATE_ENTRY " and rowid = ?24", row, is_archived, *row_id);
    } else {
        run_with_entry(connection, KV_UPDATE_ENTRY, row, is_archived);
    }
    return connection.changes() == 1;
}

void put_entry(Connection& connection, const EntryRow& row, bool is_archived, const std::int64_t* row_id) {
    if (update_entry(connection, row, is_archived, row_id)) return;
    run_with_entry(connection,
                   "insert into entries (" KV_ENTRY_COLUMNS
                   ", value, has_history) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,"
                   " ?16, ?17, ?18, ?19, ?20, ?21, ?22, exists (select 1 from versions where entry_id = ?1))"
                   " on conflict (id) do update set namespace_id = ?2, key_path = ?3, is_tombstone = ?4,"
                   " value_type = ?5, key_generation = ?6, version = ?7, revision = ?8, reason = ?9, comment = ?10,"
                   " rolled_back_from = ?11, ttl_seconds = ?12, expires_at = ?13, metadata = ?14, history_floor = ?15,"
                   " hidden_since = ?16, created_at = ?17, created_by = ?18, updated_at = ?19, updated_by = ?20,"
                   " request_id = ?21, value = ?22, has_history = has_history or ?23",
                   row, is_archived);
}

const std::int64_t* find_row_id(const RowIds& row_ids, const EntryId& id) {
    const auto found = row_ids.find(id);
    return found != row_ids.end() ? &found->second : nullptr;
}

// Archives entries, and then changes them: what was archived usually changes at once, and takes note of its history in
// the same statement.
Result<void> change_entries(Connection& connection, const Changeset& changes, const RowIds& row_ids) {
    std::vector<EntryId> archived = changes.archive;
    std::sort(archived.begin(), archived.end());
    for (const EntryId& id : archived) KV_CHECK(archive(connection, id, find_row_id(row_ids, id)));
    for (const VersionRow& row : changes.versions) insert_version(connection, row);
    std::size_t noted = 0;
    for (const EntryRow& row : changes.entries) {
        const bool is_archived = std::binary_search(archived.begin(), archived.end(), row.id);
        put_entry(connection, row, is_archived, find_row_id(row_ids, row.id));
        if (is_archived) ++noted;
    }
    if (noted == archived.size()) return {};
    for (const EntryId& id : archived) mark_history(connection, id);
    return {};
}

void reseal(Connection& connection, const Reseal& change) {
    connection
        .run(change.archived
                 ? "update versions set key_generation = ?3, value = ?4 where entry_id = ?1 and version = ?2"
                 : "update entries set key_generation = ?3, value = ?4 where id = ?1 and version = ?2",
             change.entry_id, change.version, change.key_generation, Blob{change.value})
        .finish();
}

void erase_versions(Connection& connection, const VersionErase& erase) {
    connection
        .run("delete from versions where entry_id = ?1 and version between ?2 and ?3", erase.entry_id,
             bound(erase.from), bound(erase.to))
        .finish();
    if (connection.changes() == 0) return;
    connection
        .run("update entries set has_history = 0 where id = ?1"
             " and not exists (select 1 from versions where entry_id = ?1)",
             erase.entry_id)
        .finish();
}

void erase_namespace(Connection& connection, const NamespaceId& id) {
    connection.run("delete from namespaces where id = ?1", id).finish();
    connection.run("delete from data_keys where purpose = ?1 and namespace_id = ?2", KeyPurpose::data, id).finish();
}

void insert_event(Connection& connection, const EventRow& row) {
    run_with(connection, "insert into outbox (" KV_EVENT_COLUMNS ") values (?, ?, ?, ?, ?, ?, ?, ?)", row,
             [](const auto& fields, auto&& io) { exchange_event(fields, io); });
}

void put_key(Connection& connection, const KeyRow& row) {
    run_with(connection,
             "insert or replace into data_keys (" KV_KEY_COLUMNS ") values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row,
             [](const auto& fields, auto&& io) { exchange_key(fields, io); });
}

void put_meta(Connection& connection, const MetaRow& row) {
    connection.run("insert or replace into meta (name, value) values (?, ?)", row.name, row.value).finish();
}

void insert_audit(Connection& connection, const AuditRow& row) {
    run_with(connection,
             "insert into audit (" KV_AUDIT_COLUMNS
             ") values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
             row, [](const auto& fields, auto&& io) { exchange_audit(fields, io); });
}

Result<void> put_head(Connection& connection, const HeadChange& change) {
    const AuditHead& before = change.before;
    const AuditHead& after = change.after;
    if (before.sequence == 0) {
        connection
            .run("insert into audit_heads (stream, sequence, mac, closed) values (?, ?, ?, ?) on conflict do nothing",
                 after.stream, after.sequence, after.mac, after.state)
            .finish();
    } else {
        connection
            .run("update audit_heads set sequence = ?2, mac = ?3, closed = ?4"
                 " where stream = ?1 and sequence = ?5 and mac = ?6",
                 after.stream, after.sequence, after.mac, after.state, before.sequence, before.mac)
            .finish();
    }
    if (connection.changes() != 1) return Error{Errc::invalid_state, "the audit stream has moved on"};
    return {};
}

void change_sinks(Connection& connection, const Changeset& changes) {
    for (const SinkRow& row : changes.sinks) {
        run_with(connection, "insert or replace into sinks (" KV_SINK_COLUMNS ") values (?, ?, ?, ?, ?)", row,
                 [](const auto& fields, auto&& io) { exchange_sink(fields, io); });
    }
    for (const SinkCursorRow& row : changes.cursors) {
        run_with(connection,
                 "insert into sink_cursors (" KV_CURSOR_COLUMNS ") values (?1, ?2, ?3, ?4)"
                 " on conflict (sink, namespace_id) do update set application_id = ?3, revision = ?4",
                 row, [](const auto& fields, auto&& io) { exchange_cursor(fields, io); });
    }
    for (const CursorErase& erase : changes.erase_cursors) {
        connection.run("delete from sink_cursors where sink = ?1 and namespace_id = ?2", erase.sink, erase.ns).finish();
    }
    for (const std::string& name : changes.erase_sinks) {
        connection.run("delete from sinks where name = ?1", name).finish();
        connection.run("delete from sink_cursors where sink = ?1", name).finish();
    }
}

void change_tokens(Connection& connection, const Changeset& changes) {
    for (const TokenRow& row : changes.tokens) {
        run_with(connection, "insert or replace into tokens (" KV_TOKEN_COLUMNS ") values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row,
                 [](const auto& fields, auto&& io) { exchange_token(fields, io); });
    }
    for (const Uuid& id : changes.erase_tokens) connection.run("delete from tokens where id = ?1", id).finish();
    for (const TokenUse& use : changes.token_uses) {
        connection.run("update tokens set last_used_at = ?2 where id = ?1 and coalesce(last_used_at, ?3) < ?2", use.id, use.at, INT64_MIN).finish();
    }
}

// The old rows go after the new ones came: an empty table would count its positions from 1 again.
void change_audit(Connection& connection, const Changeset& changes) {
    const bool erases = changes.erase_audit_to > 0;
    const std::int64_t newest = erases ? connection.ask_integer("select max(position) from audit") : 0;
    for (const AuditRow& row : changes.audit) insert_audit(connection, row);
    if (!erases) return;
    connection.run("delete from audit where position <= ?1", std::min(bound(changes.erase_audit_to), newest)).finish();
}

void erase_all(Connection& connection) {
    for (const char* sql : {"delete from namespaces", "delete from entries", "delete from versions", "delete from audit",
                            "delete from audit_heads", "delete from outbox", "delete from sinks", "delete from sink_cursors",
                            "delete from tokens", "delete from data_keys",
                            "delete from meta where substr(name, 1, 8) <> 'storage.'"}) {
        connection.run(sql).finish();
    }
}

}  // namespace

Result<void> apply(Connection& connection, const Changeset& changes, const RowIds& row_ids) {
    if (changes.erase_all) erase_all(connection);
    for (const NamespaceRow& row : changes.namespaces) KV_CHECK(put_namespace(connection, row));
    KV_CHECK(change_entries(connection, changes, row_ids));
    for (const Reseal& change : changes.reseals) reseal(connection, change);
    for (const VersionErase& erase : changes.erase_versions) erase_versions(connection, erase);
    for (const EntryId& id : changes.erase_entries) connection.run("delete from entries where id = ?1", id).finish();
    for (const NamespaceId& id : changes.erase_namespaces) erase_namespace(connection, id);
    for (const EventRow& row : changes.events) insert_event(connection, row);
    for (const KeyRow& row : changes.keys) put_key(connection, row);
    for (const KeyRef& ref : changes.erase_keys) {
        connection
            .run("delete from data_keys where purpose = ?1 and namespace_id = ?2 and generation = ?3", ref.purpose, ref.ns,
                 ref.generation)
            .finish();
    }
    for (const MetaRow& row : changes.meta) put_meta(connection, row);
    for (const std::string& name : changes.erase_meta) connection.run("delete from meta where name = ?1", name).finish();
    change_audit(connection, changes);
    for (const HeadChange& change : changes.heads) KV_CHECK(put_head(connection, change));
    for (const StreamId& stream : changes.erase_heads) {
        connection.run("delete from audit_heads where stream = ?1", stream).finish();
    }
    for (const EventErase& erase : changes.erase_events) {
        connection.run("delete from outbox where namespace_id = ?1 and revision <= ?2", erase.ns, bound(erase.to)).finish();
    }
    change_sinks(connection, changes);
    change_tokens(connection, changes);
    return {};
}

}  // namespace kv::sqlite
