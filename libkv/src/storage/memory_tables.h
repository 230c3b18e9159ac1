#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kv/storage.h"

namespace kv::memory {

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

using NameKey = std::tuple<std::string, std::string, NamespaceId>;
using EntryKey = std::pair<NamespaceId, std::string>;
using VersionKey = std::pair<EntryId, std::uint64_t>;
using EventKey = std::pair<NamespaceId, std::uint64_t>;
using WrapKey = std::tuple<KeyPurpose, NamespaceId, std::uint32_t>;
using DueKey = std::pair<Time, EntryId>;

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
    template <class Rows>
    void clear(Rows& rows) {
        auto old = std::make_shared<Rows>();
        add([&rows, old] { rows.swap(*old); });
        rows.swap(*old);
    }

private:
    std::vector<std::function<void()>> steps_;
    std::vector<std::function<void()>> last_;
};

// The rows, the questions about them and their changes. A copy shares its rows, except for those of the audit log, with the
// tables it was made from.
//
// Threads: one at a time that changes them, and none beside it.
class Tables {
public:
    std::vector<Found> find(std::span<const EntryRef> refs, Want want) const;
    std::vector<NamespacePtr> namespaces(std::span<const NamespaceRef> refs) const;
    std::vector<NamespaceRow> scan_namespaces(const NamespaceRange& range) const;
    EntryPage scan_entries(const EntryRange& range) const;
    std::vector<VersionRow> scan_versions(const VersionRange& range) const;
    AuditPage scan_audit(const AuditRange& range) const;
    std::vector<EventRow> scan_events(const EventRange& range) const;
    std::vector<EventSpan> scan_event_spans(const EventSpanRange& range) const;
    std::vector<SinkRow> scan_sinks() const;
    std::vector<TokenRow> get_tokens(std::span<const Uuid> ids) const;
    std::vector<TokenRow> scan_tokens(const TokenRange& range) const;
    std::optional<SinkRow> find_sink(std::string_view name) const;
    std::vector<SinkCursorRow> scan_cursors(const CursorRange& range) const;
    std::vector<Backlog> scan_backlog(const BacklogRange& range) const;
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
    void erase_all(Undo& undo);
    void erase_events(const EventErase& erase, Undo& undo);
    void put_sinks(const Changeset& changes, Undo& undo);
    void put_tokens(const Changeset& changes, Undo& undo);
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
    std::map<std::string, SinkRow> sinks_;
    std::map<std::pair<std::string, NamespaceId>, SinkCursorRow> cursors_;
    std::map<Uuid, TokenRow> tokens_;
    std::map<WrapKey, KeyRow> wraps_;
    std::map<std::string, std::string> meta_;
};

}  // namespace kv::memory
