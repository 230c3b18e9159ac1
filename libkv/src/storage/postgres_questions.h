#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kv/storage.h"
#include "storage/postgres_clock.h"
#include "storage/postgres_connection.h"

namespace kv::postgres {

// The questions of StorageReader as SQL on one connection. They throw Failure.
class Questions {
public:
    Questions(Connection& connection, DatabaseClock& clock) : connection_(connection), clock_(clock) {}

    // Also locks the rows until the transaction ends, in the order of their ids.
    std::vector<std::shared_ptr<const NamespaceRow>> lock(std::span<const NamespaceRef> refs);
    // The same of a sink, or of the place where there is none of that name.
    std::optional<SinkRow> lock_sink(std::string_view name);
    std::vector<Found> find(std::span<const EntryRef> refs, Want want);
    // Both in one round trip where the entries are of one namespace.
    LockedAndFound lock_and_find(std::span<const NamespaceRef> locked, std::span<const EntryRef> refs, Want want);

    std::vector<NamespaceRow> scan_namespaces(const NamespaceRange& range);
    EntryPage scan_entries(const EntryRange& range);
    std::vector<VersionRow> scan_versions(const VersionRange& range);
    AuditPage scan_audit(const AuditRange& range);
    std::vector<EventRow> scan_events(const EventRange& range);
    std::vector<EventSpan> scan_event_spans(const EventSpanRange& range);
    std::vector<SinkRow> scan_sinks();
    std::vector<TokenRow> get_tokens(std::span<const Uuid> ids);
    std::vector<TokenRow> scan_tokens(const TokenRange& range);
    std::vector<SinkCursorRow> scan_cursors(const CursorRange& range);
    std::vector<Backlog> scan_backlog(const BacklogRange& range);
    std::vector<EntryRow> scan_due(const DueRange& range);
    std::vector<VersionRow> scan_due_versions(const DueVersionRange& range);
    std::vector<KeyRow> get_keys(std::span<const KeyRef> refs);
    std::vector<KeyRow> internal_keys();
    std::vector<AuditHead> get_audit_heads(std::span<const StreamId> streams);
    std::vector<AuditHead> unwitnessed_audit_heads(std::size_t limit);
    std::vector<MetaRow> get_meta();

    std::vector<EntryRow> walk_entries(const EntryWalk& walk);
    std::vector<VersionRow> walk_versions(const VersionWalk& walk);
    std::vector<EventRow> walk_events(const EventWalk& walk);
    std::vector<AuditHead> walk_audit_heads(const HeadWalk& walk);
    std::vector<KeyRow> walk_keys(const KeyWalk& walk);

    // What clock_timestamp() was in the last of lock() and find().
    const std::optional<Time>& heard() const { return heard_; }

private:
    std::vector<std::shared_ptr<const NamespaceRow>> read_locked(Rows rows, std::span<const NamespaceRef> refs);
    std::vector<Found> read_in_namespace(Rows rows, std::span<const EntryRef> refs, Want want);
    void hear(Rows& rows);
    Connection& connection_;
    DatabaseClock& clock_;
    std::optional<Time> heard_;
};

}  // namespace kv::postgres
