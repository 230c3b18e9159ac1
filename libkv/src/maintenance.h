#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "audit_retention.h"
#include "commit_queue.h"
#include "denials.h"
#include "disk_guard.h"
#include "event_retention.h"
#include "kv/options.h"
#include "rekey.h"
#include "rewrap.h"
#include "steps.h"
#include "ticket.h"

namespace kv {

// Maintenance does what is due, in bounded batches that are commit groups of their own: it ends expired entries, destroys
// what their grace is over for, forgets old tombstones, purges deleted namespaces, has values sealed anew
// and keys wrapped anew, takes old audit rows away and writes folded denials. While the clock is unsound nothing is expired
// or destroyed. Everything can stop at any point and goes on from what is stored.
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
        TimeGuard time;
        AuditRetention::Settings audit;
        Rekeying::Settings rekeying;
        EventRetention::Settings events;
    };
    // Borrows everything but the settings.
    Maintenance(Storage& storage, const Vault& vault, CommitQueue& commits, Denials& denials, DiskGuard& disk, Settings settings);
    ~Maintenance();

    // One batch of everything that is due, waiting; false if nothing was.
    Result<bool> run_round();
    // Purges a namespace that is marked as deleted, then answers.
    void purge(NamespaceId ns, Ticket ticket) noexcept;
    // Writes the denials that are folded still. After stop(), before the commit queue stops.
    void flush();
    // Writes one audit row, with meta rows that become true with it, and waits for it.
    // See Store::note_token_uses().
    Result<void> note_token_uses(std::vector<TokenUse> uses);
    Result<void> record(AuditRecord record, std::vector<MetaRow> meta = {});
    // A data key was replaced, or a namespace made secret.
    void rekey() noexcept;
    Result<std::uint64_t> forget_master_key(const std::string& key_id);
    // Something became due: do not wait for the interval.
    void hurry();
    void stop();

    std::uint64_t expired() const noexcept { return expired_.load(std::memory_order_relaxed); }
    std::uint64_t folded() const noexcept { return folded_.load(std::memory_order_relaxed); }
    // How long ago the oldest entry expired that was not swept yet.
    std::chrono::microseconds sweeper_lag() const noexcept { return std::chrono::microseconds(lag_.load(std::memory_order_relaxed)); }
    const AuditRetention& audit() const noexcept { return audit_; }
    const Rewrapping& rewrapping() const noexcept { return rewrapping_; }
    const Rekeying& rekeying() const noexcept { return rekeying_; }
    const EventRetention& events() const noexcept { return events_; }

private:
    void run();
    Result<void> resume();
    Result<std::size_t> sweep(Time now);
    Result<std::size_t> trim_audit(Time now);
    Result<std::size_t> write_denials(std::vector<AuditRecord> rows);
    Result<void> measure_lag(Time now);
    Result<std::size_t> expire(Time now);
    Result<std::size_t> destroy_hidden(Time now);
    Result<std::size_t> forget_tombstones(Time now);
    Result<std::size_t> forget_tokens(Time now);
    Result<std::size_t> purge_due(Time now);
    Result<std::size_t> purge_batch(const NamespaceId& ns);
    void purge_waiting();

    Storage& storage_;
    const Vault& vault_;
    CommitQueue& commits_;
    Denials& denials_;
    DiskGuard& disk_;
    const Settings settings_;
    Steps steps_;
    Rewrapping rewrapping_;
    Rekeying rekeying_;
    AuditRetention audit_;
    EventRetention events_;
    std::atomic<std::uint64_t> expired_{0};
    std::atomic<std::uint64_t> folded_{0};
    std::atomic<std::int64_t> lag_{0};

    std::mutex round_;  // one round at a time
    std::mutex mutex_;
    std::condition_variable wake_;
    bool is_hurried_ = false;
    bool is_stopping_ = false;
    std::deque<std::pair<NamespaceId, Ticket>> purges_;
    std::thread thread_;
};

}  // namespace kv
