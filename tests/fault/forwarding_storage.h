#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "kv/storage.h"

namespace kv::test {

// Answers every question by asking `inner`. Base is StorageWriter or Storage.
template <class Base>
class Forwarding : public Base {
public:
    explicit Forwarding(Base& inner) : inner_(inner) {}

    Result<Time> now() override { return inner_.now(); }
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override { return inner_.find(refs, want); }
    Result<std::vector<NamespaceRow>> scan_namespaces(const NamespaceRange& range) override { return inner_.scan_namespaces(range); }
    Result<EntryPage> scan_entries(const EntryRange& range) override { return inner_.scan_entries(range); }
    Result<std::vector<VersionRow>> scan_versions(const VersionRange& range) override { return inner_.scan_versions(range); }
    Result<AuditPage> scan_audit(const AuditRange& range) override { return inner_.scan_audit(range); }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override { return inner_.scan_events(range); }
    Result<std::vector<EventSpan>> scan_event_spans(const EventSpanRange& range) override { return inner_.scan_event_spans(range); }
    Result<std::vector<SinkRow>> scan_sinks() override { return inner_.scan_sinks(); }
    Result<std::vector<TokenRow>> get_tokens(std::span<const Uuid> ids) override { return inner_.get_tokens(ids); }
    Result<std::vector<TokenRow>> scan_tokens(const TokenRange& range) override { return inner_.scan_tokens(range); }
    Result<std::vector<SinkCursorRow>> scan_cursors(const CursorRange& range) override { return inner_.scan_cursors(range); }
    Result<std::vector<Backlog>> scan_backlog(const BacklogRange& range) override { return inner_.scan_backlog(range); }
    Result<std::vector<EntryRow>> scan_due(const DueRange& range) override { return inner_.scan_due(range); }
    Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) override { return inner_.scan_due_versions(range); }
    Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) override { return inner_.get_keys(refs); }
    Result<std::vector<KeyRow>> internal_keys() override { return inner_.internal_keys(); }
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override { return inner_.get_audit_heads(streams); }
    Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) override { return inner_.unwitnessed_audit_heads(limit); }
    Result<std::vector<MetaRow>> get_meta() override { return inner_.get_meta(); }
    Result<std::vector<EntryRow>> walk_entries(const EntryWalk& walk) override { return inner_.walk_entries(walk); }
    Result<std::vector<VersionRow>> walk_versions(const VersionWalk& walk) override { return inner_.walk_versions(walk); }
    Result<std::vector<EventRow>> walk_events(const EventWalk& walk) override { return inner_.walk_events(walk); }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override { return inner_.walk_audit_heads(walk); }
    Result<std::vector<KeyRow>> walk_keys(const KeyWalk& walk) override { return inner_.walk_keys(walk); }

protected:
    Base& inner_;
};

// A storage that is another one in everything: what overrides some of it, or only lets go of it without closing it.
class Passing : public Forwarding<Storage> {
public:
    using Forwarding::Forwarding;
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override { return inner_.write(body); }
    Result<std::unique_ptr<StorageReader>> snapshot() override { return inner_.snapshot(); }
};

// A page of an audit log that stands in `rows`, oldest first, as a storage gives it.
inline AuditPage page_of(const std::vector<AuditRow>& rows, const AuditRange& range) {
    AuditPage page;
    std::size_t walked = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const AuditRow& row = rows[range.newest_first ? rows.size() - 1 - i : i];
        if (range.after && (range.newest_first ? row.position >= *range.after : row.position <= *range.after)) continue;
        if (walked == range.walk || page.rows.size() == range.limit) return page;
        ++walked;
        page.resume = row.position;
        if (!range.stream || *range.stream == row.record.stream) page.rows.push_back(row);
    }
    page.resume.reset();
    return page;
}

}  // namespace kv::test
