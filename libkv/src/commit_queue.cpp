#include "commit_queue.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "crypto/random.h"
#include "out_of_memory.h"

namespace kv {
namespace {

constexpr std::chrono::milliseconds unknown_retry{50};
constexpr std::chrono::milliseconds quiet_before_idle{1000};  // without a group, before the storage tidies up
constexpr std::size_t heads_named_max = 100;
constexpr std::chrono::milliseconds allowance_per_operation{5};

// Errors that one operation of the group may have caused.
bool is_worth_halving(const Error& error) {
    switch (error.code) {
        case Errc::internal:
        case Errc::integrity:
        case Errc::namespace_exists:
        case Errc::overloaded:  // a data key that may seal no more
        case Errc::wrong_key: return true;  // a data key that our master keys do not open
        default: return false;
    }
}

}  // namespace

void count_latency(Latencies& latencies, std::chrono::steady_clock::duration took) {
    const auto micros = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
    const auto bucket = static_cast<std::size_t>(std::bit_width(micros / StoreStats::latency_bound_microseconds));
    ++latencies[std::min(bucket, latencies.size() - 1)];
}

void count_group_size(GroupSizes& sizes, std::size_t operations) {
    const std::size_t bucket = operations <= 1 ? 0 : static_cast<std::size_t>(std::bit_width(operations - 1));
    ++sizes[std::min(bucket, sizes.size() - 1)];
}

CommitQueue::CommitQueue(Storage& storage, const Vault& vault, Settings settings)
    : storage_(storage), vault_(vault), settings_(std::move(settings)) {
    group_.reserve(settings_.group_items_max);
    start_stream();
    thread_ = std::thread([this] { run(); });
}

CommitQueue::~CommitQueue() { stop(); }

// ---- who leads ----

void CommitQueue::submit(std::unique_ptr<GroupItem> item, bool wakes) { enqueue(std::span(&item, 1), wakes); }

void CommitQueue::submit(std::vector<std::unique_ptr<GroupItem>> items, bool wakes) { enqueue(items, wakes); }

void CommitQueue::enqueue(std::span<std::unique_ptr<GroupItem>> items, bool wakes) {
    bool wakes_lane = false;
    {
        std::lock_guard lock(mutex_);
        if (queue_.empty()) gather_until_ = std::chrono::steady_clock::now() + settings_.gather_time;
        for (auto& item : items) {
            const bool may_wait = item->may_wait;
            queue_.push_back(std::move(item));
            if (!may_wait) ++urgent_;
        }
        wakes_lane = wakes && needs_lane();
    }
    if (wakes_lane) lane_.notify_one();
}

// With the lock held: whether a group should be led now.
bool CommitQueue::is_due() const {
    if (queue_.empty()) return false;
    return urgent_ > 0 || is_stopping_ || queue_.size() >= settings_.gather_items_max ||
           std::chrono::steady_clock::now() >= gather_until_;
}

// With the lock held: the lane has to do something, or to look at the clock from now on.
bool CommitQueue::needs_lane() const { return !queue_.empty() && !is_led_ && (!is_gathering_ || is_due()); }

void CommitQueue::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        const std::uint64_t groups_before = stats_.groups;
        is_gathering_ = !queue_.empty() && !is_led_;
        const auto until = is_gathering_ ? gather_until_ : std::chrono::steady_clock::now() + quiet_before_idle;
        const bool is_called = lane_.wait_until(lock, until, [&] {
            return !is_led_ && (is_stopping_ || is_due() || (!is_gathering_ && !queue_.empty()));
        });
        is_gathering_ = false;
        if (settings_.is_first && !is_called && queue_.empty() && !is_led_ && stats_.groups == groups_before && idle_after_ != groups_before) {
            idle_after_ = groups_before;
            tidy_up(lock);
        }
        while (!is_led_ && is_due()) lead(lock);
        if (is_stopping_ && queue_.empty() && !is_led_) return;
    }
}

// As the leader, because a write and a tidying never meet.
void CommitQueue::tidy_up(std::unique_lock<std::mutex>& lock) {
    is_led_ = true;
    note_progress();
    lock.unlock();
    attempt([&] { storage_.idle(); });
    lock.lock();
    is_led_ = false;
    if (waiting_ > 0) waiters_.notify_all();
}

