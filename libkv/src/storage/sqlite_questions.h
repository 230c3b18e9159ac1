#pragma once
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kv/storage.h"
#include "storage/sqlite_connection.h"

namespace kv::sqlite {

// The questions of StorageReader as SQL on one connection. They throw Failure.
class Questions {
public:
    explicit Questions(Connection& connection) : connection_(connection) {}

    std::vector<Found> find(std::span<const EntryRef> refs, Want want);
    // Kept for the questions that follow, until forget().
    std::shared_ptr<const NamespaceRow> find_namespace(const NamespaceRef& ref);
    void forget() { namespaces_.clear(); }

    std::vector<NamespaceRow> scan_namespaces(const NamespaceRange& range);
    EntryPage scan_entries(const EntryRange& range);
    std::vector<VersionRow> scan_versions(const VersionRange& range);
    AuditPage scan_audit(const AuditRange& range);
    std::vector<EventRow> scan_events(const EventRange& range);
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
    std::map<NamespaceRef, std::shared_ptr<const NamespaceRow>> namespaces_;
};

}  // namespace kv::sqlite
