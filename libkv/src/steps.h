#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "commit_queue.h"

namespace kv {

// Whether something that is done every `interval` is due again. A clock that was set back starts anew.
inline bool is_due(const std::optional<Time>& last, std::chrono::seconds interval, Time now) {
    return !last || now < *last || now - *last >= interval;
}

// Steps commits batches of background work, each a group of its own in the commit queue, and waits for them.
//
// Threads: any.
class Steps {
public:
    // Inside the group's transaction; again, and from the start, if the group runs again.
    using Step = std::function<Result<void>(GroupContext&)>;
    // What is done with one row, as it is now.
    using Visit = std::function<Result<void>(GroupContext&, NamespaceState&, EntryState&)>;

    static constexpr std::size_t batch_rows = 512;
    static constexpr std::size_t batch_bytes = 1u << 20;

    // Borrows both.
    Steps(Storage& storage, CommitQueue& commits) : storage_(storage), commits_(commits) {}

    // `gives_way`: see GroupItem.
    Result<void> commit(Needs needs, Step step, bool gives_way = true);
    // The same for what needs no namespace and may be one group with whatever else there is.
    Result<void> commit_along(Step step);
    // Scans what is due, in one batch at most, and visits each row that still exists in a sound namespace. `due.values`
    // loads values and history too, and bounds the batch by their bytes. `begin` is called whenever the visits start. Answers
    // the rows scanned, committed or none.
    Result<std::vector<EntryRow>> visit_due(DueRange due, const std::function<void()>& begin, const Visit& visit);

private:
    Result<void> commit_item(std::optional<Needs> needs, Step step, bool gives_way);

    Storage& storage_;
    CommitQueue& commits_;
};

}  // namespace kv