void CommitQueue::lead_until(const std::atomic<bool>& done) {
    std::unique_lock lock(mutex_);
    ++waiting_;
    while (!done.load(std::memory_order_acquire)) {
        if (!is_led_ && is_due()) {
            lead(lock);
        } else {
            if (needs_lane()) lane_.notify_one();
            waiters_.wait(lock);
        }
    }
    --waiting_;
    // What is left belongs to callers that do not wait, or to waiters not yet awake.
    if (needs_lane()) lane_.notify_one();
}

void CommitQueue::wake_waiters() {
    std::lock_guard lock(mutex_);
    if (waiting_ > 0) waiters_.notify_all();
}

// One group, as its leader; enters and leaves with the lock held. Nothing in it throws, or nobody would lead again.
void CommitQueue::lead(std::unique_lock<std::mutex>& lock) {
    is_led_ = true;
    note_progress();
    take_group();
    lock.unlock();
    commit(group_);
    group_.clear();
    lock.lock();
    is_led_ = false;
    if (waiting_ > 0) waiters_.notify_all();
    if (is_stopping_ && queue_.empty()) lane_.notify_one();
}

void CommitQueue::take_group() {
    std::size_t operations = 0;
    std::size_t bytes = 0;
    while (!queue_.empty() && group_.size() < group_.capacity()) {
        const GroupItem& next = *queue_.front();
        const bool fits = operations + next.operations <= settings_.group_items_max &&
                          bytes + next.bytes <= settings_.group_bytes_max;
        if (!group_.empty() && (!fits || next.is_alone || next.must_be_first)) break;
        operations += next.operations;
        bytes += next.bytes;
        if (!next.may_wait) --urgent_;
        group_.push_back(std::move(queue_.front()));
        queue_.pop_front();
        if (group_.back()->is_alone) break;
    }
    allowance_ = group_.back()->is_alone ? allowance_per_operation * operations : std::chrono::steady_clock::duration{};
}

void CommitQueue::refuse_stuck() {
    std::deque<std::unique_ptr<GroupItem>> refused;
    {
        std::lock_guard lock(mutex_);
        const auto idle = std::chrono::steady_clock::now() - progress_.load(std::memory_order_relaxed);
        if (!is_led_ || queue_.empty() || idle < settings_.queue_patience + allowance_) return;
        refused.swap(queue_);
        urgent_ = 0;
        last_failure_ = make_error(Errc::unavailable, "The storage does not answer.");
    }
    const Result<void> nothing_done = make_error(Errc::unavailable, "The storage does not answer; nothing was changed.");
    for (auto& item : refused) item->finish(nothing_done);
}

void CommitQueue::stop() {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    lane_.notify_one();
    if (!thread_.joinable()) return;
    thread_.join();
    close_stream();
}

// ---- one group ----

void CommitQueue::commit(std::span<std::unique_ptr<GroupItem>> items) noexcept {
    Result<void> committed = write(items);
    if (committed == Errc::storage_full) committed = contain([&] { return write_without_room(items); });
    if (!committed && is_worth_halving(committed.error())) {
        if (items.size() > 1) {
            {
                std::lock_guard lock(mutex_);
                ++stats_.halved;
            }
            commit(items.first(items.size() / 2));
            commit(items.subspan(items.size() / 2));
            return;
        }
        items.front()->reject(std::move(committed).error());
        committed = write(items);
    }
    for (auto& item : items) item->finish(committed);
}

// What the storage can do without may be all that is in the way. Otherwise those items give way whose callers can be
// told so, and what is held back is for the others alone.
Result<void> CommitQueue::write_without_room(std::span<std::unique_ptr<GroupItem>> items) {
    storage_.idle();
    Result<void> committed = write(items);
    if (committed != Errc::storage_full) return committed;
    for (auto& item : items) {
        if (std::exchange(item->gives_way, false)) item->reject(copy_of(committed.error()));
    }
    if (settings_.on_full) settings_.on_full();
    storage_.idle();
    return write(items);
}

Result<void> CommitQueue::write(std::span<std::unique_ptr<GroupItem>> items) {
    Result<void> committed = write_once(items);
    if (committed == Errc::invalid_state && is_applied_) {
        // Somebody else moved our stream's head, by restoring the database perhaps: go on in a stream of our own.
        log(LogLevel::error, "audit: the head of our stream is not where we left it; starting a new stream");
        KV_CHECK(contain([&]() -> Result<void> { return start_stream(), Result<void>{}; }));
        committed = write_once(items);
        if (committed == Errc::invalid_state && is_applied_) return make_error(Errc::unavailable, "The audit stream cannot be written.");
    }
    return committed;
}

