#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "commit_queue.h"
#include "kv/request.h"

namespace kv {

// Lanes are the commit queues of one store, as many as its storage can write at once. Where that is one, everything goes
// through it. Otherwise the last one takes nothing but the records of reads, which lock no namespace, so that a busy
// namespace delays no read; the others divide the namespaces, by the name or the id that a request gives.
//
// Threads: any.
class Lanes {
public:
    // Borrows storage and vault.
    Lanes(Storage& storage, const Vault& vault, const CommitQueue::Settings& settings);

    std::size_t size() const noexcept { return queues_.size(); }
    CommitQueue& operator[](std::size_t lane) noexcept { return *queues_[lane]; }
    std::size_t lane_of(const Request& write) const;
    CommitQueue& records() noexcept { return *queues_.back(); }
    // For what the store does on its own.
    CommitQueue& upkeep() noexcept { return *queues_.front(); }

    void refuse_stuck();
    void stop();

    std::vector<AuditHead> heads() const;
    // What the last group of any lane failed with, if it did.
    Result<void> last_failure() const;
    CommitQueue::Stats stats() const;  // of all together

private:
    std::atomic<bool> is_witnessing_{false};
    std::vector<std::unique_ptr<CommitQueue>> queues_;
};

}  // namespace kv
