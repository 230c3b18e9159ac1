#include "storage/postgres_statement.h"

#include "storage/postgres_reading.h"

namespace kv::postgres {
namespace {

std::string_view name_of(Type type) {
    switch (type) {
        case Type::boolean: return "boolean";
        case Type::bytea: return "bytea";
        case Type::int8: return "bigint";
        case Type::int2: return "smallint";
        case Type::text: return "text";
        case Type::timestamptz: return "timestamptz";
        case Type::uuid: break;
    }
    return "uuid";
}

// Adds the rows as columns, and gives "unnest($1::uuid[], $2::text[]...)".
template <class Row, class Exchange>
std::string unnest(Statement& statement, const std::vector<Row>& rows, Exchange&& exchange) {
    std::string text = "unnest(";
    std::size_t ahead = 0;
    const Row none;
    const auto column = [&](Type type) {
        if (ahead > 0) text += ", ";
        text += statement.next(ahead++) + "::" + std::string(name_of(type)) + "[]";
    };
    exchange(none, [&](const auto&... fields) { (column(type_of<decltype(fields)>), ...); });
    statement.params.add_columns(rows, exchange);
    return text + ")";
}

template <class Id>
std::string unnest_ids(Statement& statement, const std::vector<Id>& ids) {
    return unnest(statement, ids, [](const auto& id, auto&& io) { io(id); });
}

// "a, b" becomes "a = excluded.a, b = excluded.b".
std::string set_excluded(std::string_view columns) {
    std::string text;
    while (!columns.empty()) {
        const std::size_t end = std::min(columns.find(','), columns.size());
        const std::string name(columns.substr(0, end));
        text += (text.empty() ? "" : ", ") + name + " = excluded." + name;
        columns.remove_prefix(std::min(end + 2, columns.size()));
    }
    return text;
}

}  // namespace

void Statement::add_part(std::string_view name, const std::string& sql) {
    if (!parts.empty()) parts += ", ";
    parts += std::string(name) + " as (" + sql + ")";
}

void Statement::require_heads(const std::string& count, std::size_t expected) {
    conditions += ", 1 / ((" + count + ") = " + next() + ")::int";
    params.add(static_cast<std::int64_t>(expected));
}

void Statement::require_archived(const std::string& count, std::size_t expected) {
    conditions += ", ln(((" + count + ") = " + next() + ")::int)";
    params.add(static_cast<std::int64_t>(expected));
}

void put_namespaces(Statement& statement, const std::vector<NamespaceRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_namespace(row, io); });
    statement.add_part("put_namespaces", "insert into namespaces (" KV_NAMESPACE_COLUMNS ") select * from " + given +
                                             " on conflict (id) do update set " + set_excluded(KV_NAMESPACE_COLUMNS));
}

// ---- entries and their versions ----

namespace {

#define KV_ARCHIVED_COLUMNS                                                                                            \
    "e.id, e.namespace_id, e.version, e.is_tombstone, e.value_type, e.key_generation, e.revision, e.reason, e.comment, " \
    "e.rolled_back_from, e.ttl_seconds, e.expires_at, e.metadata, e.updated_at, e.updated_by, e.request_id, e.value"

// How the parts that change entries know of one another.
struct EntryParts {
    std::string archived;  // an array of ids; empty: none
    std::string made;      // the same
    std::string erased;    // rows (id, first, last)

    // Whether the version that `id` and `version` name is erased.
    std::string is_erased(const std::string& id, const std::string& version) const {
        return "exists (select 1 from " + erased + " d(id, first, last) where d.id = " + id + " and " + version +
               " between d.first and d.last)";
    }
    // Whether the entry has versions once all is done.
    std::string has_history(const std::string& id) const {
        std::string text;
        if (!archived.empty()) text += id + " = any(" + archived + ") or ";
        if (!made.empty()) text += id + " = any(" + made + ") or ";
        // Not "exists", for which the planner would read all versions once instead of looking for these.
        text += "(select true from versions v where v.entry_id = " + id;
        if (!erased.empty()) text += " and not " + is_erased("v.entry_id", "v.version");
        return "(" + text + " limit 1) is not null)";
    }
};

void archive(Statement& statement, const std::vector<EntryId>& ids, EntryParts& parts) {
    const std::string given = unnest_ids(statement, ids) + " a(id) join entries e on e.id = a.id";
    std::string kept = "select " KV_ARCHIVED_COLUMNS " from " + given;
    if (!parts.erased.empty()) kept += " where not " + parts.is_erased("e.id", "e.version");
    statement.add_part("archived", "insert into versions (" KV_VERSION_COLUMNS ", value) " + kept + " returning entry_id");
    statement.require_archived("select count(*) from " + (parts.erased.empty() ? std::string("archived") : given), ids.size());
    parts.archived = "array(select entry_id from archived)";
}

void add_versions(Statement& statement, const std::vector<VersionRow>& rows, EntryParts& parts) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_version(row, io); });
    statement.add_part("made", "insert into versions (" KV_VERSION_COLUMNS ", value) select * from " + given + " returning entry_id");
    parts.made = "array(select entry_id from made)";
}

