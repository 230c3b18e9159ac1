#include "kv/memory.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <tuple>
#include <utility>

#include "out_of_memory.h"
#include "storage/batch.h"

namespace kv {
namespace {

// Rows are immutable and shared with the undo log. Values lie beside their rows, so that a question without values
// copies none.
struct StoredEntry {
    EntryRow row;
    std::string value;
};
struct StoredVersion {
    VersionRow row;
    std::string value;
};
using EntryPtr = std::shared_ptr<const StoredEntry>;
using VersionPtr = std::shared_ptr<const StoredVersion>;
using NamespacePtr = std::shared_ptr<const NamespaceRow>;

template <class Stored>
auto load(const Stored& stored, bool with_value) {
    auto row = stored.row;
    if (with_value) row.value = stored.value;
    return row;
}

template <class Stored, class Row>
std::shared_ptr<const Stored> store(const Row& row) {
    auto stored = std::make_shared<Stored>(Stored{row, {}});
    stored->value.swap(stored->row.value);
    return stored;
}

VersionRow archived(const EntryRow& entry, std::string value) {
    VersionRow version;
    version.entry_id = entry.id;
    version.ns = entry.ns;
    version.version = entry.version;
    version.is_tombstone = entry.is_tombstone;
    version.value = std::move(value);
    version.value_type = entry.value_type;
    version.key_generation = entry.key_generation;
    version.revision = entry.revision;
    version.reason = entry.reason;
    version.comment = entry.comment;
    version.rolled_back_from = entry.rolled_back_from;
    version.ttl_seconds = entry.ttl_seconds;
    version.expires_at = entry.expires_at;
    version.metadata = entry.metadata;
    version.changed_at = entry.updated_at;
    version.changed_by = entry.updated_by;
    version.request_id = entry.request_id;
    return version;
}

using NameKey = std::tuple<std::string, std::string, NamespaceId>;
using EntryKey = std::pair<NamespaceId, std::string>;
using VersionKey = std::pair<EntryId, std::uint64_t>;
using EventKey = std::pair<NamespaceId, std::uint64_t>;
using WrapKey = std::tuple<KeyPurpose, NamespaceId, std::uint32_t>;
using DueKey = std::pair<Time, EntryId>;

WrapKey wrap_key(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }

bool matches(const NamespaceRange& range, const NamespaceRow& row) {
    if (range.application_id && row.application_id != *range.application_id) return false;
    if (range.name && row.name != *range.name) return false;
    if (range.deleted == NamespaceRange::Deleted::live && row.deleted_at) return false;
    if (range.deleted == NamespaceRange::Deleted::deleted && !row.deleted_at) return false;
    if (range.deleted_before && !(row.deleted_at && *row.deleted_at < *range.deleted_before)) return false;
    if (range.seals_from && row.seals < *range.seals_from) return false;
    return !range.sealing || row.sealing == *range.sealing;
}

bool matches(const EntryRange& range, const EntryRow& row) {
    if (row.is_tombstone || (row.expires_at && *row.expires_at <= range.now)) return false;
    return !range.expiring_before || (row.expires_at && *row.expires_at < *range.expiring_before);
}

bool matches(const AuditRange& range, const AuditRecord& record) {
    const auto is = [](const auto& asked, const auto& given) { return !asked || *asked == given; };
    if (range.ns && record.namespace_id != range.ns) return false;
    return is(range.key_path, record.key_path) && is(range.user_id, record.user_id) &&
           is(range.credential_id, record.credential_id) && is(range.action, record.action) &&
           is(range.operation, record.operation) && is(range.success, record.success) &&
           is(range.stream, record.stream) && !(range.from && record.timestamp < *range.from) &&
           !(range.to && record.timestamp >= *range.to);
}

// Everything that was changed since it began, undone in reverse unless kept. Undoing takes no memory: what a step needs is
// put aside before the change.
class Undo {
public:
    ~Undo() {
        for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) (*step)();
    }
    void add(std::function<void()> step) { steps_.push_back(std::move(step)); }
    // What cannot be undone without memory is not done before.
    void add_last(std::function<void()> step) { last_.push_back(std::move(step)); }
    void keep() {
        steps_.clear();
        for (const auto& step : last_) step();
        last_.clear();
    }

