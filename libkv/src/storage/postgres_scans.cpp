#include <algorithm>
#include <optional>
#include <utility>

#include "storage/postgres_questions.h"
#include "storage/postgres_reading.h"

// The questions of Questions that answer with a page.
namespace kv::postgres {

// ---- entries by range ----

namespace {

// The ranges of keys that are left from `start` on, each with a beginning and perhaps an end.
struct KeyColumns {
    Array from{Type::text};
    Array to{Type::text};
    bool is_empty = true;

    explicit KeyColumns(const EntryRange& range) {
        for (const KeyRange& keys : range.ranges) {
            const auto first = text_from(std::max(range.start, keys.from));
            if (!first || (!keys.to.empty() && *first >= keys.to)) continue;
            from.push(*first);
            to.push(keys.to.empty() ? std::optional<std::string>() : text_from(keys.to));
            is_empty = false;
        }
    }
};

#define KV_LISTED                                                                            \
    "e.namespace_id = $3 and not e.is_tombstone and (e.expires_at is null or e.expires_at > $4)" \
    " and ($5::timestamptz is null or e.expires_at < $5)"

#define KV_VALUE_WITHIN_BYTES "case when $6 and coalesce(before, 0) <= $7 then value end"

// $1, $2: the ranges; $3 namespace; $4 now; $5 expiring before; $6 values; $7 bytes; $8 items; then of folded lists $9, where
// folding begins.
std::string list_sql() {
    return "select " KV_ENTRY_COLUMNS ", " KV_VALUE_WITHIN_BYTES " from (select e.*, " +
           bytes_before("e.value", "r.place, e.key_path") +
           " from unnest($1::text[], $2::text[]) with ordinality r(first, finish, place)"
           " cross join lateral (select * from entries e where " KV_LISTED
           " and e.key_path >= r.first and (r.finish is null or e.key_path < r.finish) order by e.key_path limit $8) e"
           " order by r.place, e.key_path limit $8) page order by key_path";
}

// Goes from one item to the next: behind an entry, or behind all of a folder. So a folder is one search, however much is in
// it. Where an item ends is a question of bytes, a slash being one.
std::string folded_sql() {
    const std::string next_key =
        "(select e.key_path from unnest($1::text[], $2::text[]) with ordinality r(first, finish, place)"
        " cross join lateral (select e.key_path from entries e where " KV_LISTED
        " and e.key_path >= r.first and (r.finish is null or e.key_path < r.finish) and e.key_path >= ";
    const std::string first_of_all = " order by e.key_path limit 1) e order by r.place limit 1)";
    const std::string item = "lateral (select octet_length(k.key_path) as size, position('\\x2f'::bytea in"
                             " substring(convert_to(k.key_path, 'UTF8') from ($9::bigint)::int + 1)) as slash) s";
    const std::string columns = "k.key_path, case when s.slash > 0 then"
                                " convert_from(substring(convert_to(k.key_path, 'UTF8') for ($9::bigint)::int + s.slash - 1), 'UTF8') end";
    return "with recursive items(key_path, folder, place) as (select " + columns + ", 1::bigint from (select " + next_key +
           "''" + first_of_all + " as key_path) k, " + item + " where k.key_path is not null union all select " + columns +
           ", i.place + 1 from items i cross join lateral (select " + next_key +
           "(coalesce(i.folder || '0', i.key_path || chr(1))) collate \"C\"" + first_of_all + " as key_path) k, " + item +
           " where k.key_path is not null and i.place < $8)"
           " select " KV_ENTRY_COLUMNS ", " KV_VALUE_WITHIN_BYTES ", folder from (select e.*, i.folder, i.place, " +
           bytes_before("case when i.folder is null then e.value end", "i.place") +
           " from items i join entries e on e.namespace_id = $3 and e.key_path = i.key_path) page order by place";
}

}  // namespace

// One item more is asked for than the page may have: it tells where the next page begins.
EntryPage Questions::scan_entries(const EntryRange& range) {
    static const std::string list = list_sql();
    static const std::string folded = folded_sql();
    EntryPage page;
    KeyColumns keys(range);
    if (keys.is_empty) return page;
    Params params;
    params.add(std::move(keys.from));
    params.add(std::move(keys.to));
    params.add(range.ns);
    params.add(range.now);
    params.add(range.expiring_before);
    params.add(range.values);
    params.add(bound(range.bytes));
    params.add(bound(range.limit) < bound(UINT64_MAX) ? bound(range.limit) + 1 : bound(range.limit));
    if (range.fold_from) params.add(bound(std::min<std::size_t>(*range.fold_from, 1u << 30)));
    Rows rows = connection_.run(range.fold_from ? folded.c_str() : list.c_str(), params);
    std::size_t bytes = 0;
    while (rows.next()) {
        EntryRow row = read_entry(rows);
        if (page.rows.size() + page.folders.size() >= range.limit || bytes > range.bytes) {
            page.more = true;
            page.resume = std::move(row.key_path);
            break;
        }
        std::optional<std::string> folder;
        if (range.fold_from) rows.read(folder);
        if (folder) {
            page.folders.push_back(*std::move(folder) + '/');
        } else {
            bytes += row.value.size();
            page.rows.push_back(std::move(row));
        }
    }
    return page;
}

std::vector<VersionRow> Questions::scan_versions(const VersionRange& range) {
    static const std::string sql = within_bytes(
        KV_VERSION_COLUMNS ", case when $1 then value end",
        "select *, " + bytes_before("value", "version desc") +
            " from versions where entry_id = $2 and version > $3 and version < $4 order by version desc limit $5",
        "$6") + " order by version desc";
    Params params(range.values, range.entry_id, bound(range.above), bound(range.below), bound(range.limit),
                  byte_bound(range.values, range.bytes));
    return read_all(connection_.run(sql.c_str(), params), read_version);
}

// ---- the log ----

namespace {

// Of one namespace, or of any: then $4 is null.
std::string audit_sql(bool is_of_namespace, const char* order) {
    return std::string("select " KV_AUDIT_COLUMNS ", position from audit where position between $1 and $2 and ") +
           (is_of_namespace ? "namespace_id = $4" : "$4::uuid is null") +
           " and ($5::text is null or key_path = $5)"
           " and ($6::text is null or user_id = $6) and ($7::text is null or credential_id = $7)"
           " and ($8::smallint is null or action = $8) and ($9::text is null or operation = $9)"
           " and ($10::boolean is null or success = $10) and ($11::timestamptz is null or at >= $11)"
           " and ($12::timestamptz is null or at < $12) and ($13::uuid is null or stream = $13)"
           " order by position " +
           order + " limit $3";
}
const char* audit_sql(const AuditRange& range) {
    static const std::string newest_of_any = audit_sql(false, "desc");
    static const std::string oldest_of_any = audit_sql(false, "asc");
    static const std::string newest_of_one = audit_sql(true, "desc");
    static const std::string oldest_of_one = audit_sql(true, "asc");
    if (range.ns) return range.newest_first ? newest_of_one.c_str() : oldest_of_one.c_str();
    return range.newest_first ? newest_of_any.c_str() : oldest_of_any.c_str();
}

struct Positions {
    std::int64_t first;
    std::int64_t last;
};

// Not by the namespace alone, so that rows may be looked at which are not in the page.
bool passes_rows_by(const AuditRange& range) {
    return range.key_path || range.user_id || range.credential_id || range.action || range.operation || range.success ||
           range.from || range.to || range.stream;
}

// The last position of a walk of so many rows of the namespace; none where there are fewer.
std::optional<std::int64_t> end_of_walk(Connection& connection, const AuditRange& range, Positions window) {
    static constexpr const char* down =
        "select position from audit where namespace_id = $1 and position between $2 and $3 order by position desc offset $4 limit 1";
    static constexpr const char* up =
        "select position from audit where namespace_id = $1 and position between $2 and $3 order by position offset $4 limit 1";
    Rows rows = connection.run(range.newest_first ? down : up,
                               Params(*range.ns, window.first, window.last, bound(std::max<std::size_t>(range.walk, 1) - 1)));
    if (!rows.next()) return std::nullopt;
    std::int64_t position = 0;
    rows.read(position);
    return position;
}

// What a walk comes through of the window, which begins where the walk does. Positions have few gaps, which writes that failed
// left: as many of them are no more rows. The rows of one namespace are found by their index: what the walk may pass by is
// counted there, and where it passes none by a page needs no other end than its limit.
Positions walked(Connection& connection, const AuditRange& range, Positions window) {
    if (range.ns && !passes_rows_by(range)) return window;
    const std::int64_t size = window.last - window.first + 1;
    const std::int64_t walk = std::min(bound(range.walk), size);
    std::optional<std::int64_t> end = range.newest_first ? window.last - walk + 1 : window.first + walk - 1;
    if (range.ns) end = walk < size ? end_of_walk(connection, range, window) : std::nullopt;
    if (end) (range.newest_first ? window.first : window.last) = *end;
    return window;
}

}  // namespace

AuditPage Questions::scan_audit(const AuditRange& range) {
    Rows ends = connection_.run("select coalesce(min(position), 0), coalesce(max(position), 0) from audit");
    ends.next();
    std::int64_t oldest = 0;
    std::int64_t newest = 0;
    ends.read(oldest, newest);
    if (newest == 0) return {};

    // What the page begins behind.
    const std::int64_t start = range.newest_first ? (range.after ? std::min(bound(*range.after), newest + 1) : newest + 1)
                                                  : std::max(oldest - 1, std::min(bound(range.after.value_or(0)), newest));
    const Positions window =
        walked(connection_, range, range.newest_first ? Positions{std::min(oldest, start), start - 1} : Positions{start + 1, newest});
    const std::size_t limit = std::min(range.limit, range.walk);
    AuditPage page;
    page.rows = read_all(connection_.run(audit_sql(range), Params(window.first, window.last, bound(limit), range.ns, range.key_path,
                                                                  range.user_id, range.credential_id, range.action, range.operation,
                                                                  range.success, range.from, range.to, range.stream)),
                         read_audit);
    std::int64_t last_seen = range.newest_first ? window.first : window.last;
    if (page.rows.size() >= limit) last_seen = page.rows.empty() ? start : static_cast<std::int64_t>(page.rows.back().position);
    if (range.newest_first ? last_seen > oldest : last_seen < newest) page.resume = static_cast<std::uint64_t>(last_seen);
    return page;
}

// ---- what is due ----

namespace {

// $1 values, $2 limit, $3 bytes, and from $4 on what `conditions` ask.
std::string due_sql(const std::string& conditions, const std::string& order) {
    return within_bytes(KV_ENTRY_COLUMNS ", case when $1 then value end",
                        "select *, " + bytes_before("value", order) + " from entries where " + conditions + " order by " + order +
                            " limit $2",
                        "$3") +
           " order by " + order;
}

#define KV_OF_NAMESPACE " and ($4::uuid is null or namespace_id = $4)"

const std::string& due_sql(DueRange::Kind kind) {
    static const std::string expired = due_sql(
        "not is_tombstone and expires_at <= $5 and (expires_at, id) > ($6, $7)" KV_OF_NAMESPACE, "expires_at, id");
    static const std::string hidden = due_sql(
        "hidden_since <= $5 and (hidden_since, id) > ($6, $7)" KV_OF_NAMESPACE, "hidden_since, id");
    static const std::string tombstones = due_sql(
        "forgettable_since <= $5 and (forgettable_since, id) > ($6, $7)" KV_OF_NAMESPACE, "forgettable_since, id");
    static const std::string generation = due_sql(
        "namespace_id = $4 and not is_tombstone and key_generation < $5 and (key_generation, id) > ($6::bigint, $7::uuid)",
        "key_generation, id");
    static const std::string all = due_sql("namespace_id = $4", "key_path");
    switch (kind) {
        case DueRange::Kind::expired: return expired;
        case DueRange::Kind::hidden: return hidden;
        case DueRange::Kind::tombstones: return tombstones;
        case DueRange::Kind::generation: return generation;
        case DueRange::Kind::all: break;
    }
    return all;
}

constexpr std::int64_t before_all_generations = -1;

}  // namespace

std::vector<EntryRow> Questions::scan_due(const DueRange& range) {
    Params params(range.values, bound(range.limit), byte_bound(range.values, range.bytes), range.ns);
    const DueRange::After start{Time::min(), 0, {}};
    const DueRange::After& after = range.after ? *range.after : start;
    if (range.kind == DueRange::Kind::generation) {
        params.add(range.generation);
        params.add(range.after ? std::int64_t{after.generation} : before_all_generations);
        params.add(after.id);
    } else if (range.kind != DueRange::Kind::all) {
        params.add(range.before);
        params.add(after.at);
        params.add(after.id);
    }
    return read_all(connection_.run(due_sql(range.kind).c_str(), params), read_entry);
}

namespace {

#define KV_KEY_OF_VERSION "(select e.key_path from entries e where e.id = page.entry_id)"

}  // namespace

std::vector<VersionRow> Questions::scan_due_versions(const DueVersionRange& range) {
    static const std::string sql =
        within_bytes(KV_VERSION_COLUMNS ", value, " KV_KEY_OF_VERSION,
                     "select *, " + bytes_before("value", "key_generation, entry_id, version") +
                         " from versions where namespace_id = $3 and not is_tombstone and key_generation < $4"
                         " and (key_generation, entry_id, version) > ($5::bigint, $6::uuid, $7::bigint)"
                         " order by key_generation, entry_id, version limit $1",
                     "$2") +
        " order by key_generation, entry_id, version";
    const DueVersionRange::After start;
    const DueVersionRange::After& after = range.after ? *range.after : start;
    Params params(bound(range.limit), bound(range.bytes), range.ns, range.generation,
                  range.after ? std::int64_t{after.generation} : before_all_generations, after.entry_id, after.version);
    return read_all(connection_.run(sql.c_str(), params), read_named_version);
}

// ---- walks ----

std::vector<EntryRow> Questions::walk_entries(const EntryWalk& walk) {
    static const std::string sql =
        within_bytes(KV_ENTRY_COLUMNS ", case when $1 then value end",
                     "select *, " + bytes_before("value", "namespace_id, key_path") +
                         " from entries where (namespace_id, key_path) >= ($4::uuid, $5::text collate \"C\")"
                         " and not (namespace_id = $4 and key_path = $6) order by namespace_id, key_path limit $2",
                     "$3") +
        " order by namespace_id, key_path";
    // Behind a key that the server does not take as text comes the first text that is no less.
    std::string key = walk.after ? walk.after->key_path : std::string();
    const auto from = text_from(key);
    NamespaceId ns = walk.after ? walk.after->ns : NamespaceId{};
    const bool is_text = from && *from == key;
    if (!from) {  // no key of this namespace is behind it
        for (std::size_t i = ns.bytes.size(); i-- > 0;) {
            if (++ns.bytes[i] != 0) break;
            if (i == 0) return {};
        }
    }
    Params params(walk.values, bound(walk.limit), byte_bound(walk.values, walk.bytes), ns, from.value_or(""),
                  is_text ? key : std::string());
    return read_all(connection_.run(sql.c_str(), params), read_entry);
}

std::vector<VersionRow> Questions::walk_versions(const VersionWalk& walk) {
    static const std::string sql =
        within_bytes(KV_VERSION_COLUMNS ", case when $1 then value end, " KV_KEY_OF_VERSION,
                     "select *, " + bytes_before("value", "entry_id, version") +
                         " from versions where (entry_id, version) > ($4::uuid, $5::bigint) order by entry_id, version limit $2",
                     "$3") +
        " order by entry_id, version";
    const VersionWalk::After start;
    const VersionWalk::After& after = walk.after ? *walk.after : start;
    Params params(walk.values, bound(walk.limit), byte_bound(walk.values, walk.bytes), after.entry_id,
                  walk.after ? static_cast<std::int64_t>(after.version) : std::numeric_limits<std::int64_t>::min());
    return read_all(connection_.run(sql.c_str(), params), read_named_version);
}

std::vector<EventRow> Questions::walk_events(const EventWalk& walk) {
    const EventWalk::After start;
    const EventWalk::After& after = walk.after ? *walk.after : start;
    return read_all(connection_.run("select " KV_EVENT_COLUMNS " from outbox where (namespace_id, revision) > ($1::uuid, $2::bigint)"
                                    " order by namespace_id, revision limit $3",
                                    Params(after.ns, walk.after ? static_cast<std::int64_t>(after.revision)
                                                                : std::numeric_limits<std::int64_t>::min(),
                                           bound(walk.limit))),
                    read_event);
}

std::vector<AuditHead> Questions::walk_audit_heads(const HeadWalk& walk) {
    return read_all(connection_.run("select " KV_HEAD_COLUMNS
                                    " from audit_heads where ($1::uuid is null or stream > $1) order by stream limit $2",
                                    Params(walk.after, bound(walk.limit))),
                    read_head);
}

// A row whose purpose has no name, which the table refuses, would be read as one of the first: the walk ends there.
std::vector<KeyRow> Questions::walk_keys(const KeyWalk& walk) {
    if (walk.after && walk.after->purpose == KeyPurpose{}) return {};
    const KeyWalk::After start{KeyPurpose{}, {}, 0};
    const KeyWalk::After& after = walk.after ? *walk.after : start;
    return read_all(
        connection_.run("select " KV_KEY_COLUMNS
                        " from data_keys where ($1::text = '' or $1 in (wrap_key_id, second_wrap_key_id))"
                        " and ($2::text = '' or $2 not in (wrap_key_id, second_wrap_key_id))"
                        " and (not $3::boolean or (purpose = $4::smallint and generation <"
                        " (select n.key_generation from namespaces n where n.id = data_keys.namespace_id)))"
                        " and (purpose, namespace_id, generation) > ($5::smallint, $6::uuid, $7::bigint)"
                        " order by purpose, namespace_id, generation limit $8",
                        Params(walk.wrapped_by, walk.not_wrapped_by, walk.outdated, KeyPurpose::data, after.purpose, after.ns,
                               after.generation, bound(walk.limit))),
        read_key);
}

}  // namespace kv::postgres
