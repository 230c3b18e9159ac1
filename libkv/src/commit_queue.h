#pragma once
#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "audit.h"
#include "kv/options.h"
#include "kv/storage.h"
#include "kv/store.h"
#include "overlay.h"
#include "plan.h"
#include "time_guard.h"
#include "vault.h"

namespace kv {

// How many groups carried how many operations, as StoreStats tells it.
using GroupSizes = std::array<std::uint64_t, StoreStats::group_buckets>;
void count_group_size(GroupSizes& sizes, std::size_t operations);
// How many took how long, likewise.
using Latencies = std::array<std::uint64_t, StoreStats::latency_buckets>;
void count_latency(Latencies& latencies, std::chrono::steady_clock::duration took);

// What the items of a group work on, inside the group's transaction.
struct GroupContext {
    StorageWriter& storage;
    Overlay& overlay;
    const Vault& vault;
    std::vector<AuditRecord>& audit;
    PlanContext plan;
};

// GroupItem is one thing to be committed: an operation, the audit rows of reads, a batch of maintenance.
class GroupItem {
public:
    virtual ~GroupItem() = default;

    virtual void add_needs(Needs&) const {}
    // Once the first needs are in the overlay.
    virtual void add_more_needs(Overlay&, Needs&) const {}
    // Inside the transaction; again, and from the start, if the group runs again. An error fails the whole group.
    virtual Result<void> plan(GroupContext& context) = 0;
    // The storage rejected this item alone: from now on plan() only records the failure.
    virtual void reject(Error error) = 0;
    // Once, after the group was committed or given up.
    virtual void finish(const Result<void>& committed) noexcept = 0;

    std::size_t bytes = 0;
    std::size_t operations = 1;
    bool is_alone = false;       // a group of its own
    bool must_be_first = false;  // needs to see rows as they are stored, not as the group changed them
    bool gives_way = false;      // rejected first where the disk is full, so that the others find room
    bool may_wait = false;       // nobody waits for it: gathered for a moment, so that many are committed at once
};

// CommitQueue turns many items into few transactions. It takes whatever arrived while the last one was committing
// (LevelDB's write queue works the same way), locks the namespaces, loads all rows in one batch, lets every item plan
// against the overlay, chains the audit rows and commits once. Only items that all may wait are held until a timer ends.
//
// Threads: any. One thread at a time leads; it is the queue's own, or a caller that waits in lead_until().
class CommitQueue {
public:
    struct Settings {
        std::string epoch;
        const Limits* limits = nullptr;
        std::chrono::seconds namespace_retention{};
        TimeGuard time = {};
        std::function<void()> on_full = {};  // the storage found no room: whatever can be let go of
        std::function<void(std::span<const AuditRecord>)> audit_copy = {};  // after each commit
        std::function<void(std::span<const Storage::Hint>)> on_commit = {};  // after each commit that has events
        std::function<void(LogLevel, std::string_view)> log = {};
        std::uint64_t version_base = 0;  // of namespaces to come
        bool is_first = true;            // of the queues of a store: tidies up
        std::atomic<bool>* is_witnessing = nullptr;  // shared by the queues of a store: the first to write names other streams
        std::size_t group_items_max = 512;
        std::size_t group_bytes_max = 1u << 20;
        std::size_t gather_items_max = 512;  // of those that may wait
        std::chrono::milliseconds gather_time{10};
        std::chrono::milliseconds queue_patience{850};  // see refuse_stuck(); a caller is to know within a second
        std::chrono::milliseconds unknown_patience{5000};  // with a storage that cannot say whether a commit happened
    };
    // Borrows storage and vault.
    CommitQueue(Storage& storage, const Vault& vault, Settings settings);
    ~CommitQueue();

    // `wakes` false: the caller will lead_until() at once.
    void submit(std::unique_ptr<GroupItem> item, bool wakes = true);
    void submit(std::vector<std::unique_ptr<GroupItem>> items, bool wakes = true);
    // Waits until `done`, leading groups meanwhile if nobody else does. Whoever sets `done` calls wake_waiters() after.
    void lead_until(const std::atomic<bool>& done);
    void wake_waiters();
    // Where a step of the group under way takes longer than queue_patience (a large bulk: and as much longer as it is large)
    // the storage is away, or as good as: what waits behind it is refused, because nothing was done for it yet.
    void refuse_stuck();
    // Ends the audit stream with a CLOSE row and joins the thread. Everything submitted before is finished.
    void stop();