    template <class Map>
    void put(Map& map, const typename Map::key_type& key, typename Map::mapped_type value) {
        auto found = map.find(key);
        if (found == map.end()) {
            add([&map, key] { map.erase(key); });
            map.emplace(key, std::move(value));
        } else {
            add([there = &found->second, old = found->second]() mutable { *there = std::move(old); });
            found->second = std::move(value);
        }
    }
    void put(std::set<DueKey>& set, const DueKey& key) {
        if (set.contains(key)) return;
        add([&set, key] { set.erase(key); });
        set.insert(key);
    }
    // Of a map or a set.
    template <class Rows>
    void erase(Rows& rows, const typename Rows::key_type& key) {
        auto found = rows.find(key);
        if (found == rows.end()) return;
        auto node = std::make_shared<typename Rows::node_type>();  // shared, for a function must be copyable
        add([&rows, node] { rows.insert(std::move(*node)); });
        *node = rows.extract(found);
    }

private:
    std::vector<std::function<void()>> steps_;
    std::vector<std::function<void()>> last_;
};

// The rows and the questions about them. Knows nothing of threads.
class Tables {
public:
    std::vector<Found> find(std::span<const EntryRef> refs, Want want) const;
    std::vector<NamespacePtr> namespaces(std::span<const NamespaceRef> refs) const;
    std::vector<NamespaceRow> scan_namespaces(const NamespaceRange& range) const;
    EntryPage scan_entries(const EntryRange& range) const;
    std::vector<VersionRow> scan_versions(const VersionRange& range) const;
    AuditPage scan_audit(const AuditRange& range) const;
    std::vector<EventRow> scan_events(const EventRange& range) const;
    std::vector<EntryRow> scan_due(const DueRange& range) const;
    std::vector<VersionRow> scan_due_versions(const DueVersionRange& range) const;
    std::vector<KeyRow> get_keys(std::span<const KeyRef> refs) const;
    std::vector<KeyRow> internal_keys() const;
    std::vector<AuditHead> get_audit_heads(std::span<const StreamId> streams) const;
    std::vector<AuditHead> unwitnessed_audit_heads(std::size_t limit) const;
    std::vector<MetaRow> get_meta() const;
    std::vector<EntryRow> walk_entries(const EntryWalk& walk) const;
    std::vector<VersionRow> walk_versions(const VersionWalk& walk) const;
    std::vector<EventRow> walk_events(const EventWalk& walk) const;
    std::vector<AuditHead> walk_audit_heads(const HeadWalk& walk) const;
    std::vector<KeyRow> walk_keys(const KeyWalk& walk) const;

    Result<void> apply(const Changeset& changes, Undo& undo);

private:
    NamespacePtr find_namespace(const NamespaceRef& ref) const;
    EntryPtr find_entry(const EntryId& id) const;
    VersionPtr find_version(const EntryRow& entry, const VersionPick& pick) const;
    bool has_history(const EntryId& id) const;
    bool is_asked(const KeyWalk& walk, const KeyRow& row) const;
    std::vector<EntryRow> scan_times(const std::set<DueKey>& times, const DueRange& range) const;
    std::vector<EntryRow> scan_all(const DueRange& range) const;
    std::vector<EntryRow> scan_generations(const DueRange& range) const;

    Result<void> put_namespace(const NamespaceRow& row, Undo& undo);
    Result<void> put_entry(const EntryRow& row, Undo& undo);
    Result<void> put_version(VersionPtr version, Undo& undo);
    Result<void> put_head(const HeadChange& change, Undo& undo);
    Result<void> archive(const EntryId& id, Undo& undo);
    void erase_namespace(const NamespaceId& id, Undo& undo);
    void erase_entry(const EntryId& id, Undo& undo);
    void erase_versions(const VersionErase& erase, Undo& undo);
    void reseal(const Reseal& reseal, Undo& undo);
    void add_audit(const AuditRow& row, Undo& undo);
    void erase_audit(std::uint64_t to, Undo& undo);
    void set_entry(EntryPtr entry, Undo& undo);
    void index(const EntryRow& row, Undo& undo);
    void unindex(const EntryRow& row, Undo& undo);

