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
#include "ticket.h"

namespace kv {

// Maintenance does what is due, in bounded batches that are commit groups of their own: it ends expired entries, destroys
// what their grace is over for, forgets old tombstones, purges deleted namespaces, and seals the values of namespaces
// that were made secret. Everything can stop at any point and goes on from what is stored.
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
    };
    // Borrows all three.
    Maintenance(Storage& storage, const Vault& vault, CommitQueue& commits, Settings settings);
    ~Maintenance();

    // One batch of everything that is due, waiting; false if nothing was.
    Result<bool> run_round();
    // Purges a namespace that is marked as deleted, then answers.
    void purge(NamespaceId ns, Ticket ticket);
    // Writes one audit row, with meta rows that become true with it, and waits for it.
    Result<void> record(AuditRecord record, std::vector<MetaRow> meta = {});
    // Something became due: do not wait for the interval.
    void hurry();
    void stop();

    std::uint64_t expired() const noexcept { return expired_.load(std::memory_order_relaxed); }

private:
    using Step = std::function<Result<void>(GroupContext&)>;

    void run();
    Result<void> commit(Needs needs, Step step);
    Result<void> resume();
    Result<std::size_t> expire(Time now);
    Result<std::size_t> destroy_hidden(Time now);
    Result<std::size_t> forget_tombstones(Time now);
    Result<std::size_t> purge_due(Time now);
    Result<std::size_t> purge_batch(const NamespaceId& ns);
    Result<std::size_t> seal_due();
    Result<std::size_t> seal_batch(const NamespaceRow& ns);
    Result<std::size_t> seal_entries(const NamespaceRow& ns);
    Result<std::size_t> seal_versions(const NamespaceRow& ns);
    void purge_waiting();

    Storage& storage_;
    const Vault& vault_;
    CommitQueue& commits_;
    const Settings settings_;
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
