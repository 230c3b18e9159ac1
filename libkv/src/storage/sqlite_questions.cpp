#include "storage/sqlite_questions.h"

#include <algorithm>
#include <limits>

#include "storage/batch.h"
#include "storage/sqlite_reading.h"

namespace kv::sqlite {
namespace {

constexpr std::size_t known_namespaces_max = 64;

// For SQLite every TEXT is less than every BLOB: an end that no key reaches.
const std::string no_bytes;
constexpr Blob<const std::string> after_all_text{no_bytes};

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

}  // namespace

// ---- entries by key ----

void Questions::begin() {
    // BEGIN alone fixes nothing: the first read does.
    connection_.ask_integer("pragma data_version");
    const std::uint32_t data_version = connection_.data_version();
    if (data_version != known_.data_version || known_.rows.size() > known_namespaces_max) known_.rows.clear();
    known_.data_version = data_version;
}

std::shared_ptr<const NamespaceRow> Questions::find_namespace(const NamespaceRef& ref) {
    if (auto known = known_.rows.find(ref); known != known_.rows.end()) return known->second;
    const auto* name = std::get_if<NamespaceName>(&ref);
    Run run = name ? connection_.run("select " KV_NAMESPACE_COLUMNS
                                     " from namespaces where application_id = ?1 and name = ?2 and deleted_at is null",
                                     name->application_id, name->name)
                   : connection_.run("select " KV_NAMESPACE_COLUMNS " from namespaces where id = ?1",
                                     std::get<NamespaceId>(ref));
    std::shared_ptr<const NamespaceRow> row;
    if (run.next()) row = std::make_shared<const NamespaceRow>(read_namespace(run));
    return known_.rows.emplace(ref, std::move(row)).first->second;
}

bool Questions::find_entry(const NamespaceId& ns, const std::string& key_path, Want want, Found& found) {
    Run run = connection_.run("select " KV_ENTRY_COLUMNS
                              ", iif(?3, value, x''), has_history, rowid from entries"
                              " where namespace_id = ?1 and key_path = ?2",
                              ns, key_path, want.value);
    if (!run.next()) return false;
    found.entry = read_entry(run);
    bool has_history = false;
    run.read(has_history);
    if (want.history) found.has_history = has_history;
    if (row_ids_) run.read((*row_ids_)[found.entry->id]);
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

std::optional<std::vector<Found>> Questions::find_by_one_statement(const EntryRef& ref, Want want) {
    const auto known = known_.rows.find(ref.ns);
    if (known == known_.rows.end() || !known->second || ref.key_path.empty() || ref.pick.kind != VersionPick::Kind::current) {
        return std::nullopt;
    }
    std::vector<Found> all(1);
    all[0].ns = known->second;
    find_entry(all[0].ns->id, ref.key_path, want, all[0]);
    // The statement saw the same state as the one that read the namespace, or another.
    if (connection_.data_version() != known_.data_version) return std::nullopt;
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

// ---- the log ----

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
