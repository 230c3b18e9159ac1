#include "relay.h"

#include <algorithm>
#include <utility>

#include "out_of_memory.h"

namespace kv {
namespace {

constexpr std::size_t batch_events = 256;
constexpr std::size_t namespaces_asked = 64;      // at once
constexpr std::size_t page_rows = 1000;
constexpr std::size_t hints_max = 10'000;         // beyond it everything is looked at instead
constexpr std::size_t lanes_kept = 10'000;
constexpr std::chrono::milliseconds between_batches{2};
constexpr std::chrono::milliseconds between_notes{100};  // of how far the sink got
constexpr std::chrono::seconds between_loads{1};         // of what other processes wrote
constexpr std::chrono::seconds ownership{15};
constexpr std::chrono::seconds ownership_margin{6};      // a delivery that stalls ends within it (EventSink::deliver)
constexpr std::chrono::seconds between_renewals{3};
constexpr std::chrono::milliseconds pause_min{100};
constexpr std::chrono::milliseconds pause_max{10'000};
constexpr std::uint32_t doublings_max = 7;

std::chrono::milliseconds pause_after(std::uint32_t failures) {
    return std::min(pause_min * (1u << std::min(failures - 1, doublings_max)), pause_max);
}

}  // namespace

Relay::Relay(EventSink& sink, Storage& storage, Steps steps, Settings settings)
    : sink_(sink), storage_(storage), steps_(steps), settings_(std::move(settings)) {
    stats_.name = sink_.name();
    make_sure_of_ownership();  // whatever is changed from now on is told, also to a sink that is new
    thread_ = std::thread([this] { run(); });
}

void Relay::note(std::span<const Storage::Hint> committed) noexcept {
    bool wakes = false;
    {
        std::lock_guard lock(mutex_);
        bool is_noted = false;
        if (!committed.empty() && hints_.size() < hints_max) {
            attempt([&] {
                for (const Storage::Hint& hint : committed) {
                    std::uint64_t& newest = hints_[hint.ns];
                    newest = std::max(newest, hint.revision);
                }
                is_noted = true;
            });
        }
        if (!is_noted) must_load_ = true;
        wakes = is_asleep_;
    }
    if (wakes) wake_.notify_one();
}

StoreStats::Sink Relay::stats() const {
    std::lock_guard lock(mutex_);
    return stats_;
}

void Relay::stop() noexcept {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_one();
    sink_.stop();
    if (thread_.joinable()) thread_.join();
}

// ---- the thread ----

void Relay::run() {
    while (true) {
        bool worked = false;
        attempt([&] { worked = go_round(); });
        attempt([&] { publish_stats(); });
        {
            std::lock_guard lock(mutex_);
            if (is_stopping_) break;
        }
        if (worked) {
            rest();
        } else {
            pause();
        }
    }
    auto written = contain([&] { return is_owner_ ? write_down(true) : Result<void>{}; });
    if (!written) log(LogLevel::warning, "events: how far sink " + sink_.name() + " got was not written down: " + written.error().message);
}

// Whether something was delivered, so that there may be more soon.
bool Relay::go_round() {
    if (Clock::now() < not_before_ || !make_sure_of_ownership()) return false;
    take_hints();
    const bool is_time_to_load = !is_loaded_ || (settings_.is_shared && Clock::now() - loaded_at_ >= between_loads);
    if (is_time_to_load) {
        if (auto loaded = load_backlog(); !loaded) return note_failure(loaded.error().message), false;
    }
    auto batch = collect();
    if (!batch) return note_failure(batch.error().message), false;
    if (!batch->events.empty()) deliver(*batch);
    if (is_time_to_write_down()) {
        if (auto written = write_down(false); !written) return note_failure(written.error().message), false;
    }
    return !batch->events.empty();
}

// Under load commits come one after the other: not to be woken by each of them costs them nothing and makes batches.
void Relay::rest() {
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, between_batches, [&] { return is_stopping_; });
}

// Until something is committed, or something of ours is due.
void Relay::pause() {
    const Clock::time_point now = Clock::now();
    Clock::time_point until = now + between_loads;
    for (const auto& [ns, lane] : lanes_) {
        if (lane.is_dirty) until = std::min(until, written_down_at_ + between_notes);
        if (lane.has_more() && lane.failures > 0) until = std::min(until, lane.not_before);
    }
    until = std::max(until, not_before_);
    std::unique_lock lock(mutex_);
    is_asleep_ = true;
    wake_.wait_until(lock, until, [&] { return is_stopping_ || (now >= not_before_ && (must_load_ || !hints_.empty())); });
    is_asleep_ = false;
}

void Relay::note_failure(const std::string& message) {
    ++failures_in_row_;
    not_before_ = Clock::now() + pause_after(failures_in_row_);
    std::lock_guard lock(mutex_);
    ++stats_.failures;
    if (stats_.last_error != message) log(LogLevel::warning, "events: sink " + sink_.name() + ": " + message);
    stats_.last_error = message;
}

void Relay::publish_stats() {
    std::uint64_t pending = 0;
    std::optional<Time> oldest;
    for (const auto& [ns, lane] : lanes_) {
        pending += lane.newest - lane.confirmed - lane.skipped;
        if (lane.has_more() && lane.oldest_pending && (!oldest || *lane.oldest_pending < *oldest)) oldest = lane.oldest_pending;
    }
    double age = 0;
    if (oldest) {
        if (auto now = storage_.now(); now && *now > *oldest) age = std::chrono::duration<double>(*now - *oldest).count();
    }
    std::lock_guard lock(mutex_);
    stats_.is_owner = is_owner_;
    stats_.pending = pending;
    stats_.oldest_pending_seconds = age;
}

void Relay::log(LogLevel level, const std::string& message) const noexcept {
    if (settings_.log) attempt([&] { settings_.log(level, message); });
}

// ---- whose sink it is ----

bool Relay::make_sure_of_ownership() {
    const Clock::time_point now = Clock::now();
    if (is_owner_ && (!settings_.is_shared || now - renewed_at_ < between_renewals)) return true;
    auto claimed = contain([&] { return claim(); });
    if (!claimed) note_failure(claimed.error().message);
    if (claimed && *claimed) return true;
    // Without an answer what we had is ours a little longer.
    if (!claimed && is_owner_ && Clock::now() + ownership_margin < owned_until_) return true;
    disown();
    return false;
}

void Relay::disown() {
    is_owner_ = is_loaded_ = false;
    lanes_.clear();
}

// Takes the sink, or keeps it. False: another process has it.
Result<bool> Relay::claim() {
    const Clock::time_point began = Clock::now();
    bool is_owner = false;
    if (settings_.is_shared && !is_owner_ && !is_new_) {  // only looked at, as long as somebody else has it
        KV_TRY(const std::vector<SinkRow> rows, storage_.scan_sinks());
        KV_TRY(const Time now, storage_.now());
        const auto found = std::find_if(rows.begin(), rows.end(), [&](const SinkRow& row) { return row.name == sink_.name(); });
        if (found != rows.end() && !found->owner.empty() && found->owned_until > now) return false;
    }
    KV_CHECK(steps_.commit_along([&](GroupContext& context) -> Result<void> {
        KV_TRY(const std::optional<SinkRow> found, context.storage.lock_sink(sink_.name()));
        return enter(context, found ? &*found : nullptr, is_owner);
    }));
    if (!is_owner) return false;
    if (!is_owner_) log(LogLevel::info, "events: delivering to sink " + sink_.name());
    is_owner_ = true;
    is_new_ = false;
    renewed_at_ = began;
    owned_until_ = began + ownership;
    return true;
}

Result<void> Relay::enter(GroupContext& context, const SinkRow* found, bool& is_owner) {
    const Time now = context.plan.now;
    is_owner = false;
    if (found != nullptr && settings_.is_shared && found->owner != settings_.owner && !found->owner.empty() && found->owned_until > now) return {};
    SinkRow row;
    if (found != nullptr) {
        row = *found;
    } else {
        if (!is_new_) log(LogLevel::error, "events: sink " + sink_.name() + " was forgotten while it was served: it begins anew");
        row.name = sink_.name();
        row.registered_at = now;
        KV_CHECK(begin_at_present(context));
        is_loaded_ = false;
        lanes_.clear();
    }
    is_owner = true;
    const bool is_unchanged = found != nullptr && !settings_.is_shared && row.owner == settings_.owner;
    if (is_unchanged) return {};
    if (row.owner != settings_.owner) ++row.owners;
    row.owner = settings_.owner;
    row.owned_until = now + ownership;
    context.overlay.changes().sinks.push_back(std::move(row));
    return {};
}

// A new sink begins with what is changed from now on. What another process commits meanwhile is above what is seen here.
Result<void> Relay::begin_at_present(GroupContext& context) {
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.limit = page_rows;
    while (true) {
        KV_TRY(const std::vector<NamespaceRow> rows, context.storage.scan_namespaces(range));
        for (const NamespaceRow& row : rows) {
            context.overlay.changes().cursors.push_back({sink_.name(), row.id, row.application_id, row.revision});
        }
        if (rows.size() < range.limit) return {};
        range.after = {rows.back().application_id, rows.back().name, rows.back().id};
    }
}

// ---- what there is to do ----

void Relay::take_hints() {
    std::map<NamespaceId, std::uint64_t> hints;
    {
        std::lock_guard lock(mutex_);
        hints.swap(hints_);
        if (std::exchange(must_load_, false)) is_loaded_ = false;
    }
    for (const auto& [ns, newest] : hints) {
        const auto found = lanes_.find(ns);
        if (found == lanes_.end()) {
            is_loaded_ = false;  // it is not known how far the sink is there
        } else {
            found->second.newest = std::max(found->second.newest, newest);
        }
    }
}

Result<void> Relay::load_backlog() {
    loaded_at_ = Clock::now();
    // What is done and written down is only kept so that hints find it.
    if (lanes_.size() > lanes_kept) {
        std::erase_if(lanes_, [](const auto& one) { return !one.second.has_more() && !one.second.is_dirty; });
    }
    BacklogRange range;
    range.sink = sink_.name();
    range.limit = page_rows;
    while (true) {
        KV_TRY(const std::vector<Backlog> rows, storage_.scan_backlog(range));
        for (const Backlog& row : rows) {
            Lane& lane = lanes_[row.ns];
            lane.application_id = row.application_id;
            lane.confirmed = std::max(lane.confirmed, row.confirmed);  // perhaps further than what is written down
            lane.newest = std::max({lane.newest, row.newest, lane.confirmed});
            lane.is_gone = row.is_gone;
        }
        if (rows.size() < range.limit) break;
        range.after = rows.back().ns;
    }
    is_loaded_ = true;
    return {};
}

// The namespaces take turns; one that failed sends its first event alone.
EventRange Relay::next_range(Clock::time_point now) {
    EventRange range;
    range.limit = batch_events;
    const auto add = [&](auto from, auto to) {
        for (auto at = from; at != to && range.from.size() < namespaces_asked; ++at) {
            const Lane& lane = at->second;
            if (lane.has_more() && now >= lane.not_before) range.from.push_back({at->first, lane.confirmed});
        }
    };
    const auto middle = lanes_.upper_bound(last_asked_);
    add(middle, lanes_.end());
    add(lanes_.begin(), middle);
    if (range.from.empty()) return range;
    last_asked_ = range.from.back().ns;
    range.limit_each = std::max<std::size_t>(batch_events / range.from.size(), 1);
    return range;
}

Result<Relay::Batch> Relay::collect() {
    Batch batch;
    const EventRange range = next_range(Clock::now());
    if (range.from.empty()) return batch;
    KV_TRY(std::vector<EventRow> rows, storage_.scan_events(range));
    std::map<NamespaceId, std::size_t> counts;
    std::map<NamespaceId, std::uint64_t> last;
    for (EventRow& row : rows) {
        Lane& lane = lanes_[row.ns];
        const std::size_t number = counts[row.ns]++;
        std::uint64_t& before = last[row.ns];
        if (number == 0) {
            lane.oldest_pending = row.at;
            lane.skipped = 0;
            before = lane.confirmed;
        }
        lane.skipped += row.revision - std::exchange(before, row.revision) - 1;
        lane.newest = std::max(lane.newest, row.revision);
        if (number > 0 && lane.failures > 0) continue;
        batch.events.push_back({row.ns, lane.application_id, row.revision, row.entry_id, std::move(row.key_path), row.kind, row.version, row.at,
                                std::move(row.user_id)});
    }
    // A revision without an event, as a restored store has one.
    for (const EventRange::From& from : range.from) {
        if (counts.contains(from.ns)) continue;
        Lane& lane = lanes_[from.ns];
        lane.confirmed = lane.newest;
        lane.skipped = 0;
        lane.is_dirty = true;
    }
    batch.confirmed.resize(batch.events.size());
    return batch;
}

// ---- delivering ----

void Relay::deliver(Batch& batch) {
    const Result<void> delivered = contain([&] { return sink_.deliver(batch.events, batch.confirmed); });
    batch.confirmed.resize(batch.events.size());
    advance(batch, !delivered);
    if (!delivered) {
        note_failure(delivered.error().message);
        return;
    }
    failures_in_row_ = 0;
    const bool is_whole = std::find(batch.confirmed.begin(), batch.confirmed.end(), false) == batch.confirmed.end();
    std::lock_guard lock(mutex_);
    if (!is_whole) ++stats_.failures;
    stats_.last_error = is_whole ? "" : "some events were not taken";
}

// Each namespace gets on up to its first event that did not arrive.
void Relay::advance(const Batch& batch, bool failed) {
    const Clock::time_point now = Clock::now();
    std::map<NamespaceId, bool> is_held_up;
    std::uint64_t delivered = 0;
    for (std::size_t i = 0; i < batch.events.size(); ++i) {
        const Event& event = batch.events[i];
        Lane& lane = lanes_[event.ns];
        delivered += batch.confirmed[i] ? 1 : 0;
        bool& held_up = is_held_up[event.ns];
        if (held_up) continue;
        if (batch.confirmed[i]) {
            lane.skipped -= event.revision - lane.confirmed - 1;
            lane.confirmed = event.revision;
            lane.is_dirty = true;
            lane.failures = 0;
            lane.oldest_pending.reset();
            continue;
        }
        held_up = true;
        lane.oldest_pending = event.at;
        if (failed) continue;  // the whole sink pauses
        ++lane.failures;
        lane.not_before = now + pause_after(lane.failures);
    }
    std::lock_guard lock(mutex_);
    stats_.delivered += delivered;
}

bool Relay::is_time_to_write_down() const {
    if (Clock::now() - written_down_at_ < between_notes) return false;
    return std::any_of(lanes_.begin(), lanes_.end(), [](const auto& one) { return one.second.is_dirty; });
}

// How far the sink got. `releases`: and lets go of it, so that another process need not wait.
Result<void> Relay::write_down(bool releases) {
    bool is_owner = true;
    KV_CHECK(steps_.commit_along([&](GroupContext& context) -> Result<void> {
        KV_TRY(const std::optional<SinkRow> row, context.storage.lock_sink(sink_.name()));
        is_owner = row && (!settings_.is_shared || row->owner == settings_.owner);
        if (!is_owner) return {};
        Changeset& changes = context.overlay.changes();
        for (const auto& [ns, lane] : lanes_) {
            if (!lane.is_dirty) continue;
            if (lane.is_gone && !lane.has_more()) {
                changes.erase_cursors.push_back({sink_.name(), ns});
            } else {
                changes.cursors.push_back({sink_.name(), ns, lane.application_id, lane.confirmed});
            }
        }
        if (!settings_.is_shared || !releases) return {};
        changes.sinks.push_back(*row);
        changes.sinks.back().owner.clear();
        return {};
    }));
    written_down_at_ = Clock::now();
    if (!is_owner) {
        disown();
        return {};
    }
    for (auto& [ns, lane] : lanes_) lane.is_dirty = false;
    std::erase_if(lanes_, [](const auto& one) { return one.second.is_gone && !one.second.has_more(); });
    return {};
}

}  // namespace kv