void put_entries(Statement& statement, const std::vector<EntryRow>& rows, const EntryParts& parts) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_entry(row, io); });
    statement.add_part("put_entries", "insert into entries (" KV_ENTRY_COLUMNS ", value, has_history) select r.*, " +
                                          parts.has_history("r.id") + " from " + given + " r(" KV_ENTRY_COLUMNS ", value)"
                                          " on conflict (id) do update set " +
                                          set_excluded(KV_ENTRY_COLUMNS ", value, has_history"));
}

void mark_entries(Statement& statement, const std::vector<EntryId>& ids, const EntryParts& parts) {
    const std::string given = unnest_ids(statement, ids);
    statement.add_part("marked", "update entries e set has_history = " + parts.has_history("e.id") + " from " + given +
                                     " m(id) where e.id = m.id and e.has_history <> " + parts.has_history("e.id"));
}

}  // namespace

void change_entries(Statement& statement, const Changeset& changes, const std::vector<EntryId>& marked) {
    EntryParts parts;
    if (!changes.erase_versions.empty()) {
        parts.erased = unnest(statement, changes.erase_versions, [](const VersionErase& erase, auto&& io) {
            io(erase.entry_id, bound(erase.from), bound(erase.to));
        });
        statement.add_part("erased_versions", "delete from versions v using " + parts.erased +
                                                  " d(id, first, last) where v.entry_id = d.id and v.version between d.first and d.last");
    }
    if (!changes.archive.empty()) archive(statement, changes.archive, parts);
    if (!changes.versions.empty()) add_versions(statement, changes.versions, parts);
    if (!changes.entries.empty()) put_entries(statement, changes.entries, parts);
    if (!marked.empty()) mark_entries(statement, marked, parts);
    if (!changes.erase_entries.empty()) {
        const std::string given = unnest_ids(statement, changes.erase_entries);
        statement.add_part("erased_entries", "delete from entries e using " + given + " x(id) where e.id = x.id");
    }
}

void reseal(Statement& statement, const std::vector<Reseal>& reseals) {
    const std::string given =
        unnest(statement, reseals, [](const auto& one, auto&& io) {
            io(one.entry_id, one.version, one.archived, one.key_generation, Blob{one.value});
        }) + " r(id, version, is_archived, key_generation, value)";
    const std::string set = " set key_generation = r.key_generation, value = r.value from " + given;
    statement.add_part("resealed_entries",
                       "update entries e" + set + " where not r.is_archived and e.id = r.id and e.version = r.version");
    statement.add_part("resealed_versions",
                       "update versions v" + set + " where r.is_archived and v.entry_id = r.id and v.version = r.version");
}

// ---- the rest ----

void erase_namespaces(Statement& statement, const std::vector<NamespaceId>& ids) {
    const std::string given = unnest_ids(statement, ids) + " x(id)";
    statement.add_part("erased_namespaces", "delete from namespaces n using " + given + " where n.id = x.id");
    statement.add_part("erased_data_keys", "delete from data_keys k using " + given + " where k.purpose = " +
                                               std::to_string(static_cast<int>(KeyPurpose::data)) + " and k.namespace_id = x.id");
}

void add_events(Statement& statement, const std::vector<EventRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_event(row, io); });
    statement.add_part("added_events", "insert into outbox (" KV_EVENT_COLUMNS ") select * from " + given);
}

void put_keys(Statement& statement, const std::vector<KeyRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_key(row, io); });
    statement.add_part("put_keys", "insert into data_keys (" KV_KEY_COLUMNS ") select * from " + given +
                                       " on conflict (purpose, namespace_id, generation) do update set " +
                                       set_excluded(KV_KEY_COLUMNS));
}

void erase_keys(Statement& statement, const std::vector<KeyRef>& refs) {
    const std::string given =
        unnest(statement, refs, [](const auto& ref, auto&& io) { io(ref.purpose, ref.ns, ref.generation); });
    statement.add_part("erased_keys", "delete from data_keys k using " + given +
                                          " x(purpose, ns, generation) where k.purpose = x.purpose and k.namespace_id = x.ns"
                                          " and k.generation = x.generation");
}

void put_meta(Statement& statement, const std::vector<MetaRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { io(row.name, row.value); });
    statement.add_part("put_meta", "insert into meta (name, value) select * from " + given +
                                       " on conflict (name) do update set value = excluded.value");
}

void erase_meta(Statement& statement, const std::vector<std::string>& names) {
    const std::string given = unnest_ids(statement, names);
    statement.add_part("erased_meta", "delete from meta m using " + given + " x(name) where m.name = x.name");
}

void add_audit(Statement& statement, const std::vector<AuditRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_audit(row, io); });
    statement.add_part("added_audit", "insert into audit (" KV_AUDIT_COLUMNS ") select * from " + given);
}