    std::map<NamespaceId, NamespacePtr> namespaces_;
    std::map<NamespaceName, NamespaceId> live_names_;
    std::map<NameKey, NamespacePtr> names_;
    std::map<EntryId, EntryPtr> entries_;
    std::map<EntryKey, EntryPtr> keys_;
    std::map<VersionKey, VersionPtr> versions_;
    std::set<DueKey> expiring_;
    std::set<DueKey> hidden_;
    std::set<DueKey> tombstones_;
    std::deque<AuditRow> audit_;  // position n lies at n - 1 - audit_erased_
    std::uint64_t audit_erased_ = 0;
    std::map<StreamId, AuditHead> heads_;
    std::map<EventKey, EventRow> events_;
    std::map<WrapKey, KeyRow> wraps_;
    std::map<std::string, std::string> meta_;
};

// ---- questions ----

NamespacePtr Tables::find_namespace(const NamespaceRef& ref) const {
    const auto* id = std::get_if<NamespaceId>(&ref);
    if (!id) {
        auto named = live_names_.find(std::get<NamespaceName>(ref));
        if (named == live_names_.end()) return nullptr;
        id = &named->second;
    }
    auto found = namespaces_.find(*id);
    return found == namespaces_.end() ? nullptr : found->second;
}

EntryPtr Tables::find_entry(const EntryId& id) const {
    auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second;
}

bool Tables::has_history(const EntryId& id) const {
    auto first = versions_.lower_bound({id, 0});
    return first != versions_.end() && first->first.first == id;
}

VersionPtr Tables::find_version(const EntryRow& entry, const VersionPick& pick) const {
    if (pick.kind == VersionPick::Kind::current) return nullptr;
    if (pick.kind == VersionPick::Kind::exact) {
        auto found = versions_.find({entry.id, pick.version});
        return found == versions_.end() ? nullptr : found->second;
    }
    auto at = versions_.lower_bound({entry.id, entry.version});
    while (at != versions_.begin() && (--at)->first.first == entry.id) {
        if (!at->second->row.is_tombstone) return at->second;
    }
    return nullptr;
}

std::vector<Found> Tables::find(std::span<const EntryRef> refs, Want want) const {
    std::vector<Found> all;
    all.reserve(refs.size());
    for (const EntryRef& ref : refs) {
        Found& found = all.emplace_back();
        found.ns = find_namespace(ref.ns);
        if (!found.ns || ref.key_path.empty()) continue;
        auto at = keys_.find({found.ns->id, ref.key_path});
        if (at == keys_.end()) continue;
        found.entry = load(*at->second, want.value);
        if (auto version = find_version(*found.entry, ref.pick)) found.version = load(*version, want.value);
        if (want.history) found.has_history = has_history(found.entry->id);
    }
    return all;
}

std::vector<NamespacePtr> Tables::namespaces(std::span<const NamespaceRef> refs) const {
    std::vector<NamespacePtr> rows;
    for (const NamespaceRef& ref : refs) rows.push_back(find_namespace(ref));
    return rows;
}

std::vector<NamespaceRow> Tables::scan_namespaces(const NamespaceRange& range) const {
    auto at = range.after ? names_.upper_bound({range.after->application_id, range.after->name, range.after->id})
                          : names_.lower_bound({range.application_id.value_or(""), "", {}});
    std::vector<NamespaceRow> rows;
    for (; at != names_.end() && rows.size() < range.limit; ++at) {
        if (range.application_id && std::get<0>(at->first) > *range.application_id) break;
        if (matches(range, *at->second)) rows.push_back(*at->second);
    }
    return rows;
}

EntryPage Tables::scan_entries(const EntryRange& range) const {
    EntryPage page;
    std::size_t bytes = 0;
    std::string start = range.start;
    for (const KeyRange& keys : range.ranges) {
        auto at = keys_.lower_bound({range.ns, std::max(start, keys.from)});
        while (at != keys_.end() && at->first.first == range.ns && (keys.to.empty() || at->first.second < keys.to)) {
            const std::string& key = at->first.second;
            if (!matches(range, at->second->row)) {
                ++at;
                continue;
            }
            if (page.rows.size() + page.folders.size() >= range.limit || bytes > range.bytes) {
                page.more = true;
                page.resume = key;
                return page;
            }
            const std::size_t slash = range.fold_from ? key.find('/', *range.fold_from) : std::string::npos;
            if (slash == std::string::npos) {
                page.rows.push_back(load(*at->second, range.values));
                bytes += page.rows.back().value.size();
                ++at;
            } else {
                page.folders.push_back(key.substr(0, slash + 1));
                start = page.folders.back();
                ++start.back();  // the first key behind the folder
                at = keys_.lower_bound({range.ns, start});
            }
        }
    }
    return page;
}

std::vector<VersionRow> Tables::scan_versions(const VersionRange& range) const {
    Batch<VersionRow> batch(range.limit, range.bytes);
    auto at = versions_.lower_bound({range.entry_id, range.below});
    while (at != versions_.begin() && !batch.is_full()) {
        --at;
        if (at->first.first != range.entry_id || at->first.second <= range.above) break;
        batch.add(load(*at->second, range.values));
    }
    return batch.take();
}

AuditPage Tables::scan_audit(const AuditRange& range) const {
    AuditPage page;
    const std::uint64_t last = audit_erased_ + audit_.size();
    std::uint64_t walked = 0;
    std::uint64_t position = range.newest_first ? std::clamp(range.after.value_or(last + 1), audit_erased_ + 1, last + 1)
                                                : std::clamp(range.after.value_or(0), audit_erased_, last);
    const auto at_end = [&] { return range.newest_first ? position <= audit_erased_ + 1 : position >= last; };
    while (!at_end() && walked < range.walk && page.rows.size() < range.limit) {
        position = range.newest_first ? position - 1 : position + 1;
        ++walked;
        const AuditRow& row = audit_[position - 1 - audit_erased_];
        if (matches(range, row.record)) page.rows.push_back(row);
    }
    if (!at_end()) page.resume = position;
    return page;
}

std::vector<EventRow> Tables::scan_events(const EventRange& range) const {
    std::vector<EventRow> rows;
    for (auto at = events_.upper_bound({range.ns, range.after}); at != events_.end() && rows.size() < range.limit; ++at) {
        if (at->first.first != range.ns) break;
        rows.push_back(at->second);
    }
    return rows;
}

std::vector<EntryRow> Tables::scan_times(const std::set<DueKey>& times, const DueRange& range) const {
    Batch<EntryRow> batch(range.limit, range.bytes);
    DueKey after;
    if (range.after) after = {range.after->at, range.after->id};
    for (auto at = range.after ? times.upper_bound(after) : times.begin(); at != times.end(); ++at) {
        const auto& [time, id] = *at;
        if (time > range.before || batch.is_full()) break;
        const EntryPtr entry = find_entry(id);
        if (range.ns && entry->row.ns != *range.ns) continue;
        if (range.kind == DueRange::Kind::tombstones && has_history(id)) continue;
        batch.add(load(*entry, range.values));
    }
    return batch.take();
}

std::vector<EntryRow> Tables::scan_all(const DueRange& range) const {
    Batch<EntryRow> batch(range.limit, range.bytes);
    if (!range.ns) return {};
    for (auto at = keys_.lower_bound({*range.ns, ""}); at != keys_.end() && !batch.is_full(); ++at) {
        if (at->second->row.ns != *range.ns) break;
        batch.add(load(*at->second, range.values));
    }
    return batch.take();
}

std::vector<EntryRow> Tables::scan_generations(const DueRange& range) const {
    if (!range.ns) return {};
    using Place = std::pair<std::uint32_t, EntryId>;
    std::map<Place, EntryPtr> due;
    for (auto at = keys_.lower_bound({*range.ns, ""}); at != keys_.end() && at->second->row.ns == *range.ns; ++at) {
        const EntryRow& row = at->second->row;
        const Place place{row.key_generation, row.id};
        const bool is_behind = !range.after || place > Place{range.after->generation, range.after->id};
        if (!row.is_tombstone && row.key_generation < range.generation && is_behind) due.emplace(place, at->second);
    }
    Batch<EntryRow> batch(range.limit, range.bytes);
    for (auto at = due.begin(); at != due.end() && !batch.is_full(); ++at) batch.add(load(*at->second, range.values));
    return batch.take();
}

std::vector<EntryRow> Tables::scan_due(const DueRange& range) const {
    switch (range.kind) {
        case DueRange::Kind::expired: return scan_times(expiring_, range);
        case DueRange::Kind::hidden: return scan_times(hidden_, range);
        case DueRange::Kind::tombstones: return scan_times(tombstones_, range);
        case DueRange::Kind::generation: return scan_generations(range);
        case DueRange::Kind::all: return scan_all(range);
    }
    return {};
}

std::vector<VersionRow> Tables::scan_due_versions(const DueVersionRange& range) const {
    using Place = std::tuple<std::uint32_t, EntryId, std::uint64_t>;
    std::map<Place, VersionPtr> due;
    for (const auto& [key, version] : versions_) {
        const VersionRow& row = version->row;
        if (row.ns != range.ns || row.is_tombstone || row.key_generation >= range.generation) continue;
        const Place place{row.key_generation, row.entry_id, row.version};
        const bool is_behind =
            !range.after || place > Place{range.after->generation, range.after->entry_id, range.after->version};
        if (is_behind) due.emplace(place, version);
    }
    Batch<VersionRow> batch(range.limit, range.bytes);
    for (auto at = due.begin(); at != due.end() && !batch.is_full(); ++at) {
        VersionRow loaded = load(*at->second, true);
        if (const EntryPtr entry = find_entry(loaded.entry_id)) loaded.key_path = entry->row.key_path;
        batch.add(std::move(loaded));
    }
    return batch.take();
}

std::vector<KeyRow> Tables::get_keys(std::span<const KeyRef> refs) const {
    std::vector<KeyRow> rows;
    for (const KeyRef& ref : refs) {
        auto at = wraps_.lower_bound({ref.purpose, ref.ns, ref.generation.value_or(0)});
        for (; at != wraps_.end() && at->second.purpose == ref.purpose && at->second.ns == ref.ns; ++at) {
            if (ref.generation && at->second.generation != *ref.generation) break;
            rows.push_back(at->second);
        }
    }
    return rows;
}

std::vector<KeyRow> Tables::internal_keys() const {
    std::vector<KeyRow> rows;
    for (const auto& [key, row] : wraps_) {
        if (row.purpose != KeyPurpose::data) rows.push_back(row);
    }
    return rows;
}

std::vector<AuditHead> Tables::get_audit_heads(std::span<const StreamId> streams) const {
    std::vector<AuditHead> heads;
    for (const StreamId& stream : streams) {
        if (auto found = heads_.find(stream); found != heads_.end()) heads.push_back(found->second);
    }
    return heads;
}

std::vector<AuditHead> Tables::unwitnessed_audit_heads(std::size_t limit) const {
    std::vector<AuditHead> heads;
    for (const auto& [stream, head] : heads_) {
        if (heads.size() >= limit) break;
        if (head.state != HeadState::witnessed) heads.push_back(head);
    }
    return heads;
}

namespace {

// The first item behind `after`, or the first of all.
template <class Map, class After>
auto behind(const Map& map, const std::optional<After>& after, const typename Map::key_type& key) {
    return after ? map.upper_bound(key) : map.begin();
}

}  // namespace

std::vector<EntryRow> Tables::walk_entries(const EntryWalk& walk) const {
    Batch<EntryRow> batch(walk.limit, walk.bytes);
    EntryKey key;
    if (walk.after) key = {walk.after->ns, walk.after->key_path};
    for (auto at = behind(keys_, walk.after, key); at != keys_.end() && !batch.is_full(); ++at) {
        batch.add(load(*at->second, walk.values));
    }
    return batch.take();
}

std::vector<VersionRow> Tables::walk_versions(const VersionWalk& walk) const {
    Batch<VersionRow> batch(walk.limit, walk.bytes);
    VersionKey key;
    if (walk.after) key = {walk.after->entry_id, walk.after->version};
    for (auto at = behind(versions_, walk.after, key); at != versions_.end() && !batch.is_full(); ++at) {
        VersionRow row = load(*at->second, walk.values);
        if (const EntryPtr entry = find_entry(row.entry_id)) row.key_path = entry->row.key_path;
        batch.add(std::move(row));
    }
    return batch.take();
}

std::vector<EventRow> Tables::walk_events(const EventWalk& walk) const {
    std::vector<EventRow> rows;
    EventKey key;
    if (walk.after) key = {walk.after->ns, walk.after->revision};
    for (auto at = behind(events_, walk.after, key); at != events_.end() && rows.size() < walk.limit; ++at) {
        rows.push_back(at->second);
    }
    return rows;
}

std::vector<AuditHead> Tables::walk_audit_heads(const HeadWalk& walk) const {
    std::vector<AuditHead> heads;
    for (auto at = behind(heads_, walk.after, walk.after.value_or(StreamId{})); at != heads_.end(); ++at) {
        if (heads.size() >= walk.limit) break;
        heads.push_back(at->second);
    }
    return heads;
}

std::vector<KeyRow> Tables::walk_keys(const KeyWalk& walk) const {
    std::vector<KeyRow> rows;
    WrapKey key;
    if (walk.after) key = {walk.after->purpose, walk.after->ns, walk.after->generation};
    for (auto at = behind(wraps_, walk.after, key); at != wraps_.end() && rows.size() < walk.limit; ++at) {
        if (is_asked(walk, at->second)) rows.push_back(at->second);
    }
    return rows;
}

bool Tables::is_asked(const KeyWalk& walk, const KeyRow& row) const {
    const auto is_wrapped_by = [&](const std::string& id) { return row.wrap_key_id == id || row.second_wrap_key_id == id; };
    if (!walk.wrapped_by.empty() && !is_wrapped_by(walk.wrapped_by)) return false;
    if (!walk.not_wrapped_by.empty() && is_wrapped_by(walk.not_wrapped_by)) return false;
    if (!walk.outdated) return true;
    const NamespacePtr ns = find_namespace(row.ns);
    return row.purpose == KeyPurpose::data && ns && row.generation < ns->key_generation;
}

std::vector<MetaRow> Tables::get_meta() const {
    std::vector<MetaRow> rows;
    for (const auto& [name, value] : meta_) rows.push_back({name, value});
    return rows;
}

// ---- changes ----

Result<void> Tables::put_namespace(const NamespaceRow& row, Undo& undo) {
    const NamespaceName name{row.application_id, row.name};
    auto named = live_names_.find(name);
    if (!row.deleted_at && named != live_names_.end() && named->second != row.id) {
        return Error{Errc::namespace_exists, "a live namespace of that name exists"};
    }
    if (NamespacePtr old = find_namespace(row.id)) {
        undo.erase(names_, {old->application_id, old->name, old->id});
        if (!old->deleted_at) undo.erase(live_names_, {old->application_id, old->name});
    }
    auto stored = std::make_shared<const NamespaceRow>(row);
    if (!row.deleted_at) undo.put(live_names_, name, row.id);
    undo.put(names_, {row.application_id, row.name, row.id}, stored);
    undo.put(namespaces_, row.id, stored);
    return {};
}

void Tables::erase_namespace(const NamespaceId& id, Undo& undo) {
    if (NamespacePtr old = find_namespace(id)) {
        undo.erase(names_, {old->application_id, old->name, id});
        if (!old->deleted_at) undo.erase(live_names_, {old->application_id, old->name});
        undo.erase(namespaces_, id);
    }
    const KeyRef all{KeyPurpose::data, id, {}};
    for (const KeyRow& row : get_keys({&all, 1})) undo.erase(wraps_, wrap_key(row));
}

void Tables::index(const EntryRow& row, Undo& undo) {
    if (row.expires_at && !row.is_tombstone) undo.put(expiring_, {*row.expires_at, row.id});
    if (row.hidden_since) undo.put(hidden_, {*row.hidden_since, row.id});
    if (row.is_tombstone && !row.hidden_since) undo.put(tombstones_, {row.updated_at, row.id});
}

void Tables::unindex(const EntryRow& row, Undo& undo) {
    if (row.expires_at) undo.erase(expiring_, {*row.expires_at, row.id});
    if (row.hidden_since) undo.erase(hidden_, {*row.hidden_since, row.id});
    undo.erase(tombstones_, {row.updated_at, row.id});
}

void Tables::set_entry(EntryPtr entry, Undo& undo) {
    const EntryRow& row = entry->row;
    erase_entry(row.id, undo);
    undo.put(entries_, row.id, entry);
    undo.put(keys_, {row.ns, row.key_path}, entry);
    index(row, undo);
}

void Tables::erase_entry(const EntryId& id, Undo& undo) {
    const EntryPtr old = find_entry(id);
    if (!old) return;
    unindex(old->row, undo);
    undo.erase(keys_, {old->row.ns, old->row.key_path});
    undo.erase(entries_, id);
}

Result<void> Tables::put_entry(const EntryRow& row, Undo& undo) {
    auto same_key = keys_.find({row.ns, row.key_path});
    if (same_key != keys_.end() && same_key->second->row.id != row.id) {
        return Error{Errc::internal, "the key belongs to another entry"};
    }
    set_entry(store<StoredEntry>(row), undo);
    return {};
}

Result<void> Tables::put_version(VersionPtr version, Undo& undo) {
    const VersionKey key{version->row.entry_id, version->row.version};
    if (versions_.contains(key)) return Error{Errc::internal, "the version is archived already"};
    undo.put(versions_, key, std::move(version));
    return {};
}

Result<void> Tables::archive(const EntryId& id, Undo& undo) {
    const EntryPtr entry = find_entry(id);
    if (!entry) return Error{Errc::internal, "there is no entry to archive"};
    return put_version(store<StoredVersion>(archived(entry->row, entry->value)), undo);
}

void Tables::reseal(const Reseal& reseal, Undo& undo) {
    if (!reseal.archived) {
        const EntryPtr entry = find_entry(reseal.entry_id);
        if (!entry || entry->row.version != reseal.version) return;
        EntryRow row = entry->row;
        row.key_generation = reseal.key_generation;
        row.value = reseal.value;
        set_entry(store<StoredEntry>(row), undo);
        return;
    }
    auto found = versions_.find({reseal.entry_id, reseal.version});
    if (found == versions_.end()) return;
    VersionRow row = found->second->row;
    row.key_generation = reseal.key_generation;
    row.value = reseal.value;
    undo.put(versions_, found->first, store<StoredVersion>(row));
}

void Tables::erase_versions(const VersionErase& erase, Undo& undo) {
    auto at = versions_.lower_bound({erase.entry_id, erase.from});
    while (at != versions_.end() && at->first.first == erase.entry_id && at->first.second <= erase.to) {
        const VersionKey key = (at++)->first;
        undo.erase(versions_, key);
    }
}

void Tables::add_audit(const AuditRow& row, Undo& undo) {
    undo.add([this, size = audit_.size()] { audit_.resize(std::min(size, audit_.size())); });
    audit_.push_back(row);
    audit_.back().position = audit_erased_ + audit_.size();
}

void Tables::erase_audit(std::uint64_t to, Undo& undo) {
    to = std::min<std::uint64_t>(to, audit_erased_ + audit_.size());  // what is added with it stays
    undo.add_last([this, to] {
        while (!audit_.empty() && audit_.front().position <= to) {
            audit_.pop_front();
            ++audit_erased_;
        }
    });
}

Result<void> Tables::put_head(const HeadChange& change, Undo& undo) {
    auto found = heads_.find(change.after.stream);
    const bool is_as_before = found == heads_.end()
                                  ? change.before.sequence == 0
                                  : change.before.sequence != 0 && found->second.sequence == change.before.sequence &&
                                        found->second.mac == change.before.mac;
    if (!is_as_before) return Error{Errc::invalid_state, "the audit stream has moved on"};
    undo.put(heads_, change.after.stream, change.after);
    return {};
}

Result<void> Tables::apply(const Changeset& changes, Undo& undo) {
    for (const NamespaceRow& row : changes.namespaces) KV_CHECK(put_namespace(row, undo));
    for (const EntryId& id : changes.archive) KV_CHECK(archive(id, undo));
    for (const VersionRow& row : changes.versions) KV_CHECK(put_version(store<StoredVersion>(row), undo));
    for (const EntryRow& row : changes.entries) KV_CHECK(put_entry(row, undo));
    for (const Reseal& one : changes.reseals) reseal(one, undo);
    for (const VersionErase& erase : changes.erase_versions) erase_versions(erase, undo);
    for (const EntryId& id : changes.erase_entries) erase_entry(id, undo);
    for (const NamespaceId& id : changes.erase_namespaces) erase_namespace(id, undo);
    for (const EventRow& row : changes.events) {
        if (events_.contains({row.ns, row.revision})) return Error{Errc::internal, "the revision has an event already"};
        undo.put(events_, {row.ns, row.revision}, row);
    }
    for (const KeyRow& row : changes.keys) undo.put(wraps_, wrap_key(row), row);
    for (const KeyRef& ref : changes.erase_keys) undo.erase(wraps_, {ref.purpose, ref.ns, ref.generation.value_or(0)});
    for (const MetaRow& row : changes.meta) undo.put(meta_, row.name, row.value);
    for (const std::string& name : changes.erase_meta) undo.erase(meta_, name);
    erase_audit(changes.erase_audit_to, undo);
    for (const AuditRow& row : changes.audit) add_audit(row, undo);
    for (const HeadChange& change : changes.heads) KV_CHECK(put_head(change, undo));
    for (const StreamId& stream : changes.erase_heads) undo.erase(heads_, stream);
    return {};
}

// ---- threads ----

// Answers every question through Self::read(f), which calls f with the tables.
template <class Base, class Self>
class Answers : public Base {
public:
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override {
        return read([&](const Tables& tables) { return tables.find(refs, want); });
    }
    Result<std::vector<NamespaceRow>> scan_namespaces(const NamespaceRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_namespaces(range); });
    }
    Result<EntryPage> scan_entries(const EntryRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_entries(range); });
    }
    Result<std::vector<VersionRow>> scan_versions(const VersionRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_versions(range); });
    }
    Result<AuditPage> scan_audit(const AuditRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_audit(range); });
    }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_events(range); });
    }
    Result<std::vector<EntryRow>> scan_due(const DueRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_due(range); });
    }
    Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) override {
        return read([&](const Tables& tables) { return tables.scan_due_versions(range); });
    }
    Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) override {
        return read([&](const Tables& tables) { return tables.get_keys(refs); });
    }
    Result<std::vector<KeyRow>> internal_keys() override {
        return read([](const Tables& tables) { return tables.internal_keys(); });
    }
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override {
        return read([&](const Tables& tables) { return tables.get_audit_heads(streams); });
    }
    Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) override {
        return read([&](const Tables& tables) { return tables.unwitnessed_audit_heads(limit); });
    }
    Result<std::vector<EntryRow>> walk_entries(const EntryWalk& walk) override {
        return read([&](const Tables& tables) { return tables.walk_entries(walk); });
    }
    Result<std::vector<VersionRow>> walk_versions(const VersionWalk& walk) override {
        return read([&](const Tables& tables) { return tables.walk_versions(walk); });
    }
    Result<std::vector<EventRow>> walk_events(const EventWalk& walk) override {
        return read([&](const Tables& tables) { return tables.walk_events(walk); });
    }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override {
        return read([&](const Tables& tables) { return tables.walk_audit_heads(walk); });
    }
    Result<std::vector<KeyRow>> walk_keys(const KeyWalk& walk) override {
        return read([&](const Tables& tables) { return tables.walk_keys(walk); });
    }
    Result<std::vector<MetaRow>> get_meta() override {
        return read([](const Tables& tables) { return tables.get_meta(); });
    }

