#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "commit_queue.h"
#include "kv/options.h"
#include "rekey.h"
#include "rewrap.h"
#include "steps.h"
#include "ticket.h"

namespace kv {

// Maintenance does what is due, in bounded batches that are commit groups of their own: it ends expired entries, destroys
// what their grace is over for, forgets old tombstones, purges deleted namespaces, and has values sealed anew. Everything can stop at any point and goes on from what is stored.
//
// Threads: any. It has one of its own.
class Maintenance {
public:
    struct Settings {
        std::chrono::seconds namespace_retention;
        std::chrono::seconds expiry_grace;
        std::chrono::seconds tombstone_retention;
        std::chrono::milliseconds interval;  // zero: only when asked
        std::function<void(LogLevel, std::string_view)> log;
        Rekeying::Settings rekeying;
    };
    // Borrows all three.
    Maintenance(Storage& storage, const Vault& vault, CommitQueue& commits, Settings settings);
    ~Maintenance();

    // One batch of everything that is due, waiting; false if nothing was.
    Result<bool> run_round();
    // Purges a namespace that is marked as deleted, then answers.
    void purge(NamespaceId ns, Ticket ticket);
    // Writes one audit row and waits for it.
    Result<void> record(AuditRecord record);
    // A data key was replaced, or a namespace made secret.
    void rekey();
    Result<std::uint64_t> forget_master_key(const std::string& key_id);
    const Rewrapping& rewrapping() const { return rewrapping_; }
    const Rekeying& rekeying() const { return rekeying_; }
    // Something became due: do not wait for the interval.
    void hurry();
    void stop();

    std::uint64_t expired() const noexcept { return expired_.load(std::memory_order_relaxed); }

private:
    void run();
    Result<void> resume();
    Result<std::size_t> expire(Time now);
    Result<std::size_t> destroy_hidden(Time now);
    Result<std::size_t> forget_tombstones(Time now);
    Result<std::size_t> purge_due(Time now);
    Result<std::size_t> purge_batch(const NamespaceId& ns);
    void purge_waiting();

    Storage& storage_;
    const Vault& vault_;
    CommitQueue& commits_;
    const Settings settings_;
    Steps steps_;
    Rewrapping rewrapping_;
    Rekeying rekeying_;
    std::atomic<std::uint64_t> expired_{0};

    std::mutex round_;  // one round at a time
    std::mutex mutex_;
    std::condition_variable wake_;
    bool is_hurried_ = false;
    bool is_stopping_ = false;
    std::deque<std::pair<NamespaceId, Ticket>> purges_;
    std::thread thread_;
};

}  // namespace kv
