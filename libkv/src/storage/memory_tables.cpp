#include "storage/memory_tables.h"

#include <algorithm>

#include "storage/batch.h"

namespace kv::memory {
namespace {

template <class Stored>
auto load(const Stored& stored, bool with_value) {
    auto row = stored.row;
    if (with_value) row.value = stored.value;
    return row;
}

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

}  // namespace

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
    for (const EventRange::From& from : range.from) {
        std::size_t left = std::min(range.limit - rows.size(), range.limit_each);
        for (auto at = events_.upper_bound({from.ns, from.after}); at != events_.end() && left > 0; ++at, --left) {
            if (at->first.first != from.ns) break;
            rows.push_back(at->second);
        }
    }
    return rows;
}

std::vector<EventSpan> Tables::scan_event_spans(const EventSpanRange& range) const {
    std::vector<EventSpan> spans;
    auto at = range.after ? events_.upper_bound({*range.after, UINT64_MAX}) : events_.begin();
    while (at != events_.end() && spans.size() < range.limit) {
        const EventRow& oldest = at->second;
        at = events_.upper_bound({oldest.ns, UINT64_MAX});
        const EventRow& newest = std::prev(at)->second;
        spans.push_back({oldest.ns, oldest.revision, oldest.at, newest.revision, !namespaces_.contains(oldest.ns)});
    }
    return spans;
}

std::vector<SinkRow> Tables::scan_sinks() const {
    std::vector<SinkRow> rows;
    for (const auto& [name, row] : sinks_) rows.push_back(row);
    return rows;
}

std::vector<TokenRow> Tables::get_tokens(std::span<const Uuid> ids) const {
    std::vector<TokenRow> rows;
    for (const Uuid& id : ids)
        if (const auto found = tokens_.find(id); found != tokens_.end()) rows.push_back(found->second);
    return rows;
}

std::vector<TokenRow> Tables::scan_tokens(const TokenRange& range) const {
    std::vector<TokenRow> rows;
    for (auto at = range.after ? tokens_.upper_bound(*range.after) : tokens_.begin(); at != tokens_.end() && rows.size() < range.limit; ++at) {
        const TokenRow& row = at->second;
        if (!range.expired_before || (row.expires_at && *row.expires_at < *range.expired_before)) rows.push_back(row);
    }
    return rows;
}

std::optional<SinkRow> Tables::find_sink(std::string_view name) const {
    const auto found = sinks_.find(std::string(name));
    return found == sinks_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<SinkCursorRow> Tables::scan_cursors(const CursorRange& range) const {
    std::vector<SinkCursorRow> rows;
    auto at = range.after ? cursors_.upper_bound({range.after->sink, range.after->ns}) : cursors_.begin();
    for (; at != cursors_.end() && rows.size() < range.limit; ++at) {
        const SinkCursorRow& row = at->second;
        if ((range.sink && row.sink != *range.sink) || (range.ns && row.ns != *range.ns)) continue;
        rows.push_back(row);
    }
    return rows;
}

std::vector<Backlog> Tables::scan_backlog(const BacklogRange& range) const {
    std::map<NamespaceId, Backlog> all;
    for (const auto& [id, ns] : namespaces_) all[id] = {id, ns->application_id, 0, ns->revision, false};
    for (auto at = cursors_.lower_bound({range.sink, NamespaceId{}}); at != cursors_.end() && at->first.first == range.sink; ++at) {
        const SinkCursorRow& row = at->second;
        const auto [backlog, is_gone] = all.try_emplace(row.ns);
        if (is_gone) {
            const auto end = events_.upper_bound({row.ns, UINT64_MAX});
            const bool has_events = end != events_.begin() && std::prev(end)->first.first == row.ns;
            backlog->second = {row.ns, row.application_id, 0, has_events ? std::prev(end)->first.second : 0, true};
        }
        backlog->second.confirmed = row.revision;
    }
    std::vector<Backlog> rows;
    for (auto at = range.after ? all.upper_bound(*range.after) : all.begin(); at != all.end() && rows.size() < range.limit; ++at) {
        if (at->second.newest > at->second.confirmed) rows.push_back(std::move(at->second));
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

}  // namespace kv::memory