    AuditHead head() const;
    // What the last group failed with, if it did.
    Result<void> last_failure() const;

    struct Stats {
        GroupSizes group_sizes{};
        std::uint64_t groups = 0;
        std::uint64_t operations = 0;
        std::uint64_t microseconds = 0;
        std::uint64_t halved = 0;
        std::uint64_t unknown = 0;
        std::uint64_t audit_rows = 0;
        std::uint64_t queued = 0;
        Latencies latency{};

        Stats& operator+=(const Stats& other);
    };
    Stats stats() const;

private:
    using Group = std::vector<std::unique_ptr<GroupItem>>;

    void enqueue(std::span<std::unique_ptr<GroupItem>> items, bool wakes);
    void run();
    bool is_due() const;
    bool needs_lane() const;
    void tidy_up(std::unique_lock<std::mutex>& lock);
    void note_progress() noexcept { progress_.store(std::chrono::steady_clock::now(), std::memory_order_relaxed); }
    void take_group();
    void lead(std::unique_lock<std::mutex>& lock);
    void commit(std::span<std::unique_ptr<GroupItem>> items) noexcept;
    Result<void> write(std::span<std::unique_ptr<GroupItem>> items);
    Result<void> write_without_room(std::span<std::unique_ptr<GroupItem>> items);
    Result<void> write_once(std::span<std::unique_ptr<GroupItem>> items);
    Result<void> write_to_storage(std::span<std::unique_ptr<GroupItem>> items) noexcept;
    Result<void> plan_group(StorageWriter& storage, std::span<std::unique_ptr<GroupItem>> items);
    Result<void> load(StorageWriter& storage, std::span<std::unique_ptr<GroupItem>> items);
    Result<void> lock_and_load(StorageWriter& storage, Needs& needs);
    void add_entries(std::span<const EntryRef> refs, std::vector<Found> found, bool is_full);
    Result<void> look_up(StorageReader& storage, const std::vector<NamespaceRef>& names);
    Result<void> apply(StorageWriter& storage);
    Result<void> open_stream(StorageReader& storage, Time now);
    Result<void> resolve_unknown() noexcept;
    bool take_witness() noexcept;
    void leave_witness() noexcept;
    enum class Witness { committed, not_committed, silent };
    Witness ask_witness() noexcept;
    void start_stream();
    void close_stream();
    void log(LogLevel level, const char* message) const noexcept;
    void note_outcome(const Result<void>& committed) noexcept;
    void advance(const AuditHead& head);
    void keep_hints(const std::vector<EventRow>& events);
    void keep_for_copy(const std::vector<AuditRow>& rows);
    void count_group(std::size_t operations, std::chrono::steady_clock::duration took);

    Storage& storage_;
    const Vault& vault_;
    const Settings settings_;

    mutable std::mutex mutex_;
    std::condition_variable lane_;     // the queue's thread waits here
    std::condition_variable waiters_;  // callers in lead_until() wait here
    std::deque<std::unique_ptr<GroupItem>> queue_;
    std::size_t urgent_ = 0;  // of them, those that may not wait
    std::chrono::steady_clock::time_point gather_until_;
    bool is_gathering_ = false;  // the lane wakes by itself when that time has come
    std::size_t waiting_ = 0;
    bool is_led_ = false;
    std::chrono::steady_clock::duration allowance_{};  // for the group under way, beyond queue_patience
    std::atomic<std::chrono::steady_clock::time_point> progress_{};  // of whoever leads: the last step's beginning
    bool is_stopping_ = false;
    Stats stats_;
    Result<void> last_failure_;
    std::uint64_t idle_after_ = 0;  // groups there were when the storage was last told to tidy up

    // Only the leader touches these, and changes head_ under the mutex.
    Group group_;  // has room for every item that a group may have
    bool is_applied_ = false;  // by the write that goes on: from here on it may be committed
    Overlay overlay_;
    std::vector<AuditRecord> audit_;
    std::vector<HeadChange> witnessed_;  // by the first rows of our stream
    std::unique_ptr<AuditChain> chain_;
    bool is_stream_open_ = false;
    bool is_witness_ = false;
    HeadChange last_change_;
    std::size_t last_rows_ = 0;
    std::vector<AuditRecord> last_records_;  // of the last change, for audit_copy
    std::vector<Storage::Hint> last_hints_;  // of the last change, for on_commit

    std::thread thread_;
};

}  // namespace kv