Result<void> CommitQueue::write_once(std::span<std::unique_ptr<GroupItem>> items) {
    const auto began = std::chrono::steady_clock::now();
    Result<void> committed = write_to_storage(items);
    if (committed == Errc::outcome_unknown) committed = resolve_unknown();
    if (committed && last_rows_ > 0) {
        is_stream_open_ = true;
        advance(last_change_.after);
    }
    if (!is_stream_open_) leave_witness();
    if (committed && !last_hints_.empty()) attempt([&] { settings_.on_commit(last_hints_); });
    std::size_t operations = 0;
    for (const auto& item : items) operations += item->operations;
    if (committed) count_group(operations, std::chrono::steady_clock::now() - began);
    note_outcome(committed);
    return committed;
}

// What our own code throws ends the transaction. What the storage throws leaves open whether it was committed.
Result<void> CommitQueue::write_to_storage(std::span<std::unique_ptr<GroupItem>> items) noexcept {
    is_applied_ = false;
    last_rows_ = 0;
    last_hints_.clear();
    try {
        return storage_.write([&](StorageWriter& storage) { return contain([&] { return plan_group(storage, items); }); });
    } catch (...) {
        return is_applied_ ? make_error(Errc::outcome_unknown, "The storage ended a write by an exception.") : out_of_memory();
    }
}

// The rows of the last change are committed.
void CommitQueue::advance(const AuditHead& head) {
    {
        std::lock_guard lock(mutex_);
        chain_->advance(head);
        stats_.audit_rows += last_rows_;
    }
    if (settings_.audit_copy && !last_records_.empty()) attempt([&] { settings_.audit_copy(last_records_); });
}

Result<void> CommitQueue::plan_group(StorageWriter& storage, std::span<std::unique_ptr<GroupItem>> items) {
    overlay_.clear();
    audit_.clear();
    witnessed_.clear();
    last_hints_.clear();
    last_rows_ = 0;
    KV_CHECK(load(storage, items));
    note_progress();
    KV_TRY(const Time now, settings_.time.now(storage));
    if (!is_stream_open_) KV_CHECK(open_stream(storage, now));
    GroupContext context{storage, overlay_, vault_, audit_,
                         {now, settings_.epoch, settings_.limits, settings_.namespace_retention, settings_.version_base}};
    for (auto& item : items) KV_CHECK(item->plan(context));
    note_progress();
    const Result<void> applied = apply(storage);
    note_progress();
    return applied;
}

Result<void> CommitQueue::load(StorageWriter& storage, std::span<std::unique_ptr<GroupItem>> items) {
    Needs needs;
    for (auto& item : items) item->add_needs(needs);
    if (!needs.namespaces.empty()) KV_CHECK(lock_and_load(storage, needs));
    // The fuller rows first: what is there already is not replaced.
    for (const bool is_full : {true, false}) {
        const auto& refs = is_full ? needs.full_entries : needs.entries;
        if (refs.empty()) continue;
        KV_TRY(auto found, storage.find(refs, Want{is_full, is_full}));
        add_entries(refs, std::move(found), is_full);
    }
    if (!needs.tokens.empty()) {
        KV_TRY(std::vector<TokenRow> tokens, storage.get_tokens(needs.tokens));
        for (TokenRow& row : tokens) {
            const bool is_intact = vault_.is_intact(row);
            overlay_.add_token(std::move(row), is_intact);
        }
    }
    Needs more;
    for (auto& item : items) item->add_more_needs(overlay_, more);
    KV_CHECK(look_up(storage, needs.lookups));
    return look_up(storage, more.lookups);
}

// The locks together with the first rows to be found, which are then no longer needed.
Result<void> CommitQueue::lock_and_load(StorageWriter& storage, Needs& needs) {
    const bool is_full = !needs.full_entries.empty();
    const std::vector<EntryRef> refs = std::exchange(is_full ? needs.full_entries : needs.entries, {});
    KV_TRY(auto loaded, storage.lock_and_find(needs.namespaces, refs, Want{is_full, is_full}));
    for (const auto& ns : loaded.namespaces) {
        if (ns) overlay_.add_namespace(*ns, vault_.is_intact(*ns));
    }
    add_entries(refs, std::move(loaded.entries), is_full);
    return {};
}

