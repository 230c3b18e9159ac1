#include "read_queue.h"

#include <algorithm>
#include <iterator>

namespace kv {
namespace {

constexpr std::size_t batch_max = 512;
constexpr std::size_t scan_threads = 2;
constexpr std::size_t readers_afar = 2;  // groups of single reads that are on their way to another machine and back
constexpr std::size_t rounds_led_max = 8;  // then a caller goes its own way again

}  // namespace

// The audit rows of a batch of reads, and the replies that wait for them. ReadQueue's own.
class ReadAuditItem final : public GroupItem {
public:
    explicit ReadAuditItem(ReadQueue& queue) : queue_(queue) {}

    void add(std::unique_ptr<ReadItem> item) {
        for (AuditRecord& record : item->audit) {
            bytes += 256 + record.key_path.size();
            records_.push_back(std::move(record));
        }
        if (!item->audit_may_wait) waiting_.push_back(std::move(item));
    }
    bool has_records() const { return !records_.empty(); }
    // Once all are in it.
    void close(std::size_t reads) {
        operations = reads;
        may_wait = waiting_.empty();
    }

    Result<void> plan(GroupContext& context) override {
        // A row tells when it was recorded, or times would go back and forth between rows of reads and of changes.
        for (AuditRecord& record : records_) record.timestamp = context.plan.now;
        context.audit.insert(context.audit.end(), records_.begin(), records_.end());
        return {};
    }
    void reject(Error) override {
        withdraw();
        records_.clear(), is_rejected_ = true;
    }
    void finish(const Result<void>& committed) noexcept override {
        if (!committed) withdraw();
        if (committed && !is_rejected_ && !waiting_.empty()) queue_.count_release(std::chrono::steady_clock::now() - began_);
        for (auto& item : waiting_) {
            if (committed && !is_rejected_) {
                item->ticket.answer(std::move(item->reply));
            } else {
                item->ticket.answer(
                    make_error(Errc::audit_unavailable, "The read could not be recorded, so its result is not given out."));
            }
        }
    }

private:
    // Of a denial that is not on record: the next one shall be.
    void withdraw() noexcept {
        for (const AuditRecord& record : records_) {
            if (!record.success) queue_.denials_.withdraw(record);
        }
    }

