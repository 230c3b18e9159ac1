#pragma once
#include <functional>
#include <optional>

#include "commit_queue.h"
#include "denials.h"
#include "operation.h"
#include "ticket.h"

namespace kv {

// A write on its way through a commit group.
class OperationItem final : public GroupItem {
public:
    // Borrows `denials`.
    OperationItem(Operation operation, Ticket ticket, Denials& denials);

    // Instead of answering at once when it succeeded: the duty to answer goes on. Must not throw.
    std::function<void(Ticket, Result<Reply>, NamespaceId)> then;

    void add_needs(Needs& needs) const override;
    void add_more_needs(Overlay& overlay, Needs& needs) const override;
    Result<void> plan(GroupContext& context) override;
    void reject(Error error) override { rejection_ = std::move(error); }
    void finish(const Result<void>& committed) noexcept override;

private:
    Result<void> prepare(GroupContext& context);
    void record(GroupContext& context, std::vector<AuditRecord> rows);

    Operation operation_;
    Ticket ticket_;
    Result<Reply> reply_ = Reply(Done{});
    std::optional<Error> rejection_;
    std::optional<NamespaceId> found_;
    Denials& denials_;
    std::optional<bool> is_admitted_;  // what a denial records: decided once, however often the group runs
    std::optional<AuditRecord> denial_;  // the first of its rows
    std::uint64_t folded_rows_ = 0;      // those that it does not record
};

}  // namespace kv