private:
    template <class F>
    auto read(F&& question) -> Result<decltype(question(std::declval<const Tables&>()))> {
        try {
            return static_cast<Self*>(this)->answer(question);
        } catch (const std::bad_alloc&) {
            return out_of_memory();
        }
    }
};

// Only one writer exists at a time, so it reads without the lock. From apply() until the write ends it holds it, so that
// no reader sees what may still be undone.
class MemoryWriter final : public Answers<StorageWriter, MemoryWriter> {
public:
    MemoryWriter(Tables& tables, std::shared_mutex& mutex, Clock& clock)
        : tables_(tables), clock_(clock), lock_(mutex, std::defer_lock) {}

    Result<Time> now() override { return clock_.now(); }
    Result<std::vector<NamespacePtr>> lock(std::span<const NamespaceRef> refs) override {
        return tables_.namespaces(refs);
    }
    Result<void> apply(const Changeset& changes) override {
        if (lock_.owns_lock()) return Error{Errc::internal, "apply() was called twice in one write"};
        lock_.lock();
        is_spoilt_ = true;
        Result<void> done = tables_.apply(changes, undo_);
        is_spoilt_ = !done;
        return done;
    }

    template <class F>
    auto answer(F&& question) {
        return question(tables_);
    }
    Result<void> commit() {
        if (is_spoilt_) return Error{Errc::internal, "the write went on after a failed apply()"};
        undo_.keep();
        return {};
    }

private:
    Tables& tables_;
    Clock& clock_;
    std::unique_lock<std::shared_mutex> lock_;
    Undo undo_;  // runs before the lock is released
    bool is_spoilt_ = false;
};