void CommitQueue::add_entries(std::span<const EntryRef> refs, std::vector<Found> found, bool is_full) {
    for (std::size_t i = 0; i < refs.size(); ++i) overlay_.add_entry(std::move(found[i]), refs[i].key_path, is_full);
}

Result<void> CommitQueue::look_up(StorageReader& storage, const std::vector<NamespaceRef>& names) {
    if (names.empty()) return {};
    std::vector<EntryRef> refs;
    for (const NamespaceRef& name : names) refs.push_back({name, "", {}});
    KV_TRY(auto found, storage.find(refs, {}));
    for (const Found& one : found) {
        if (one.ns) overlay_.add_namespace(*one.ns, vault_.is_intact(*one.ns));
    }
    return {};
}

Result<void> CommitQueue::apply(StorageWriter& storage) {
    Changeset changes = overlay_.take_changes();
    for (NamespaceRow& ns : changes.namespaces) ns.mac = vault_.namespace_mac(ns);
    for (TokenRow& token : changes.tokens) token.mac = vault_.token_mac(token);
    if (!audit_.empty()) {
        AuditChain::Link link = chain_->extend(std::move(audit_));
        keep_for_copy(link.rows);
        changes.audit = std::move(link.rows);
        changes.heads.insert(changes.heads.end(), witnessed_.begin(), witnessed_.end());
        changes.heads.push_back(link.head);
        last_change_ = link.head;
        last_rows_ = changes.audit.size();
    }
    if (settings_.on_commit) keep_hints(changes.events);
    if (changes.empty()) return {};
    is_applied_ = true;
    return storage.apply(changes);
}

// Events of a namespace mostly follow each other, by revision.
void CommitQueue::keep_hints(const std::vector<EventRow>& events) {
    for (const EventRow& event : events) {
        if (last_hints_.empty() || last_hints_.back().ns != event.ns) last_hints_.push_back({event.ns, 0});
        last_hints_.back().revision = std::max(last_hints_.back().revision, event.revision);
    }
}

void CommitQueue::keep_for_copy(const std::vector<AuditRow>& rows) {
    if (!settings_.audit_copy) return;
    last_records_.clear();
    for (const AuditRow& row : rows) last_records_.push_back(row.record);
}

void CommitQueue::count_group(std::size_t operations, std::chrono::steady_clock::duration took) {
    std::lock_guard lock(mutex_);
    ++stats_.groups;
    count_group_size(stats_.group_sizes, operations);
    stats_.operations += operations;
    stats_.microseconds += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
    count_latency(stats_.latency, took);
}

void CommitQueue::note_outcome(const Result<void>& committed) noexcept {
    const bool is_outage = !committed && !is_worth_halving(committed.error());
    std::lock_guard lock(mutex_);
    if (is_outage && last_failure_ && settings_.log) {
        attempt([&] { settings_.log(LogLevel::error, "storage: a group could not be committed: " + committed.error().message); });
    }
    last_failure_ = is_outage ? Result<void>(copy_of(committed.error())) : Result<void>{};
}

void CommitQueue::log(LogLevel level, const char* message) const noexcept {
    if (settings_.log) attempt([&] { settings_.log(level, message); });
}

Result<void> CommitQueue::last_failure() const {
    std::lock_guard lock(mutex_);
    return last_failure_;
}

// ---- the audit stream ----

void CommitQueue::start_stream() {
    const auto now = std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    const StreamId stream = crypto::make_uuid(now);
    const struct WipedKey {
        crypto::Key key;
        ~WipedKey() { secure_wipe(const_cast<std::uint8_t*>(key.data()), key.size()); }
    } wiped{vault_.keys().audit_stream_key(stream)};
    auto chain = std::make_unique<AuditChain>(stream, wiped.key);
    std::lock_guard lock(mutex_);
    chain_ = std::move(chain);
    is_stream_open_ = false;
    if (settings_.is_witnessing != nullptr) settings_.is_witnessing->store(false);  // the stream left behind is to be named, too
}

