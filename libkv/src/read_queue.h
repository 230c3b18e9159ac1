#pragma once
#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "commit_queue.h"
#include "denials.h"
#include "event_feed.h"
#include "kv/options.h"
#include "kv/storage.h"
#include "operation.h"
#include "ticket.h"
#include "vault.h"

namespace kv {

// One read on its way: what it answers is released when its audit rows are committed.
struct ReadItem {
    ReadItem() = default;
    ReadItem(Operation what, Ticket whose) : operation(std::move(what)), ticket(std::move(whose)) {}

    Operation operation;
    Ticket ticket;

    Result<Reply> reply = Reply(Done{});
    std::vector<AuditRecord> audit;
    bool is_denied = false;       // for want of a right: what is recorded may be folded
    bool audit_may_wait = false;  // deferred read audit: answered before its rows are committed

    // Instead of a reply: not before the namespace's revision is above this, or so much time is over.
    struct Wait {
        NamespaceId ns;
        std::uint64_t above = 0;
        std::chrono::seconds patience{};
    };
    std::optional<Wait> wait = {};
};

// Carries out single reads against a storage: finds rows, judges, opens, and says what to record. Stateless but for
// what it borrows. Threads: any.
class Reader {
public:
    struct Settings {
        std::string epoch;
        const Limits* limits = nullptr;
        ReadAudit read_audit = ReadAudit::durable;
        TimeGuard time = {};
        std::shared_ptr<EventFeed> feed = {};  // shared with the watches
    };
    Reader(Storage& storage, const Vault& vault, Settings settings);

    // Point reads of one batch share one find(); everything else is done by itself.
    void run(std::vector<std::unique_ptr<ReadItem>>& batch) const;
    // Instead: says what to record.
    void refuse(ReadItem& item, Error error) const;
    static bool is_point_read(const Request& request);

private:
    class Run;
    Storage& storage_;
    const Vault& vault_;
    const Settings settings_;
};

// ReadQueue lets callers read on their own threads, up to `readers` at a time; what arrives beyond that waits and is
// read as a group by whoever finishes first. Scans that a caller did not wait for go to threads of the queue's own,
// so that an event loop is never held up by one; and where the storage is on another machine every read does, so that a
// loop does not wait for the network. Few of those threads read at a time: what gathers meanwhile is one question.
//
// Threads: any.
class ReadQueue {
public:
    struct Settings {
        std::size_t readers = 1;
        std::size_t bytes_in_flight_max = 0;  // beyond it what was accepted earlier is refused before it is read
        bool asks_another_machine = false;    // then only a caller that waits reads on its own thread
        EventFeed* feed = nullptr;            // where those wait that are to be read once something has changed
    };
    // Borrows everything but the settings.
    ReadQueue(const Reader& reader, CommitQueue& commits, Denials& denials, const InFlight& in_flight, Settings settings);
    ~ReadQueue();

    using Batch = std::vector<std::unique_ptr<ReadItem>>;
    // `caller_waits`: the caller will lead the commit of what is to be recorded (CommitQueue::lead_until), and reads on
    // its own thread, whatever it is.
    void submit(Batch batch, bool caller_waits);
    // Records and answers items that were refused before they were read: their replies and audit rows are there already.
    void release(Batch batch, bool caller_waits) { record(std::move(batch), caller_waits); }
    // Refuses what waits when for so long no reader came to an end: the storage is away, or as good as.
    void refuse_stuck(std::chrono::steady_clock::duration patience);
    void stop();

    struct Stats {
        GroupSizes group_sizes{};
        std::uint64_t groups = 0;
        std::uint64_t reads = 0;
        Latencies audit_latency{};  // from a read's result to its release
        std::uint64_t audit_microseconds = 0;
    };
    Stats stats() const;

private:
    void lead(Batch batch, bool caller_waits) noexcept;
    void run_batch(Batch batch, bool caller_waits);
    void park_waiting(Batch& batch);
    void record(Batch batch, bool caller_waits);
    bool share_out(Batch& batch, bool caller_waits);
    bool may_lead() const;
    void put_scans_aside(Batch& batch);
    bool next_batch(Batch& batch) noexcept;
    bool has_room() const;
    void fold(std::vector<AuditRecord>& rows);
    void count_release(std::chrono::steady_clock::duration took);
    friend class ReadAuditItem;
    class Parked;
    void work() noexcept;

    const Reader& reader_;
    CommitQueue& commits_;
    Denials& denials_;
    const InFlight& in_flight_;
    const std::size_t bytes_in_flight_max_;
    const bool asks_another_machine_;
    EventFeed* const feed_;
    const std::size_t readers_;

    mutable std::mutex mutex_;
    std::condition_variable work_;
    std::deque<std::unique_ptr<ReadItem>> waiting_;  // point reads that found all readers busy
    std::deque<std::unique_ptr<ReadItem>> scans_;
    std::chrono::steady_clock::time_point progress_;  // when a reader began or ended a batch
    std::size_t leaders_ = 0;
    std::size_t scans_led_ = 0;  // of them, by threads of the queue
    bool is_stopping_ = false;
    Stats stats_;
    std::vector<std::thread> threads_;
};

}  // namespace kv
