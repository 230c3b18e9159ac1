#pragma once
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kv/storage.h"
#include "storage/sqlite_connection.h"

namespace kv::sqlite {

// Namespaces as they were found, for as long as nothing is committed: most questions name the same few again and again.
struct KnownNamespaces {
    std::map<NamespaceRef, std::shared_ptr<const NamespaceRow>> rows = {};  // null: there is none
    std::uint32_t data_version = 0;  // Connection::data_version() when they were read
};

// Where entries lie that were found in a transaction: what changes them then need not look them up by id.
using RowIds = std::map<EntryId, std::int64_t>;

// The questions of StorageReader as SQL on one connection. They throw Failure.
class Questions {
public:
    // `known` is of this connection, and in the state that a transaction sees. `row_ids`, if any, takes note of what is found.
    Questions(Connection& connection, KnownNamespaces& known, RowIds* row_ids = nullptr)
        : connection_(connection), known_(known), row_ids_(row_ids) {}

    std::vector<Found> find(std::span<const EntryRef> refs, Want want);
    // Outside a transaction, with a single statement. Null: that takes a namespace that is known, and known still.
    std::optional<std::vector<Found>> find_by_one_statement(const EntryRef& ref, Want want);
    // Kept for the questions that follow, until forget().
    std::shared_ptr<const NamespaceRow> find_namespace(const NamespaceRef& ref);
    void forget() { known_.rows.clear(); }
    // First in a transaction: fixes what it sees, and forgets what that is too new for.
    void begin();

    std::vector<NamespaceRow> scan_namespaces(const NamespaceRange& range);
    EntryPage scan_entries(const EntryRange& range);
    std::vector<VersionRow> scan_versions(const VersionRange& range);
    AuditPage scan_audit(const AuditRange& range);
    std::vector<EventRow> scan_events(const EventRange& range);
    std::vector<EventSpan> scan_event_spans(const EventSpanRange& range);
    std::vector<SinkRow> scan_sinks();
    std::vector<TokenRow> get_tokens(std::span<const Uuid> ids);
    std::vector<TokenRow> scan_tokens(const TokenRange& range);
    std::optional<SinkRow> find_sink(std::string_view name);
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

private:
    bool find_entry(const NamespaceId& ns, const std::string& key_path, Want want, Found& found);
    void find_version(const VersionPick& pick, Want want, Found& found);
    void name_keys(std::vector<VersionRow>& rows);
    AuditPage scan_audit_newest(const AuditRange& range);
    AuditPage scan_audit_oldest(const AuditRange& range);

    Connection& connection_;
    KnownNamespaces& known_;
    RowIds* row_ids_;
};

}  // namespace kv::sqlite