// The first rows of a stream name the heads that no stream named yet, so that those cannot be cut or removed later. A
// stream that nobody closed may still be written where other processes share the storage: then the next one names it again.
Result<void> CommitQueue::open_stream(StorageReader& storage, Time now) {
    audit_.push_back(make_record(system_actor(), {AuditAction::write, audit_open, {}}, now, nullptr));
    if (!take_witness()) return {};
    KV_TRY(auto heads, storage.unwitnessed_audit_heads(heads_named_max));
    for (const AuditHead& head : heads) {
        const bool is_closed = head.state == HeadState::closed;
        audit_.push_back(make_head_record(is_closed ? audit_closed : audit_unclosed, head, now));
        if (!is_closed && storage_.is_shared()) continue;
        HeadChange change{head, head};
        change.after.state = HeadState::witnessed;
        witnessed_.push_back(change);
    }
    return {};
}

// Of the queues of a store whichever opens its stream first, because any of them may have nothing to write for long.
bool CommitQueue::take_witness() noexcept {
    is_witness_ = is_witness_ || settings_.is_witnessing == nullptr || !settings_.is_witnessing->exchange(true);
    return is_witness_;
}

void CommitQueue::leave_witness() noexcept {
    if (std::exchange(is_witness_, false) && settings_.is_witnessing != nullptr) settings_.is_witnessing->store(false);
}

Result<void> CommitQueue::resolve_unknown() noexcept {
    {
        std::lock_guard lock(mutex_);
        ++stats_.unknown;
    }
    switch (ask_witness()) {
        case Witness::committed: return {};
        case Witness::not_committed:
            return make_error(Errc::unavailable, "The storage failed while committing; nothing was changed.");
        case Witness::silent: break;
    }
    // Where there is no memory for it the old stream goes on, and its head tells the next group whether it may.
    if (last_rows_ > 0) attempt([&] { start_stream(); });
    return make_error(Errc::outcome_unknown, "The storage failed while committing: whether the change happened is not known.");
}

// The stream's head is the witness of a commit whose outcome nobody told us.
CommitQueue::Witness CommitQueue::ask_witness() noexcept {
    const StreamId stream = last_change_.after.stream;
    const auto deadline = std::chrono::steady_clock::now() + settings_.unknown_patience;
    while (last_rows_ > 0 && std::chrono::steady_clock::now() < deadline) {
        const auto heads = contain([&] { return storage_.get_audit_heads(std::span(&stream, 1)); });
        if (heads) {
            const AuditHead found = heads->empty() ? AuditHead{stream, 0, {}, HeadState::open} : heads->front();
            if (found.sequence == last_change_.after.sequence && found.mac == last_change_.after.mac) return Witness::committed;
            if (found.sequence == last_change_.before.sequence) return Witness::not_committed;
            break;
        }
        std::unique_lock lock(mutex_);
        waiters_.wait_for(lock, unknown_retry);
    }
    return Witness::silent;
}

void CommitQueue::close_stream() {
    if (!is_stream_open_) return;
    const auto close = [&](StorageWriter& storage) -> Result<void> {
        KV_TRY(const Time now, settings_.time.now(storage));
        std::vector<AuditRecord> records;
        records.push_back(make_record(system_actor(), {AuditAction::write, audit_close, {}}, now, nullptr));
        AuditChain::Link link = chain_->extend(std::move(records));
        link.head.after.state = HeadState::closed;
        Changeset changes;
        keep_for_copy(link.rows);
        last_rows_ = link.rows.size();
        changes.audit = std::move(link.rows);
        changes.heads.push_back(link.head);
        last_change_ = link.head;
        return storage.apply(changes);
    };
    if (contain([&] { return storage_.write(close); })) {
        advance(last_change_.after);
    } else {
        log(LogLevel::warning, "audit: the stream could not be closed");
    }
    is_stream_open_ = false;
}

AuditHead CommitQueue::head() const {
    std::lock_guard lock(mutex_);
    return chain_->head();
}

CommitQueue::Stats& CommitQueue::Stats::operator+=(const Stats& other) {
    for (std::size_t i = 0; i < group_sizes.size(); ++i) group_sizes[i] += other.group_sizes[i];
    for (std::size_t i = 0; i < latency.size(); ++i) latency[i] += other.latency[i];
    groups += other.groups;
    operations += other.operations;
    microseconds += other.microseconds;
    halved += other.halved;
    unknown += other.unknown;
    audit_rows += other.audit_rows;
    queued += other.queued;
    return *this;
}

CommitQueue::Stats CommitQueue::stats() const {
    std::lock_guard lock(mutex_);
    Stats stats = stats_;
    stats.queued = queue_.size();
    return stats;
}

}  // namespace kv