// A copy of the tables, whose rows are shared except for the audit log's.
class MemorySnapshot final : public Answers<StorageReader, MemorySnapshot> {
public:
    MemorySnapshot(Tables tables, Clock& clock) : tables_(std::move(tables)), clock_(clock) {}
    Result<Time> now() override { return clock_.now(); }
    template <class F>
    auto answer(F&& question) {
        return question(tables_);
    }

private:
    const Tables tables_;
    Clock& clock_;
};

class MemoryStorage final : public Answers<Storage, MemoryStorage> {
public:
    explicit MemoryStorage(Clock& clock) : clock_(clock) {}

    Result<Time> now() override { return clock_.now(); }
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override {
        std::lock_guard one_at_a_time(write_mutex_);
        try {
            MemoryWriter writer(tables_, mutex_, clock_);
            KV_CHECK(body(writer));
            return writer.commit();
        } catch (const std::bad_alloc&) {
            return out_of_memory();
        } catch (const std::exception&) {
            return make_error(Errc::internal, "the write was ended by an exception");
        }
    }

    Result<std::unique_ptr<StorageReader>> snapshot() override {
        return contain([&]() -> Result<std::unique_ptr<StorageReader>> {
            std::shared_lock lock(mutex_);
            return std::unique_ptr<StorageReader>(std::make_unique<MemorySnapshot>(tables_, clock_));
        });
    }

    template <class F>
    auto answer(F&& question) {
        std::shared_lock lock(mutex_);
        return question(tables_);
    }

private:
    Clock& clock_;
    std::mutex write_mutex_;
    std::shared_mutex mutex_;
    Tables tables_;
};

}  // namespace

std::unique_ptr<Storage> make_memory_storage(Clock& clock) { return std::make_unique<MemoryStorage>(clock); }

}  // namespace kv
