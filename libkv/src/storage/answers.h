#pragma once
#include <span>
#include <vector>

#include "kv/storage.h"

namespace kv::rows {

// Answers every question through Self::answer_with(f), which calls f with what asks a connection.
template <class Base, class Self>
class Answers : public Base {
public:
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override {
        return answer([&](auto& questions) { return questions.find(refs, want); });
    }
    Result<std::vector<NamespaceRow>> scan_namespaces(const NamespaceRange& range) override {
        return answer([&](auto& questions) { return questions.scan_namespaces(range); });
    }
    Result<EntryPage> scan_entries(const EntryRange& range) override {
        return answer([&](auto& questions) { return questions.scan_entries(range); });
    }
    Result<std::vector<VersionRow>> scan_versions(const VersionRange& range) override {
        return answer([&](auto& questions) { return questions.scan_versions(range); });
    }
    Result<AuditPage> scan_audit(const AuditRange& range) override {
        return answer([&](auto& questions) { return questions.scan_audit(range); });
    }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override {
        return answer([&](auto& questions) { return questions.scan_events(range); });
    }
    Result<std::vector<EventSpan>> scan_event_spans(const EventSpanRange& range) override {
        return answer([&](auto& questions) { return questions.scan_event_spans(range); });
    }
    Result<std::vector<SinkRow>> scan_sinks() override {
        return answer([](auto& questions) { return questions.scan_sinks(); });
    }
    Result<std::vector<TokenRow>> get_tokens(std::span<const Uuid> ids) override {
        return answer([&](auto& questions) { return questions.get_tokens(ids); });
    }
    Result<std::vector<TokenRow>> scan_tokens(const TokenRange& range) override {
        return answer([&](auto& questions) { return questions.scan_tokens(range); });
    }
    Result<std::vector<SinkCursorRow>> scan_cursors(const CursorRange& range) override {
        return answer([&](auto& questions) { return questions.scan_cursors(range); });
    }
    Result<std::vector<Backlog>> scan_backlog(const BacklogRange& range) override {
        return answer([&](auto& questions) { return questions.scan_backlog(range); });
    }
    Result<std::vector<EntryRow>> scan_due(const DueRange& range) override {
        return answer([&](auto& questions) { return questions.scan_due(range); });
    }
    Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) override {
        return answer([&](auto& questions) { return questions.scan_due_versions(range); });
    }
    Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) override {
        return answer([&](auto& questions) { return questions.get_keys(refs); });
    }
    Result<std::vector<KeyRow>> internal_keys() override {
        return answer([](auto& questions) { return questions.internal_keys(); });
    }
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override {
        return answer([&](auto& questions) { return questions.get_audit_heads(streams); });
    }
    Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) override {
        return answer([&](auto& questions) { return questions.unwitnessed_audit_heads(limit); });
    }
    Result<std::vector<EntryRow>> walk_entries(const EntryWalk& walk) override {
        return answer([&](auto& questions) { return questions.walk_entries(walk); });
    }
    Result<std::vector<VersionRow>> walk_versions(const VersionWalk& walk) override {
        return answer([&](auto& questions) { return questions.walk_versions(walk); });
    }
    Result<std::vector<EventRow>> walk_events(const EventWalk& walk) override {
        return answer([&](auto& questions) { return questions.walk_events(walk); });
    }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override {
        return answer([&](auto& questions) { return questions.walk_audit_heads(walk); });
    }
    Result<std::vector<KeyRow>> walk_keys(const KeyWalk& walk) override {
        return answer([&](auto& questions) { return questions.walk_keys(walk); });
    }
    Result<std::vector<MetaRow>> get_meta() override {
        return answer([](auto& questions) { return questions.get_meta(); });
    }

private:
    template <class F>
    auto answer(F&& question) {
        return static_cast<Self*>(this)->answer_with(question);
    }
};

}  // namespace kv::rows
