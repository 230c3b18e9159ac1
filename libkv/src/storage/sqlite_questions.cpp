#include "storage/sqlite_questions.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "storage/batch.h"
#include "storage/sqlite_rows.h"

namespace kv::sqlite {
namespace {

constexpr std::int64_t integer_max = std::numeric_limits<std::int64_t>::max();

// SQLite's integers have a sign: a bound beyond them means "no bound".
std::int64_t bound(std::uint64_t value) {
    return static_cast<std::int64_t>(std::min<std::uint64_t>(value, static_cast<std::uint64_t>(integer_max)));
}

// For SQLite every number is less than every BLOB: a place before any id, also before one that is too short.
constexpr std::int64_t before_all_ids = 0;

// For SQLite every TEXT is less than every BLOB: an end that no key reaches.
const std::string no_bytes;
constexpr Blob<const std::string> after_all_text{no_bytes};

template <class Row, class Exchange>
Row read_row(Run& run, Exchange&& exchange) {
    Row row;
    exchange(row, [&](auto&&... fields) { run.read(fields...); });
    return row;
}

NamespaceRow read_namespace(Run& run) {
    return read_row<NamespaceRow>(run, [](auto& row, auto&& io) { exchange_namespace(row, io); });
}
EntryRow read_entry(Run& run) {
    return read_row<EntryRow>(run, [](auto& row, auto&& io) { exchange_entry(row, io); });
}
VersionRow read_version(Run& run) {
    return read_row<VersionRow>(run, [](auto& row, auto&& io) { exchange_version(row, io); });
}
KeyRow read_key(Run& run) {
    return read_row<KeyRow>(run, [](auto& row, auto&& io) { exchange_key(row, io); });
}
EventRow read_event(Run& run) {
    return read_row<EventRow>(run, [](auto& row, auto&& io) { exchange_event(row, io); });
}
AuditHead read_head(Run& run) {
    return read_row<AuditHead>(run, [](auto& row, auto&& io) { io(row.stream, row.sequence, row.mac, row.state); });
}
AuditRow read_audit(Run& run) {
    AuditRow row = read_row<AuditRow>(run, [](auto& fields, auto&& io) { exchange_audit(fields, io); });
    run.read(row.position);
    return row;
}

template <class Row, class Read>
void read_all(Run& run, std::vector<Row>& rows, Read&& read) {
    while (run.next()) rows.push_back(read(run));
}

template <class Row, class Read>
std::vector<Row> read_batch(Run run, std::size_t limit, std::size_t bytes, Read&& read) {
    Batch<Row> batch(limit, bytes);
    while (!batch.is_full() && run.next()) batch.add(read(run));
    return batch.take();
}

// Without the rows that somebody made unreadable: nobody could do what is due.
template <class Row, class Read, class IsLost>
std::vector<Row> read_due(Run run, std::size_t limit, std::size_t bytes, Read&& read, IsLost&& is_lost) {
    Batch<Row> batch(limit, bytes);
    while (!batch.is_full() && run.next()) {
        if (Row row = read(run); !is_lost(row)) batch.add(std::move(row));
    }
    return batch.take();
}

// A page behind whose last row the next begins. A row is lost if somebody made its place in the order unreadable, so that
// nothing can begin behind it: it stands in the page of the next row that is not lost, before it, without its value and
// if there is room. Where there is no such row any more, the lost ones are the last page.
template <class Row, class Read, class IsLost>
std::vector<Row> read_page(Run run, std::size_t limit, std::size_t bytes, Read&& read, IsLost&& is_lost) {
    std::vector<Row> rows;
    std::vector<Row> lost;  // since the last of `rows`
    std::size_t held = 0;
    while (rows.size() < limit && held <= bytes && run.next()) {
        Row row = read(run);
        if (is_lost(row)) {
            if constexpr (requires { row.value; }) row.value.clear();
            if (lost.size() < limit) lost.push_back(std::move(row));
            continue;
        }
        lost.resize(std::min(lost.size(), limit - rows.size() - 1));
        std::move(lost.begin(), lost.end(), std::back_inserter(rows));
        lost.clear();
        if constexpr (requires { row.value; }) held += row.value.size();
        rows.push_back(std::move(row));
    }
    return rows.empty() ? lost : rows;
}

}  // namespace

// ---- entries by key ----

std::shared_ptr<const NamespaceRow> Questions::find_namespace(const NamespaceRef& ref) {
    if (auto known = namespaces_.find(ref); known != namespaces_.end()) return known->second;
    const auto* name = std::get_if<NamespaceName>(&ref);
    Run run = name ? connection_.run("select " KV_NAMESPACE_COLUMNS
                                     " from namespaces where application_id = ?1 and name = ?2 and deleted_at is null",
                                     name->application_id, name->name)
                   : connection_.run("select " KV_NAMESPACE_COLUMNS " from namespaces where id = ?1",
                                     std::get<NamespaceId>(ref));
    std::shared_ptr<const NamespaceRow> row;
    if (run.next()) row = std::make_shared<const NamespaceRow>(read_namespace(run));
    return namespaces_.emplace(ref, std::move(row)).first->second;
}

bool Questions::find_entry(const NamespaceId& ns, const std::string& key_path, Want want, Found& found) {
    Run run = connection_.run("select " KV_ENTRY_COLUMNS
                              ", iif(?3, value, x''), has_history from entries"
                              " where namespace_id = ?1 and key_path = ?2",
                              ns, key_path, want.value);
    if (!run.next()) return false;
    found.entry = read_entry(run);
    if (want.history) run.read(found.has_history);
    return true;
}

void Questions::find_version(const VersionPick& pick, Want want, Found& found) {
    if (pick.kind == VersionPick::Kind::current) return;
    const EntryRow& entry = *found.entry;
    Run run = pick.kind == VersionPick::Kind::exact
                  ? connection_.run("select " KV_VERSION_COLUMNS
                                    ", iif(?3, value, x'') from versions where entry_id = ?1 and version = ?2",
                                    entry.id, pick.version, want.value)
                  : connection_.run("select " KV_VERSION_COLUMNS
                                    ", iif(?3, value, x'') from versions where entry_id = ?1 and version < ?2"
                                    " and is_tombstone = 0 order by version desc limit 1",
                                    entry.id, entry.version, want.value);
    if (run.next()) found.version = read_version(run);
}

std::vector<Found> Questions::find(std::span<const EntryRef> refs, Want want) {
    std::vector<Found> all(refs.size());
    for (std::size_t i = 0; i < refs.size(); ++i) {
        all[i].ns = find_namespace(refs[i].ns);
        if (!all[i].ns || refs[i].key_path.empty()) continue;
        if (find_entry(all[i].ns->id, refs[i].key_path, want, all[i])) find_version(refs[i].pick, want, all[i]);
    }
    return all;
}

// ---- namespaces ----

namespace {

#define KV_NAMESPACES_IN_RANGE                                                                               \
    " (application_id, name, id) > (?1, ?2, ?3) and application_id <= ?4 and (?5 is null or name = ?5)"      \
    " and (?6 is null or deleted_at < ?6) and (?7 is null or sealing = ?7) and (?8 = 0 or deleted_at is null)" \
    " and (?9 is null or seals >= ?9) order by application_id, name, id"

// The few deleted or sealing ones have indexes of their own, because maintenance asks for them all the time.
const char* namespaces_sql(const NamespaceRange& range) {
    if (range.deleted == NamespaceRange::Deleted::deleted) {
        return "select " KV_NAMESPACE_COLUMNS
               " from namespaces indexed by namespaces_deleted where deleted_at is not null and" KV_NAMESPACES_IN_RANGE;
    }
    if (range.sealing == true) {
        return "select " KV_NAMESPACE_COLUMNS
               " from namespaces indexed by namespaces_sealing where sealing = 1 and" KV_NAMESPACES_IN_RANGE;
    }
    return "select " KV_NAMESPACE_COLUMNS
           " from namespaces indexed by namespaces_by_name where" KV_NAMESPACES_IN_RANGE;
}

}  // namespace

std::vector<NamespaceRow> Questions::scan_namespaces(const NamespaceRange& range) {
    if (range.after && range.after->id.is_nil()) return {};
    Run run = connection_.run(namespaces_sql(range));
    if (range.after) {
        run.bind(range.after->application_id, range.after->name, range.after->id);
    } else {
        run.bind(range.application_id ? std::string_view(*range.application_id) : std::string_view(), std::string_view(),
                 before_all_ids);
    }
    if (range.application_id) {
        run.bind(*range.application_id);
    } else {
        run.bind(after_all_text);
    }
    run.bind(range.name, range.deleted_before, range.sealing, range.deleted == NamespaceRange::Deleted::live,
             range.seals_from);
    return read_page<NamespaceRow>(std::move(run), range.limit, SIZE_MAX, read_namespace,
                                   [](const NamespaceRow& row) { return row.id.is_nil(); });
}

// ---- entries by range ----

namespace {

constexpr int key_path_column = 2;

// From `start` on, which folders may have moved beyond the range's own start.
Run run_entries(Connection& connection, const EntryRange& range, const KeyRange& keys, const std::string& start) {
    Run run = connection.run("select " KV_ENTRY_COLUMNS
                             ", iif(?1, value, x'') from entries indexed by entries_by_key"
                             " where is_tombstone = 0 and (expires_at is null or expires_at > ?2)"
                             " and (?3 is null or expires_at < ?3)"
                             " and namespace_id = ?4 and key_path >= ?5 and key_path < ?6 order by key_path",
                             range.values, range.now, range.expiring_before, range.ns, std::max(start, keys.from));
    if (keys.to.empty()) {
        run.bind(after_all_text);
    } else {
        run.bind(keys.to);
    }
    return run;
}

// Fills a page from one range of keys after the other. A folder is one seek: the search starts anew behind it.
class EntryScan {
public:
    EntryScan(Connection& connection, const EntryRange& range)
        : connection_(connection), range_(range), start_(range.start) {}

