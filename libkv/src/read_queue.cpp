#include "read_queue.h"

#include <algorithm>
#include <iterator>

namespace kv {
namespace {

constexpr std::size_t batch_max = 512;
constexpr std::size_t scan_threads = 2;
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
    void count(std::size_t reads) { operations = reads; }

    Result<void> plan(GroupContext& context) override {
        // A row tells when it was recorded, or times would go back and forth between rows of reads and of changes.
        for (AuditRecord& record : records_) record.timestamp = context.plan.now;
        context.audit.insert(context.audit.end(), records_.begin(), records_.end());
        return {};
    }
    void reject(Error) override { records_.clear(), is_rejected_ = true; }
    void finish(const Result<void>& committed) noexcept override {
        if (committed && !is_rejected_) queue_.count_release(std::chrono::steady_clock::now() - began_);
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
      readers_(std::max<std::size_t>(settings.readers, 1)) {
    threads_.reserve(scan_threads);
    try {
        for (std::size_t i = 0; i < scan_threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
        stop();
        throw;
    }
}

ReadQueue::~ReadQueue() { stop(); }

void ReadQueue::submit(Batch batch, bool caller_waits) {
    try {
        if (share_out(batch, caller_waits) > 0) work_.notify_all();
    } catch (...) {
        work_.notify_all();  // for what was shared out before the memory ended
        throw;
    }
    if (!batch.empty()) lead(std::move(batch), caller_waits);
}

// Leaves in the batch what the caller reads itself. How much went to the threads of the queue.
std::size_t ReadQueue::share_out(Batch& batch, bool caller_waits) {
    std::lock_guard lock(mutex_);
    const bool is_point = Reader::is_point_read(batch.front()->operation.request);  // a caller that waits has but one
    if (!caller_waits) put_scans_aside(batch);
    std::size_t kept = std::min(batch.size(), batch_max);
    if ((is_point || !caller_waits) && leaders_ >= readers_) kept = 0;
    const auto rest = batch.begin() + static_cast<std::ptrdiff_t>(kept);
    std::move(rest, batch.end(), std::back_inserter(waiting_));  // whoever leads takes them next
    batch.erase(rest, batch.end());
    if (!batch.empty()) ++leaders_;
    return scans_.size();
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
        if (waiting_.empty() || round >= rounds_led_max || !next_batch(batch)) {
            --leaders_;
            const bool has_left = !waiting_.empty();
            lock.unlock();
            if (has_left) work_.notify_one();
            return;
        }
    }
}

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
        work_.wait(lock, [&] { return is_stopping_ || !scans_.empty() || !waiting_.empty(); });
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
        ++leaders_;
        lock.unlock();
        if (scan) attempt([&] { batch.push_back(std::move(scan)); });
        scan.reset();
        lead(std::move(batch), false);
        lock.lock();
    }
}

void ReadQueue::run_batch(Batch batch, bool caller_waits) {
    const std::size_t size = batch.size();
    if (has_room()) {
        reader_.run(batch);
    } else {
        for (auto& item : batch) reader_.refuse(*item, Error{Errc::overloaded, "Too much is waiting to be done; try again shortly."});
    }
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
    if (!denials_.admit(first, refusals)) std::erase_if(rows, is_refusal);
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
    audit->count(batch.size());
    if (audit->has_records()) commits_.submit(std::move(audit), !caller_waits);
    for (auto& item : released) item->ticket.answer(std::move(item->reply));
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
