#include "steps.h"

#include <algorithm>

#include "out_of_memory.h"

namespace kv {
namespace {

// One batch on its way through the commit queue.
class StepItem final : public GroupItem {
public:
    StepItem(std::optional<Needs> needs, Steps::Step step, std::function<void(Result<void>)> done)
        : needs_(std::move(needs)), step_(std::move(step)), done_(std::move(done)) {
        is_alone = needs_.has_value();
    }
    void add_needs(Needs& needs) const override {
        if (!rejection_ && needs_) needs = *needs_;
    }
    Result<void> plan(GroupContext& context) override { return rejection_ ? Result<void>{} : step_(context); }
    void reject(Error error) override { rejection_ = std::move(error); }
    void finish(const Result<void>& committed) noexcept override {
        if (rejection_) {
            done_(std::move(*rejection_));
        } else {
            done_(committed ? Result<void>{} : Result<void>(copy_of(committed.error())));
        }
    }

private:
    std::optional<Needs> needs_;  // none: whatever the group is
    Steps::Step step_;
    std::function<void(Result<void>)> done_;
    std::optional<Error> rejection_;
};

Needs needs_of(const std::vector<EntryRow>& rows, bool full) {
    Needs needs;
    for (const EntryRow& row : rows) {
        needs.namespaces.push_back(row.ns);
        (full ? needs.full_entries : needs.entries).push_back({row.ns, row.key_path, {}});
    }
    std::sort(needs.namespaces.begin(), needs.namespaces.end());
    needs.namespaces.erase(std::unique(needs.namespaces.begin(), needs.namespaces.end()), needs.namespaces.end());
    return needs;
}

}  // namespace

Result<void> Steps::commit(Needs needs, Step step, bool gives_way) {
    return commit_item(std::move(needs), std::move(step), gives_way);
}

Result<void> Steps::commit_along(Step step) { return commit_item(std::nullopt, std::move(step), false); }

Result<void> Steps::commit_item(std::optional<Needs> needs, Step step, bool gives_way) {
    std::atomic<bool> done{false};
    Result<void> outcome;
    auto item = std::make_unique<StepItem>(std::move(needs), std::move(step), [&](Result<void> committed) {
        outcome = std::move(committed);
        done.store(true, std::memory_order_release);
        commits_.wake_waiters();
    });
    item->gives_way = gives_way;
    commits_.submit(std::move(item), false);
    commits_.lead_until(done);
    return outcome;
}

Result<std::vector<EntryRow>> Steps::visit_due(DueRange due, const std::function<void()>& begin, const Visit& visit) {
    due.limit = batch_rows;
    due.bytes = batch_bytes;
    KV_TRY(std::vector<EntryRow> rows, storage_.scan_due(due));
    if (rows.empty()) return rows;
    const Step step = [&](GroupContext& context) -> Result<void> {
        begin();
        for (const EntryRow& row : rows) {
            NamespaceState* ns = context.overlay.find_namespace(row.ns);
            if (ns == nullptr || !ns->is_intact) continue;
            EntryState& entry = context.overlay.entry(*ns, row.key_path);
            if (entry.exists) KV_CHECK(visit(context, *ns, entry));
        }
        return {};
    };
    KV_CHECK(commit(needs_of(rows, due.values), step));
    return rows;
}

}  // namespace kv