    EntryPage scan() {
        for (const KeyRange& keys : range_.ranges) {
            Step step = Step::folder;
            while (step == Step::folder) step = scan_until_folder(keys);
            if (step == Step::page_full) break;
        }
        return std::move(page_);
    }

private:
    enum class Step { folder, range_done, page_full };

    Step scan_until_folder(const KeyRange& keys) {
        Run run = run_entries(connection_, range_, keys, start_);
        while (run.next()) {
            const std::string_view key = run.text(key_path_column);
            if (is_full()) {
                page_.more = true;
                page_.resume = key;
                return Step::page_full;
            }
            const std::size_t slash = range_.fold_from ? key.find('/', *range_.fold_from) : std::string_view::npos;
            if (slash != std::string_view::npos) {
                page_.folders.emplace_back(key.substr(0, slash + 1));
                start_ = page_.folders.back();
                ++start_.back();  // the first key behind the folder
                return Step::folder;
            }
            page_.rows.push_back(read_entry(run));
            bytes_ += page_.rows.back().value.size();
        }
        return Step::range_done;
    }
    bool is_full() const {
        return page_.rows.size() + page_.folders.size() >= range_.limit || bytes_ > range_.bytes;
    }

    Connection& connection_;
    const EntryRange& range_;
    EntryPage page_;
    std::string start_;
    std::size_t bytes_ = 0;
};

}  // namespace

EntryPage Questions::scan_entries(const EntryRange& range) { return EntryScan(connection_, range).scan(); }

std::vector<VersionRow> Questions::scan_versions(const VersionRange& range) {
    return read_batch<VersionRow>(
        connection_.run("select " KV_VERSION_COLUMNS ", iif(?1, value, x'') from versions"
                        " where entry_id = ?2 and version > ?3 and version < ?4 order by version desc",
                        range.values, range.entry_id, bound(range.above), bound(range.below)),
        range.limit, range.bytes, read_version);
}

// ---- the log and the outbox ----

namespace {

#define KV_AUDIT_FILTER                                                                                          \
    " and (?4 is null or namespace_id = ?4) and (?5 is null or key_path = ?5) and (?6 is null or user_id = ?6)"  \
    " and (?7 is null or credential_id = ?7) and (?8 is null or action = ?8)"                                    \
    " and (?9 is null or operation = ?9) and (?10 is null or success = ?10)"                                     \
    " and (?11 is null or at >= ?11) and (?12 is null or at < ?12) and (?13 is null or stream = ?13)"

// The rows of the window [first, last] of positions that match, in the order of `sql`.
std::vector<AuditRow> read_audit_window(Connection& connection, const char* sql, std::int64_t first, std::int64_t last,
                                        const AuditRange& range) {
    Run run = connection.run(sql, first, last, bound(range.limit), range.ns, range.key_path, range.user_id,
                             range.credential_id, range.action, range.operation, range.success, range.from, range.to,
                             range.stream);
    std::vector<AuditRow> rows;
    while (run.next()) rows.push_back(read_audit(run));
    return rows;
}

}  // namespace

// Positions are row ids without gaps, so a window of `walk` positions is a walk of that many rows.
AuditPage Questions::scan_audit_newest(const AuditRange& range) {
    const std::int64_t newest = connection_.ask_integer("select max(position) from audit");
    const std::int64_t oldest = connection_.ask_integer("select min(position) from audit");
    const std::int64_t before = range.after ? std::min(bound(*range.after), newest + 1) : newest + 1;
    const std::int64_t first = std::max(oldest, before - std::min(bound(range.walk), before));
    AuditPage page;
    page.rows = read_audit_window(connection_,
                                  "select " KV_AUDIT_COLUMNS ", position from audit where position between ?1 and ?2"
                                  KV_AUDIT_FILTER " order by position desc limit ?3",
                                  first, before - 1, range);
    std::int64_t last_seen = std::min(first, before);
    if (page.rows.size() >= range.limit) {
        last_seen = page.rows.empty() ? before : static_cast<std::int64_t>(page.rows.back().position);
    }
    if (last_seen > oldest) page.resume = static_cast<std::uint64_t>(last_seen);
    return page;
}

AuditPage Questions::scan_audit_oldest(const AuditRange& range) {
    const std::int64_t newest = connection_.ask_integer("select max(position) from audit");
    const std::int64_t oldest = connection_.ask_integer("select min(position) from audit");
    const std::int64_t after = std::max(oldest - 1, std::min(bound(range.after.value_or(0)), newest));
    const std::int64_t last = after + std::min(bound(range.walk), newest - after);
    AuditPage page;
    page.rows = read_audit_window(connection_,
                                  "select " KV_AUDIT_COLUMNS ", position from audit where position between ?1 and ?2"
                                  KV_AUDIT_FILTER " order by position limit ?3",
                                  after + 1, last, range);
    std::int64_t last_seen = last;
    if (page.rows.size() >= range.limit) {
        last_seen = page.rows.empty() ? after : static_cast<std::int64_t>(page.rows.back().position);
    }
    if (last_seen < newest) page.resume = static_cast<std::uint64_t>(last_seen);
    return page;
}

AuditPage Questions::scan_audit(const AuditRange& range) {
    return range.newest_first ? scan_audit_newest(range) : scan_audit_oldest(range);
}

std::vector<EventRow> Questions::scan_events(const EventRange& range) {
    Run run = connection_.run("select " KV_EVENT_COLUMNS
                              " from outbox where namespace_id = ?1 and revision > ?2 order by revision limit ?3",
                              range.ns, bound(range.after), bound(range.limit));
    std::vector<EventRow> rows;
    read_all(run, rows, read_event);
    return rows;
}

// ---- what is due ----

namespace {

// By generation rows come in the order of their row ids: an index that held the random ids of entries as well would cost
// every write a page of its own. A row that is gone stands behind all others of its generation.
constexpr std::int64_t before_all_generations = -1;
#define KV_ROW_OR_LAST(sql) "coalesce((" sql "), 9223372036854775807)"

#define KV_DUE_ENTRIES "select " KV_ENTRY_COLUMNS ", iif(?1, value, x'') from entries indexed by "

const char* due_sql(DueRange::Kind kind) {
    switch (kind) {
        case DueRange::Kind::expired:
            return KV_DUE_ENTRIES "entries_expiring where is_tombstone = 0 and expires_at <= ?3"
                                  " and (expires_at, id) > (?4, ?5)"
                                  " and (?2 is null or namespace_id = ?2) order by expires_at, id";
        case DueRange::Kind::hidden:
            return KV_DUE_ENTRIES "entries_hidden where hidden_since <= ?3"
                                  " and (hidden_since, id) > (?4, ?5)"
                                  " and (?2 is null or namespace_id = ?2) order by hidden_since, id";
        case DueRange::Kind::tombstones:
            return KV_DUE_ENTRIES "entries_forgettable where is_tombstone = 1 and hidden_since is null"
                                  " and has_history = 0 and updated_at <= ?3"
                                  " and (updated_at, id) > (?4, ?5)"
                                  " and (?2 is null or namespace_id = ?2) order by updated_at, id";
        case DueRange::Kind::generation:
            return KV_DUE_ENTRIES "entries_by_generation where namespace_id = ?2 and is_tombstone = 0"
                                  " and key_generation < ?3 and (key_generation, rowid) > (?4, " KV_ROW_OR_LAST(
                                      "select rowid from entries where id = ?5") ")"
                                  " order by key_generation, rowid";
        case DueRange::Kind::all: break;
    }
    return KV_DUE_ENTRIES "entries_by_key where namespace_id = ?2 order by key_path";
}

}  // namespace

std::vector<EntryRow> Questions::scan_due(const DueRange& range) {
    Run run = connection_.run(due_sql(range.kind), range.values, range.ns);
    const DueRange::After start{Time::min(), 0, {}};
    const DueRange::After& after = range.after ? *range.after : start;
    if (range.kind == DueRange::Kind::generation) {
        run.bind(range.generation, range.after ? std::int64_t{after.generation} : before_all_generations, after.id);
    } else if (range.kind != DueRange::Kind::all) {
        run.bind(range.before, after.at, after.id);
    }
    return read_due<EntryRow>(std::move(run), range.limit, range.bytes, read_entry,
                              [](const EntryRow& row) { return row.id.is_nil() || row.ns.is_nil(); });
}

void Questions::name_keys(std::vector<VersionRow>& rows) {
    for (VersionRow& row : rows) {
        Run run = connection_.run("select key_path from entries where id = ?1", row.entry_id);
        if (run.next()) row.key_path = run.text(0);
    }
}

std::vector<VersionRow> Questions::scan_due_versions(const DueVersionRange& range) {
    const DueVersionRange::After start;
    const DueVersionRange::After& after = range.after ? *range.after : start;
    const std::int64_t generation = range.after ? std::int64_t{after.generation} : before_all_generations;
    std::vector<VersionRow> rows = read_due<VersionRow>(
        connection_.run("select " KV_VERSION_COLUMNS ", value from versions indexed by versions_by_generation"
                        " where namespace_id = ?1 and is_tombstone = 0 and key_generation < ?2"
                        " and (key_generation, rowid) > (?3, " KV_ROW_OR_LAST(
                            "select rowid from versions where entry_id = ?4 and version = ?5") ")"
                        " order by key_generation, rowid",
                        range.ns, range.generation, generation, after.entry_id, after.version),
        range.limit, range.bytes, read_version, [](const VersionRow& row) { return row.entry_id.is_nil(); });
    name_keys(rows);
    return rows;
}

// ---- walks ----
// A walk that shall go on behind an id of zeros, or behind a key without a number, was given no row but lost ones: it is
// at its end.

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

// ---- small tables ----

std::vector<KeyRow> Questions::get_keys(std::span<const KeyRef> refs) {
    std::vector<KeyRow> rows;
    for (const KeyRef& ref : refs) {
        Run run = connection_.run("select " KV_KEY_COLUMNS
                                  " from data_keys where purpose = ?1 and namespace_id = ?2"
                                  " and (?3 is null or generation = ?3) order by generation",
                                  ref.purpose, ref.ns, ref.generation);
        read_all(run, rows, read_key);
    }
    return rows;
}

std::vector<KeyRow> Questions::internal_keys() {
    Run run = connection_.run("select " KV_KEY_COLUMNS
                              " from data_keys where purpose <> ?1 order by purpose, namespace_id, generation",
                              KeyPurpose::data);
    std::vector<KeyRow> rows;
    read_all(run, rows, read_key);
    return rows;
}

std::vector<AuditHead> Questions::get_audit_heads(std::span<const StreamId> streams) {
    std::vector<AuditHead> heads;
    for (const StreamId& stream : streams) {
        Run run = connection_.run("select " KV_HEAD_COLUMNS " from audit_heads where stream = ?1", stream);
        read_all(run, heads, read_head);
    }
    return heads;
}

std::vector<AuditHead> Questions::unwitnessed_audit_heads(std::size_t limit) {
    Run run = connection_.run(
        "select " KV_HEAD_COLUMNS " from audit_heads where closed <> 2 and length(stream) = 16 order by stream limit ?1",
        bound(limit));
    std::vector<AuditHead> heads;
    read_all(run, heads, read_head);
    return heads;
}

std::vector<MetaRow> Questions::get_meta() {
    Run run = connection_.run("select name, value from meta where name <> 'storage.schema_version' order by name");
    std::vector<MetaRow> rows;
    while (run.next()) rows.push_back({std::string(run.text(0)), std::string(run.text(1))});
    return rows;
}

}  // namespace kv::sqlite