    std::vector<AuditRecord> records_;
    std::vector<std::unique_ptr<ReadItem>> waiting_;
    bool is_rejected_ = false;
    ReadQueue& queue_;
    const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

ReadQueue::ReadQueue(const Reader& reader, CommitQueue& commits, Denials& denials, const InFlight& in_flight, Settings settings)
    : reader_(reader),
      commits_(commits),
      denials_(denials),
      in_flight_(in_flight),
      bytes_in_flight_max_(settings.bytes_in_flight_max),
      asks_another_machine_(settings.asks_another_machine),
      feed_(settings.feed),
      readers_(asks_another_machine_ ? readers_afar : std::max<std::size_t>(settings.readers, 1)) {
    const std::size_t threads = asks_another_machine_ ? scan_threads + readers_afar : scan_threads;
    threads_.reserve(threads);
    try {
        for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
        stop();
        throw;
    }
}

ReadQueue::~ReadQueue() { stop(); }

void ReadQueue::submit(Batch batch, bool caller_waits) {
    try {
        if (share_out(batch, caller_waits)) work_.notify_all();
    } catch (...) {
        work_.notify_all();  // for what was shared out before the memory ended
        throw;
    }
    if (!batch.empty()) lead(std::move(batch), caller_waits);
}

// Leaves in the batch what the caller reads itself. Whether the threads of the queue have to look.
bool ReadQueue::share_out(Batch& batch, bool caller_waits) {
    std::lock_guard lock(mutex_);
    const bool is_point = Reader::is_point_read(batch.front()->operation.request);  // a caller that waits has but one
    if (!caller_waits) put_scans_aside(batch);
    std::size_t kept = std::min(batch.size(), batch_max);
    if ((is_point || !caller_waits) && leaders_ >= readers_) kept = 0;
    if (asks_another_machine_ && !caller_waits) kept = 0;
    const auto rest = batch.begin() + static_cast<std::ptrdiff_t>(kept);
    std::move(rest, batch.end(), std::back_inserter(waiting_));  // whoever leads takes them next
    batch.erase(rest, batch.end());
    if (!batch.empty()) ++leaders_;
    return !scans_.empty() || (asks_another_machine_ && !waiting_.empty() && may_lead());
}

// With the lock held.
void ReadQueue::put_scans_aside(Batch& batch) {
    const auto first = std::stable_partition(batch.begin(), batch.end(), [](const std::unique_ptr<ReadItem>& item) {
        return Reader::is_point_read(item->operation.request);
    });
    std::move(first, batch.end(), std::back_inserter(scans_));
    batch.erase(first, batch.end());
}

// Carries out a batch, and what gathered meanwhile. Where a batch ends for want of memory its tickets say so.
void ReadQueue::lead(Batch batch, bool caller_waits) noexcept {
    for (std::size_t round = 0;; ++round) {
        if (!batch.empty()) attempt([&] { run_batch(std::move(batch), caller_waits); });
        batch.clear();
        std::unique_lock lock(mutex_);
        progress_ = std::chrono::steady_clock::now();
        if (waiting_.empty() || round >= rounds_led_max || !next_batch(batch)) {
            --leaders_;
            const bool has_left = !waiting_.empty();
            lock.unlock();
            if (has_left) work_.notify_one();
            return;
        }
    }
}

// With the lock held. Where callers lead themselves the threads only help out.
bool ReadQueue::may_lead() const { return !asks_another_machine_ || leaders_ < readers_ + scans_led_; }

// With the lock held. False if there is nothing, or no memory to take it with.
bool ReadQueue::next_batch(Batch& batch) noexcept {
    attempt([&] { batch.reserve(std::min(waiting_.size(), batch_max)); });
    while (!waiting_.empty() && batch.size() < batch.capacity()) {
        batch.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
    }
    return !batch.empty();
}

void ReadQueue::work() noexcept {
    std::unique_lock lock(mutex_);
    while (true) {
        work_.wait(lock, [&] { return is_stopping_ || !scans_.empty() || (!waiting_.empty() && may_lead()); });
        if (scans_.empty() && waiting_.empty()) return;  // stopping, and nothing is left
        Batch batch;
        std::unique_ptr<ReadItem> scan;
        if (!scans_.empty()) {
            scan = std::move(scans_.front());
            scans_.pop_front();
        } else if (!next_batch(batch)) {
            scan = std::move(waiting_.front());  // by itself, then
            waiting_.pop_front();
        }
        const bool is_scan = scan != nullptr;
        progress_ = std::chrono::steady_clock::now();
        ++leaders_;
        if (is_scan) ++scans_led_;
        lock.unlock();
        if (scan) attempt([&] { batch.push_back(std::move(scan)); });
        scan.reset();
        lead(std::move(batch), false);
        lock.lock();
        if (is_scan) --scans_led_;
    }
}

// Read again, and then whatever there is, once the time has come.
class ReadQueue::Parked final : public Waiter {
public:
    Parked(ReadQueue& queue, std::unique_ptr<ReadItem> item) : queue_(queue), item_(std::move(item)) {}
    void wake(Reason) noexcept override {
        std::get<ListEntries>(item_->operation.request).wait_revision.reset();
        item_->wait.reset();
        attempt([this] {
            std::vector<std::unique_ptr<ReadItem>> items;
            items.push_back(std::move(item_));
            queue_.submit(std::move(items), false);
        });
    }

private:
    ReadQueue& queue_;
    std::unique_ptr<ReadItem> item_;
};

void ReadQueue::park_waiting(Batch& batch) {
    for (auto& item : batch) {
        if (!item->wait) continue;
        const ReadItem::Wait wait = *item->wait;
        feed_->wait(wait.ns, wait.above, EventFeed::Clock::now() + wait.patience, std::make_unique<Parked>(*this, std::move(item)));
    }
    std::erase(batch, nullptr);
}

void ReadQueue::run_batch(Batch batch, bool caller_waits) {
    if (has_room()) {
        reader_.run(batch);
        park_waiting(batch);
    } else {
        for (auto& item : batch) reader_.refuse(*item, Error{Errc::overloaded, "Too much is waiting to be done; try again shortly."});
    }
    const std::size_t size = batch.size();
    if (size == 0) return;
    for (auto& item : batch) item->ticket.hold(reply_bytes(item->reply));
    {
        std::lock_guard lock(mutex_);
        ++stats_.groups;
        stats_.reads += size;
        count_group_size(stats_.group_sizes, size);
    }
    record(std::move(batch), caller_waits);
}

// When reads were accepted their replies were not counted yet.
bool ReadQueue::has_room() const { return in_flight_.bytes.load(std::memory_order_relaxed) <= bytes_in_flight_max_; }

// What a denied read leaves to be recorded now.
void ReadQueue::fold(std::vector<AuditRecord>& rows) {
    const auto is_refusal = [](const AuditRecord& row) { return !row.success; };
    const auto refusals = static_cast<std::uint64_t>(std::count_if(rows.begin(), rows.end(), is_refusal));
    if (refusals == 0) return;
    const AuditRecord& first = *std::find_if(rows.begin(), rows.end(), is_refusal);
    if (denials_.admit(first)) return;
    denials_.count(first, refusals);
    std::erase_if(rows, is_refusal);
}

// Hands the audit rows to the next commit group, and with them the replies that wait for it. Those whose callers wait
// may be asleep by now: unless this thread is about to lead, the queue's own must.
void ReadQueue::record(Batch batch, bool caller_waits) {
    auto audit = std::make_unique<ReadAuditItem>(*this);
    std::vector<std::unique_ptr<ReadItem>> released;
    for (auto& item : batch) {
        if (item->is_denied) fold(item->audit);
        if (item->is_denied && item->audit.empty()) {
            released.push_back(std::move(item));
        } else if (item->audit_may_wait) {
            auto early = std::make_unique<ReadItem>();
            early->audit = std::move(item->audit);
            early->audit_may_wait = true;
            audit->add(std::move(early));
            released.push_back(std::move(item));
        } else {
            audit->add(std::move(item));
        }
    }
    audit->close(batch.size());
    if (audit->has_records()) commits_.submit(std::move(audit), !caller_waits);
    for (auto& item : released) item->ticket.answer(std::move(item->reply));
}

void ReadQueue::refuse_stuck(std::chrono::steady_clock::duration patience) {
    std::deque<std::unique_ptr<ReadItem>> refused;
    std::deque<std::unique_ptr<ReadItem>> scans;
    {
        std::lock_guard lock(mutex_);
        if (leaders_ == 0 || std::chrono::steady_clock::now() - progress_ < patience) return;
        refused.swap(waiting_);
        scans.swap(scans_);
    }
    for (auto* items : {&refused, &scans}) {
        for (auto& item : *items) item->ticket.answer(make_error(Errc::unavailable, "The storage does not answer."));
    }
}

void ReadQueue::count_release(std::chrono::steady_clock::duration took) {
    std::lock_guard lock(mutex_);
    count_latency(stats_.audit_latency, took);
    stats_.audit_microseconds += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
}

void ReadQueue::stop() {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) {
        if (thread.joinable()) thread.join();
    }
}

ReadQueue::Stats ReadQueue::stats() const {
    std::lock_guard lock(mutex_);
    return stats_;
}

}  // namespace kv