void erase_audit(Statement& statement, std::uint64_t to, bool newest_too) {
    const std::string last = statement.next();
    statement.params.add(bound(to));
    std::string sql = "delete from audit where position <= " + last;
    if (!newest_too) sql += " and position < (select max(position) from audit)";
    statement.add_part("erased_audit", sql);
}

// Only from where they stand: one that was made or moved meanwhile is left alone, and missing in the number of those moved.
void move_heads(Statement& statement, const std::vector<HeadChange>& changes) {
    std::vector<HeadChange> moved;
    std::vector<AuditHead> made;
    for (const HeadChange& change : changes) {
        if (change.before.sequence == 0) {
            made.push_back(change.after);
        } else {
            moved.push_back(change);
        }
    }
    if (!moved.empty()) {
        const std::string given =
            unnest(statement, moved, [](const auto& change, auto&& io) {
                io(change.after.stream, change.after.sequence, change.after.mac, change.after.state, change.before.sequence,
                   change.before.mac);
            }) + " r(stream, sequence, mac, closed, sequence_before, mac_before)";
        statement.add_part("moved_heads", "update audit_heads h set sequence = r.sequence, mac = r.mac, closed = r.closed from " + given +
                                              " where h.stream = r.stream and h.sequence = r.sequence_before"
                                              " and h.mac = r.mac_before returning 1");
        statement.require_heads("select count(*) from moved_heads", moved.size());
    }
    if (!made.empty()) {
        const std::string given = unnest(statement, made, [](const auto& head, auto&& io) { exchange_head(head, io); });
        statement.add_part("new_heads", "insert into audit_heads (" KV_HEAD_COLUMNS ") select * from " + given +
                                            " on conflict do nothing returning 1");
        statement.require_heads("select count(*) from new_heads", made.size());
    }
}

void erase_heads(Statement& statement, const std::vector<StreamId>& streams) {
    const std::string given = unnest_ids(statement, streams);
    statement.add_part("erased_heads", "delete from audit_heads h using " + given + " x(stream) where h.stream = x.stream");
}

void erase_events(Statement& statement, const std::vector<EventErase>& erases) {
    const std::string given = unnest(statement, erases, [](const auto& erase, auto&& io) { io(erase.ns, bound(erase.to)); });
    statement.add_part("erased_events", "delete from outbox o using " + given +
                                            " x(ns, last) where o.namespace_id = x.ns and o.revision <= x.last");
}

void put_sinks(Statement& statement, const std::vector<SinkRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_sink(row, io); });
    statement.add_part("put_sinks", "insert into sinks (" KV_SINK_COLUMNS ") select * from " + given +
                                        " on conflict (name) do update set " + set_excluded(KV_SINK_COLUMNS));
}

void put_cursors(Statement& statement, const std::vector<SinkCursorRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_cursor(row, io); });
    statement.add_part("put_cursors", "insert into sink_cursors (" KV_CURSOR_COLUMNS ") select * from " + given +
                                          " on conflict (sink, namespace_id) do update set " + set_excluded(KV_CURSOR_COLUMNS));
}

void erase_cursors(Statement& statement, const std::vector<CursorErase>& erases) {
    const std::string given = unnest(statement, erases, [](const auto& erase, auto&& io) { io(erase.sink, erase.ns); });
    statement.add_part("erased_cursors", "delete from sink_cursors c using " + given +
                                             " x(sink, ns) where c.sink = x.sink and c.namespace_id = x.ns");
}

void erase_sinks(Statement& statement, const std::vector<std::string>& names) {
    const std::string given = unnest_ids(statement, names) + " x(name)";
    statement.add_part("erased_sinks", "delete from sinks s using " + given + " where s.name = x.name");
    statement.add_part("erased_cursors_of_sinks", "delete from sink_cursors c using " + given + " where c.sink = x.name");
}

void put_tokens(Statement& statement, const std::vector<TokenRow>& rows) {
    const std::string given = unnest(statement, rows, [](const auto& row, auto&& io) { exchange_token(row, io); });
    statement.add_part("put_tokens", "insert into tokens (" KV_TOKEN_COLUMNS ") select * from " + given + " on conflict (id) do update set " +
                                         set_excluded(KV_TOKEN_COLUMNS));
}

void erase_tokens(Statement& statement, const std::vector<Uuid>& ids) {
    const std::string given = unnest_ids(statement, ids);
    statement.add_part("erased_tokens", "delete from tokens t using " + given + " x(id) where t.id = x.id");
}

void note_token_uses(Statement& statement, const std::vector<TokenUse>& uses) {
    const std::string given = unnest(statement, uses, [](const auto& use, auto&& io) { io(use.id, use.at); });
    statement.add_part("used_tokens", "update tokens t set last_used_at = x.at from " + given +
                                          " x(id, at) where t.id = x.id and (t.last_used_at is null or t.last_used_at < x.at)");
}

}  // namespace kv::postgres
