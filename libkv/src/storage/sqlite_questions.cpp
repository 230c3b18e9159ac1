#include "storage/sqlite_questions.h"

#include <algorithm>
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
AuditRow read_audit(Run& run) {
    AuditRow row = read_row<AuditRow>(run, [](auto& fields, auto&& io) { exchange_audit(fields, io); });
    run.read(row.position);
    return row;
}

template <class Row, class Exchange>
void read_all(Run& run, std::vector<Row>& rows, Exchange&& exchange) {
    while (run.next()) rows.push_back(read_row<Row>(run, exchange));
}

template <class Row, class Read>
std::vector<Row> read_batch(Run run, std::size_t limit, std::size_t bytes, Read&& read) {
    Batch<Row> batch(limit, bytes);
    while (!batch.is_full() && run.next()) batch.add(read(run));
    return batch.take();
}

constexpr auto key_columns = [](auto& row, auto&& io) { exchange_key(row, io); };
constexpr auto event_columns = [](auto& row, auto&& io) { exchange_event(row, io); };
constexpr auto head_columns = [](auto& row, auto&& io) { io(row.stream, row.sequence, row.mac, row.state); };

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
    " and (?9 is null or seals >= ?9) order by application_id, name, id limit ?10"

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
    const NamespaceRange::After first{range.application_id.value_or(""), "", {}};
    const NamespaceRange::After& after = range.after ? *range.after : first;
    Run run = connection_.run(namespaces_sql(range), after.application_id, after.name, after.id);
    if (range.application_id) {
        run.bind(*range.application_id);
    } else {
        run.bind(after_all_text);
    }
    run.bind(range.name, range.deleted_before, range.sealing, range.deleted == NamespaceRange::Deleted::live,
             range.seals_from, bound(range.limit));
    std::vector<NamespaceRow> rows;
    while (run.next()) rows.push_back(read_namespace(run));
    return rows;
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
    read_all(run, rows, event_columns);
    return rows;
}

// ---- what is due ----

namespace {

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
                                  " and key_generation < ?3 and (key_generation, id) > (?4, ?5)"
                                  " order by key_generation, id";
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
        run.bind(range.generation, after.generation, after.id);
    } else if (range.kind != DueRange::Kind::all) {
        run.bind(range.before, after.at, after.id);
    }
    return read_batch<EntryRow>(std::move(run), range.limit, range.bytes, read_entry);
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
    std::vector<VersionRow> rows = read_batch<VersionRow>(
        connection_.run("select " KV_VERSION_COLUMNS ", value from versions indexed by versions_by_generation"
                        " where namespace_id = ?1 and is_tombstone = 0 and key_generation < ?2"
                        " and (key_generation, entry_id, version) > (?3, ?4, ?5)"
                        " order by key_generation, entry_id, version",
                        range.ns, range.generation, after.generation, after.entry_id, after.version),
        range.limit, range.bytes, read_version);
    name_keys(rows);
    return rows;
}

// ---- walks ----
// Each begins behind a place that is below every row: ids of zeros are nobody's.

std::vector<EntryRow> Questions::walk_entries(const EntryWalk& walk) {
    const EntryWalk::After start;
    const EntryWalk::After& after = walk.after ? *walk.after : start;
    return read_batch<EntryRow>(
        connection_.run("select " KV_ENTRY_COLUMNS ", iif(?1, value, x'') from entries indexed by entries_by_key"
                        " where (namespace_id, key_path) > (?2, ?3) order by namespace_id, key_path",
                        walk.values, after.ns, after.key_path),
        walk.limit, walk.bytes, read_entry);
}

std::vector<VersionRow> Questions::walk_versions(const VersionWalk& walk) {
    const VersionWalk::After start;
    const VersionWalk::After& after = walk.after ? *walk.after : start;
    std::vector<VersionRow> rows = read_batch<VersionRow>(
        connection_.run("select " KV_VERSION_COLUMNS ", iif(?1, value, x'') from versions"
                        " where (entry_id, version) > (?2, ?3) order by entry_id, version",
                        walk.values, after.entry_id, after.version),
        walk.limit, walk.bytes, read_version);
    name_keys(rows);
    return rows;
}

