#include <limits>

#include "storage/sqlite_questions.h"
#include "storage/sqlite_reading.h"

// The questions of Questions that go through a whole table.
//
// A walk that shall go on behind an id of zeros, or behind a key without a number, was given no row but lost ones: it is
// at its end.
namespace kv::sqlite {
namespace {

bool is_lost(KeyPurpose purpose, const NamespaceId& ns, std::uint32_t generation) {
    return purpose == KeyPurpose{} || generation == 0 || (purpose == KeyPurpose::data && ns.is_nil());
}

}  // namespace

std::vector<EntryRow> Questions::walk_entries(const EntryWalk& walk) {
    if (walk.after && walk.after->ns.is_nil()) return {};
    Run run = connection_.run("select " KV_ENTRY_COLUMNS ", iif(?1, value, x'') from entries indexed by entries_by_key"
                              " where (namespace_id, key_path) > (?2, ?3) order by namespace_id, key_path",
                              walk.values);
    if (walk.after) {
        run.bind(walk.after->ns, walk.after->key_path);
    } else {
        run.bind(before_all_ids, std::string_view());
    }
    return read_page<EntryRow>(std::move(run), walk.limit, walk.bytes, read_entry,
                               [](const EntryRow& row) { return row.ns.is_nil(); });
}

std::vector<VersionRow> Questions::walk_versions(const VersionWalk& walk) {
    if (walk.after && walk.after->entry_id.is_nil()) return {};
    Run run = connection_.run("select " KV_VERSION_COLUMNS ", iif(?1, value, x'') from versions"
                              " where (entry_id, version) > (?2, ?3) order by entry_id, version",
                              walk.values);
    if (walk.after) {
        run.bind(walk.after->entry_id, walk.after->version);
    } else {
        run.bind(before_all_ids, 0);
    }
    std::vector<VersionRow> rows = read_page<VersionRow>(std::move(run), walk.limit, walk.bytes, read_version,
                                                         [](const VersionRow& row) { return row.entry_id.is_nil(); });
    name_keys(rows);
    return rows;
}

std::vector<EventRow> Questions::walk_events(const EventWalk& walk) {
    if (walk.after && walk.after->ns.is_nil()) return {};
    Run run = connection_.run("select " KV_EVENT_COLUMNS " from outbox where (namespace_id, revision) > (?1, ?2)"
                              " order by namespace_id, revision");
    if (walk.after) {
        run.bind(walk.after->ns, walk.after->revision);
    } else {
        run.bind(before_all_ids, 0);
    }
    return read_page<EventRow>(std::move(run), walk.limit, SIZE_MAX, read_event,
                               [](const EventRow& row) { return row.ns.is_nil(); });
}

std::vector<AuditHead> Questions::walk_audit_heads(const HeadWalk& walk) {
    if (walk.after && walk.after->is_nil()) return {};
    Run run = connection_.run("select " KV_HEAD_COLUMNS " from audit_heads where stream > ?1 order by stream");
    if (walk.after) {
        run.bind(*walk.after);
    } else {
        run.bind(before_all_ids);
    }
    return read_page<AuditHead>(std::move(run), walk.limit, SIZE_MAX, read_head,
                                [](const AuditHead& head) { return head.stream.is_nil(); });
}

std::vector<KeyRow> Questions::walk_keys(const KeyWalk& walk) {
    const std::optional<KeyWalk::After>& after = walk.after;
    if (after && is_lost(after->purpose, after->ns, after->generation)) return {};
    Run run = connection_.run("select " KV_KEY_COLUMNS
                              " from data_keys where (?1 = '' or ?1 in (wrap_key_id, second_wrap_key_id))"
                              " and (?2 = '' or ?2 not in (wrap_key_id, second_wrap_key_id))"
                              " and (not ?3 or (purpose = ?4 and generation <"
                              " (select key_generation from namespaces where id = data_keys.namespace_id)))"
                              " and (purpose, namespace_id, generation) > (?5, ?6, ?7)"
                              " order by purpose, namespace_id, generation",
                              walk.wrapped_by, walk.not_wrapped_by, walk.outdated, KeyPurpose::data);
    if (after) {
        run.bind(after->purpose, after->ns, after->generation);
    } else {
        run.bind(std::numeric_limits<std::int64_t>::min(), before_all_ids, 0);
    }
    return read_page<KeyRow>(std::move(run), walk.limit, SIZE_MAX, read_key,
                             [](const KeyRow& row) { return is_lost(row.purpose, row.ns, row.generation); });
}

}  // namespace kv::sqlite
