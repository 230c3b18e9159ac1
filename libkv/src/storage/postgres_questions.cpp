#include "storage/postgres_questions.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "storage/postgres_reading.h"

namespace kv::postgres {
namespace {

// An id, or a name with its application: what is not given is null.
struct NamespaceColumns {
    Array ids{Type::uuid};
    Array applications{Type::text};
    Array names{Type::text};

    void push(const NamespaceRef& ref) {
        if (const auto* name = std::get_if<NamespaceName>(&ref)) {
            ids.push_null();
            applications.push(name->application_id);
            names.push(name->name);
        } else {
            ids.push(std::get<NamespaceId>(ref));
            applications.push_null();
            names.push_null();
        }
    }
    void add_to(Params& params) {
        params.add(std::move(ids));
        params.add(std::move(applications));
        params.add(std::move(names));
    }
};

}  // namespace

void Questions::hear(Rows& rows) {
    Time time;
    rows.read(time);
    heard_ = time;
    clock_.hear(time);
}

// ---- namespaces and entries by name ----

namespace {

Asked ask_lock(std::span<const NamespaceRef> refs) {
    // A row that had to be waited for comes as it is afterwards.
    static constexpr const char* sql =
        "select " KV_NAMESPACE_COLUMNS
        ", clock_timestamp() from namespaces where id in"
        " (select coalesce(r.id, (select m.id from namespaces m where r.id is null and m.application_id = r.application"
        " and m.name = r.name and m.deleted_at is null))"
        " from unnest($1::uuid[], $2::text[], $3::text[]) r(id, application, name))"
        " order by id for no key update";
    NamespaceColumns columns;
    for (const NamespaceRef& ref : std::set<NamespaceRef>(refs.begin(), refs.end())) columns.push(ref);
    Params params;
    columns.add_to(params);
    return {sql, std::move(params)};
}

}  // namespace

std::vector<std::shared_ptr<const NamespaceRow>> Questions::lock(std::span<const NamespaceRef> refs) {
    if (!refs.empty()) return read_locked(connection_.run(ask_lock(refs)), refs);
    connection_.run("select pg_advisory_xact_lock(hashtext('kv store'), hashtext(current_schema()))");
    return {};
}

std::vector<std::shared_ptr<const NamespaceRow>> Questions::read_locked(Rows rows, std::span<const NamespaceRef> refs) {
    std::map<NamespaceId, std::shared_ptr<const NamespaceRow>> by_id;
    std::map<NamespaceName, std::shared_ptr<const NamespaceRow>> by_name;
    while (rows.next()) {
        auto row = std::make_shared<const NamespaceRow>(read_namespace(rows));
        hear(rows);
        by_id[row->id] = row;
        if (!row->deleted_at) by_name[{row->application_id, row->name}] = row;
    }
    std::vector<std::shared_ptr<const NamespaceRow>> found;
    for (const NamespaceRef& ref : refs) {
        if (const auto* name = std::get_if<NamespaceName>(&ref)) {
            const auto at = by_name.find(*name);
            found.push_back(at == by_name.end() ? nullptr : at->second);
        } else {
            const auto at = by_id.find(std::get<NamespaceId>(ref));
            found.push_back(at == by_id.end() ? nullptr : at->second);
        }
    }
    return found;
}

namespace {

// One row per reference, in their order. A namespace comes with the first that names it alone.
std::string find_sql(bool with_versions) {
    std::string sql = "select " + of("n", KV_NAMESPACE_COLUMNS) + ", " + of("e", KV_ENTRY_COLUMNS) +
                      ", case when $8 then e.value end, e.has_history";
    if (with_versions) sql += ", " + of("v", KV_VERSION_COLUMNS) + ", case when $8 then v.value end";
    // Each table is a search of its own for each reference, whatever the planner makes of tables that were empty when the
    // statement was prepared.
    sql += ", case when r.place = 1 then clock_timestamp() end"
           " from (select coalesce(g.id, (select m.id from namespaces m where g.id is null and m.application_id = g.application"
           " and m.name = g.name and m.deleted_at is null)) as ns, g.*"
           " from unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::smallint[], $7::bigint[])"
           " with ordinality g(id, application, name, is_first, key_path, pick, version, place) offset 0) r"
           " left join lateral (select * from namespaces o where r.is_first and o.id = r.ns limit 1) n on true"
           " left join lateral (select * from entries o where o.namespace_id = r.ns and o.key_path = r.key_path limit 1) e on true";
    if (with_versions) {
        sql += " left join lateral (select * from versions p where p.entry_id = e.id and r.pick = 1 and p.version = r.version"
               " union all (select * from versions p where p.entry_id = e.id and r.pick = 2 and p.version < e.version"
               " and not p.is_tombstone order by p.version desc limit 1)) v on true";
    }
    return sql + " order by r.place";
}

constexpr int namespace_columns = column_count(KV_NAMESPACE_COLUMNS);
constexpr int entry_columns = column_count(KV_ENTRY_COLUMNS) + 2;
constexpr int version_columns = column_count(KV_VERSION_COLUMNS) + 1;

void read_entry_into(Rows& rows, Want want, Found& found) {
    found.entry = read_entry(rows);
    bool has_history = false;
    rows.read(has_history);
    found.has_history = want.history && has_history;
}
void read_version_into(Rows& rows, Found& found) {
    if (!found.entry || rows.is_null()) return rows.skip(version_columns);
    found.version = read_version(rows);
}

// Of one namespace, in which what is asked for is seen as it is now: the usual question. First comes the time with the
// namespace, if there is one, then the entries that there are, each once.
std::string find_in_namespace_sql() {
    std::string nulls;
    for (int i = 0; i < entry_columns; ++i) nulls += ", null";
    std::string none;
    for (int i = 0; i < namespace_columns; ++i) none += ", null";
    return "with n as materialized (select " KV_NAMESPACE_COLUMNS " from namespaces where id = coalesce($1::uuid,"
           " (select m.id from namespaces m where m.application_id = $2::text and m.name = $3::text and m.deleted_at is null)))"
           " select clock_timestamp(), n.*" + nulls + " from (select 1) one left join n on true"
           " union all select null" + none + ", " + of("e", KV_ENTRY_COLUMNS) + ", case when $5::boolean then e.value end, e.has_history"
           " from entries e where e.namespace_id = (select id from n) and e.key_path = any($4::text[])";
}

bool is_of_one_namespace(std::span<const EntryRef> refs) {
    return std::all_of(refs.begin(), refs.end(), [&](const EntryRef& ref) {
        return ref.pick.kind == VersionPick::Kind::current && ref.ns == refs.front().ns;
    });
}

// `refs` are of one namespace.
Asked ask_in_namespace(std::span<const EntryRef> refs, Want want) {
    static const std::string sql = find_in_namespace_sql();
    const auto* id = std::get_if<NamespaceId>(&refs.front().ns);
    const auto* name = std::get_if<NamespaceName>(&refs.front().ns);
    Params params;
    params.add(id ? std::optional(*id) : std::nullopt);
    params.add(name ? std::optional(name->application_id) : std::nullopt);
    params.add(name ? std::optional(name->name) : std::nullopt);
    params.add_array(refs, [](const EntryRef& ref) -> const std::string& { return ref.key_path; });
    params.add(want.value);
    return {sql.c_str(), std::move(params)};
}

}  // namespace

std::vector<Found> Questions::read_in_namespace(Rows rows, std::span<const EntryRef> refs, Want want) {
    std::unordered_multimap<std::string_view, std::size_t> wanted;
    for (std::size_t i = 0; i < refs.size(); ++i) wanted.emplace(refs[i].key_path, i);
    std::vector<Found> all(refs.size());
    std::shared_ptr<const NamespaceRow> ns;
    while (rows.next()) {
        if (!rows.is_null()) {
            hear(rows);
            if (!rows.is_null()) ns = std::make_shared<const NamespaceRow>(read_namespace(rows));
            continue;
        }
        rows.skip(1 + namespace_columns);
        Found found;
        read_entry_into(rows, want, found);
        const auto [first, end] = wanted.equal_range(found.entry->key_path);
        for (auto at = first; at != end; ++at) all[at->second] = std::next(at) == end ? std::move(found) : found;
    }
    for (Found& found : all) found.ns = ns;
    return all;
}

std::vector<Found> Questions::find(std::span<const EntryRef> refs, Want want) {
    if (!refs.empty() && is_of_one_namespace(refs)) return read_in_namespace(connection_.run(ask_in_namespace(refs, want)), refs, want);
    static const std::string with_versions = find_sql(true);
    static const std::string without_versions = find_sql(false);
    if (refs.empty()) return {};
    NamespaceColumns columns;
    Array firsts(Type::boolean);
    std::map<NamespaceRef, std::size_t> first_of;
    std::vector<std::size_t> named_by;  // the reference that brings the namespace of each
    bool picks = false;
    for (const EntryRef& ref : refs) {
        const auto [first, is_first] = first_of.try_emplace(ref.ns, named_by.size());
        named_by.push_back(first->second);
        columns.push(ref.ns);
        firsts.push(is_first);
        picks = picks || ref.pick.kind != VersionPick::Kind::current;
    }
    Params params;
    columns.add_to(params);
    params.add(std::move(firsts));
    params.add_array(refs, [](const EntryRef& ref) -> const std::string& { return ref.key_path; });
    params.add_array(refs, [](const EntryRef& ref) { return ref.pick.kind; });
    params.add_array(refs, [](const EntryRef& ref) { return ref.pick.version; });
    params.add(want.value);

    Rows rows = connection_.run(picks ? with_versions.c_str() : without_versions.c_str(), params);
    std::vector<Found> all(refs.size());
    for (std::size_t i = 0; i < all.size() && rows.next(); ++i) {
        Found& found = all[i];
        if (rows.is_null()) {
            rows.skip(namespace_columns);
            if (named_by[i] < i) found.ns = all[named_by[i]].ns;
        } else {
            found.ns = std::make_shared<const NamespaceRow>(read_namespace(rows));
        }
        if (!found.ns || rows.is_null()) {
            rows.skip(entry_columns);
        } else {
            read_entry_into(rows, want, found);
        }
        if (picks) read_version_into(rows, found);
        if (i == 0) hear(rows);
    }
    return all;
}

LockedAndFound Questions::lock_and_find(std::span<const NamespaceRef> locked, std::span<const EntryRef> refs, Want want) {
    if (locked.empty() || refs.empty() || !is_of_one_namespace(refs)) return {lock(locked), find(refs, want)};
    const Asked asked[] = {ask_lock(locked), ask_in_namespace(refs, want)};
    std::vector<Rows> answers = connection_.run_all(asked);
    return {read_locked(std::move(answers[0]), locked), read_in_namespace(std::move(answers[1]), refs, want)};
}

// ---- namespaces ----

std::vector<NamespaceRow> Questions::scan_namespaces(const NamespaceRange& range) {
    static const std::string columns = "select " KV_NAMESPACE_COLUMNS " from namespaces where ";
    static const std::string conditions =
        " (application_id, name, id) > ($1::text collate \"C\", $2::text collate \"C\", $3::uuid)"
        " and ($4::text is null or application_id = $4) and ($5::text is null or name = $5)"
        " and ($6::timestamptz is null or deleted_at < $6) and ($7::boolean is null or sealing = $7)"
        " and ($8::bigint is null or seals >= $8) order by application_id, name, id limit $9";
    // The few deleted or sealing ones have indexes of their own, because maintenance asks for them all the time.
    static const std::string any = columns + conditions;
    static const std::string live = columns + "deleted_at is null and" + conditions;
    static const std::string deleted = columns + "deleted_at is not null and" + conditions;
    static const std::string sealing = columns + "sealing and" + conditions;
    static const std::string live_sealing = columns + "sealing and deleted_at is null and" + conditions;

    using Deleted = NamespaceRange::Deleted;
    const bool is_sealing = range.sealing == true;
    const std::string& sql = range.deleted == Deleted::deleted ? deleted
                             : range.deleted == Deleted::live  ? (is_sealing ? live_sealing : live)
                                                               : (is_sealing ? sealing : any);
    // A limit of rows is at most what fits into one answer.
    const std::string application = range.after ? range.after->application_id : range.application_id.value_or("");
    Params params(application, range.after ? range.after->name : std::string(), range.after ? range.after->id : NamespaceId{},
                  range.application_id, range.name, range.deleted_before, range.sealing, range.seals_from, bound(range.limit));
    return read_all(connection_.run(sql.c_str(), params), read_namespace);
}

// ---- small tables ----

std::vector<KeyRow> Questions::get_keys(std::span<const KeyRef> refs) {
    static const std::string sql =
        "select " + of("k", KV_KEY_COLUMNS) +
        " from unnest($1::smallint[], $2::uuid[], $3::bigint[]) with ordinality r(purpose, ns, generation, place)"
        " join data_keys k on k.purpose = r.purpose and k.namespace_id = r.ns"
        " and (r.generation is null or k.generation = r.generation) order by r.place, k.generation";
    Params params;
    params.add_array(refs, [](const KeyRef& ref) { return ref.purpose; });
    params.add_array(refs, [](const KeyRef& ref) { return ref.ns; });
    params.add_array(refs, [](const KeyRef& ref) { return ref.generation; });
    return read_all(connection_.run(sql.c_str(), params), read_key);
}

std::vector<KeyRow> Questions::internal_keys() {
    return read_all(connection_.run("select " KV_KEY_COLUMNS
                                    " from data_keys where purpose <> $1::smallint order by purpose, namespace_id, generation",
                                    Params(KeyPurpose::data)),
                    read_key);
}

std::vector<AuditHead> Questions::get_audit_heads(std::span<const StreamId> streams) {
    static const std::string sql = "select " + of("h", KV_HEAD_COLUMNS) +
                                   " from unnest($1::uuid[]) with ordinality r(stream, place)"
                                   " join audit_heads h on h.stream = r.stream order by r.place";
    Params params;
    params.add_array(streams, [](const StreamId& stream) { return stream; });
    return read_all(connection_.run(sql.c_str(), params), read_head);
}

std::vector<AuditHead> Questions::unwitnessed_audit_heads(std::size_t limit) {
    return read_all(
        connection_.run("select " KV_HEAD_COLUMNS " from audit_heads where closed <> 2 order by stream limit $1", Params(bound(limit))),
        read_head);
}

std::vector<MetaRow> Questions::get_meta() {
    return read_all(connection_.run("select name, value from meta where not starts_with(name, 'storage.') order by name"),
                    [](Rows& rows) {
                        MetaRow row;
                        rows.read(row.name, row.value);
                        return row;
                    });
}

}  // namespace kv::postgres