std::vector<EventRow> Questions::walk_events(const EventWalk& walk) {
    const EventWalk::After start;
    const EventWalk::After& after = walk.after ? *walk.after : start;
    Run run = connection_.run("select " KV_EVENT_COLUMNS
                              " from outbox where (namespace_id, revision) > (?1, ?2)"
                              " order by namespace_id, revision limit ?3",
                              after.ns, after.revision, bound(walk.limit));
    std::vector<EventRow> rows;
    read_all(run, rows, event_columns);
    return rows;
}

std::vector<AuditHead> Questions::walk_audit_heads(const HeadWalk& walk) {
    const StreamId after = walk.after.value_or(StreamId{});
    Run run = connection_.run("select stream, sequence, mac, closed from audit_heads where stream > ?1"
                              " order by stream limit ?2",
                              after, bound(walk.limit));
    std::vector<AuditHead> heads;
    read_all(run, heads, head_columns);
    return heads;
}

std::vector<KeyRow> Questions::walk_keys(const KeyWalk& walk) {
    const KeyWalk::After start{KeyPurpose{}, {}, 0};
    const KeyWalk::After& after = walk.after ? *walk.after : start;
    Run run = connection_.run("select " KV_KEY_COLUMNS
                              " from data_keys where (purpose, namespace_id, generation) > (?1, ?2, ?3)"
                              " and (?4 = '' or ?4 in (wrap_key_id, second_wrap_key_id))"
                              " and (?5 = '' or ?5 not in (wrap_key_id, second_wrap_key_id))"
                              " and (not ?6 or (purpose = ?7 and generation <"
                              " (select key_generation from namespaces where id = data_keys.namespace_id)))"
                              " order by purpose, namespace_id, generation limit ?8",
                              after.purpose, after.ns, after.generation, walk.wrapped_by, walk.not_wrapped_by,
                              walk.outdated, KeyPurpose::data, bound(walk.limit));
    std::vector<KeyRow> rows;
    read_all(run, rows, key_columns);
    return rows;
}

// ---- small tables ----

std::vector<KeyRow> Questions::get_keys(std::span<const KeyRef> refs) {
    std::vector<KeyRow> rows;
    for (const KeyRef& ref : refs) {
        Run run = connection_.run("select " KV_KEY_COLUMNS
                                  " from data_keys where purpose = ?1 and namespace_id = ?2"
                                  " and (?3 is null or generation = ?3) order by generation",
                                  ref.purpose, ref.ns, ref.generation);
        read_all(run, rows, key_columns);
    }
    return rows;
}

std::vector<KeyRow> Questions::internal_keys() {
    Run run = connection_.run("select " KV_KEY_COLUMNS
                              " from data_keys where purpose <> ?1 order by purpose, namespace_id, generation",
                              KeyPurpose::data);
    std::vector<KeyRow> rows;
    read_all(run, rows, key_columns);
    return rows;
}

std::vector<AuditHead> Questions::get_audit_heads(std::span<const StreamId> streams) {
    std::vector<AuditHead> heads;
    for (const StreamId& stream : streams) {
        Run run = connection_.run("select stream, sequence, mac, closed from audit_heads where stream = ?1", stream);
        read_all(run, heads, head_columns);
    }
    return heads;
}

std::vector<AuditHead> Questions::unwitnessed_audit_heads(std::size_t limit) {
    Run run = connection_.run(
        "select stream, sequence, mac, closed from audit_heads where closed <> 2 order by stream limit ?1", bound(limit));
    std::vector<AuditHead> heads;
    read_all(run, heads, head_columns);
    return heads;
}

std::vector<MetaRow> Questions::get_meta() {
    Run run = connection_.run("select name, value from meta where name <> 'storage.schema_version' order by name");
    std::vector<MetaRow> rows;
    read_all(run, rows, [](auto& row, auto&& io) { io(row.name, row.value); });
    return rows;
}

}  // namespace kv::sqlite
