#include "event_feed.h"

#include <algorithm>
#include <utility>

#include "out_of_memory.h"

namespace kv {
namespace {

constexpr std::chrono::milliseconds tick{250};         // how exactly deadlines are kept
constexpr std::chrono::seconds between_looks{1};       // at what other processes wrote
constexpr std::chrono::seconds unused_kept{30};
constexpr std::size_t namespaces_at_once = 500;
constexpr std::size_t events_at_once = 256;
constexpr std::size_t recent_max = 512;

}  // namespace

void EventFeed::note(std::span<const Storage::Hint> committed) noexcept {
    if (channel_count_.load(std::memory_order_acquire) == 0) return;
    bool wakes = false;
    {
        std::lock_guard lock(mutex_);
        if (committed.empty()) wakes = must_look_at_all_ = true;
        for (const Storage::Hint& hint : committed) {
            const auto found = channels_.find(hint.ns);
            if (found == channels_.end() || found->second.newest >= hint.revision) continue;
            found->second.newest = hint.revision;
            found->second.is_noted = is_noted_ = wakes = true;
        }
    }
    if (wakes) wake_.notify_one();
}

void EventFeed::wait(const NamespaceId& ns, std::uint64_t above, Clock::time_point deadline, std::unique_ptr<Waiter> waiter,
                     Clock::time_point not_before) {
    {
        std::lock_guard lock(mutex_);
        if (!is_stopping_) {
            const auto [at, is_new] = channels_.try_emplace(ns);
            channel_count_.store(channels_.size(), std::memory_order_release);
            Channel& channel = at->second;
            if (is_new) must_look_ = true;
            channel.used = Clock::now();
            channel.parked.push_back({above, deadline, not_before, std::move(waiter)});
            channel.is_noted = is_noted_ = true;
            if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
        }
    }
    if (waiter) return waiter->wake(Waiter::Reason::closing);
    wake_.notify_one();
}

void EventFeed::release() noexcept {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_one();
}

void EventFeed::stop() noexcept {
    release();
    if (thread_.joinable()) thread_.join();
}

void EventFeed::run() {
    std::unique_lock lock(mutex_);
    while (!is_stopping_) {
        const auto is_called = [&] { return is_stopping_ || is_noted_ || must_look_ || must_look_at_all_; };
        if (channels_.empty()) {
            wake_.wait(lock, is_called);
        } else {
            wake_.wait_until(lock, next_tick_, is_called);
        }
        if (is_stopping_) break;
        attempt([&] { go_round(lock); });
        if (!lock.owns_lock()) lock.lock();
    }
    const auto channels = std::move(channels_);
    lock.unlock();
    for (const auto& [ns, channel] : channels) {
        for (const Parked& parked : channel.parked) parked.waiter->wake(Waiter::Reason::closing);
    }
}

void EventFeed::go_round(std::unique_lock<std::mutex>& lock) {
    const Clock::time_point began = Clock::now();
    const bool is_time_to_look = began >= next_look_;
    if (is_time_to_look) next_look_ = began + between_looks;
    if (must_look_ || must_look_at_all_ || is_time_to_look) look(lock, must_look_at_all_ || is_time_to_look);
    const Clock::time_point now = Clock::now();
    if (is_time_to_look) forget_unused(now);
    const bool with_deadlines = now >= next_tick_;
    if (with_deadlines) next_tick_ = now + tick;
    Woken woken = take_due(now, with_deadlines);
    lock.unlock();
    for (auto& [waiter, reason] : woken) waiter->wake(reason);
    woken.clear();
    lock.lock();
}

// Asks the storage how far they are: those that are new, or all. Where it does not answer they are looked at again.
void EventFeed::look(std::unique_lock<std::mutex>& lock, bool at_all) {
    must_look_ = must_look_at_all_ = false;
    std::vector<NamespaceId> namespaces;
    for (const auto& [ns, channel] : channels_) {
        if (at_all || channel.is_new) namespaces.push_back(ns);
    }
    lock.unlock();
    auto found = contain([&] { return find(namespaces); });
    lock.lock();
    if (!found) return;
    for (std::size_t i = 0; i < namespaces.size(); ++i) {
        const auto channel = channels_.find(namespaces[i]);
        if (channel != channels_.end()) take_found(channel->second, std::move((*found)[i].ns));
    }
}

Result<std::vector<Found>> EventFeed::find(const std::vector<NamespaceId>& namespaces) {
    std::vector<Found> all;
    std::vector<EntryRef> refs;
    for (std::size_t from = 0; from < namespaces.size(); from += namespaces_at_once) {
        refs.clear();
        for (std::size_t i = from; i < std::min(from + namespaces_at_once, namespaces.size()); ++i) refs.push_back({namespaces[i], "", {}});
        KV_TRY(auto found, storage_.find(refs, {}));
        std::move(found.begin(), found.end(), std::back_inserter(all));
    }
    return all;
}

void EventFeed::take_found(Channel& channel, std::shared_ptr<const NamespaceRow> row) {
    channel.is_new = false;
    channel.has_ended = !row || row->deleted_at || !vault_.is_intact(*row);
    if (row && row->revision > channel.newest) channel.newest = row->revision;
    channel.row = std::move(row);
    channel.is_noted = is_noted_ = true;
}

EventFeed::Woken EventFeed::take_due(Clock::time_point now, bool with_deadlines) {
    Woken woken;
    is_noted_ = false;
    for (auto& [ns, channel] : channels_) {
        if (!with_deadlines && !std::exchange(channel.is_noted, false)) continue;
        const auto reason_of = [&, &channel = channel](const Parked& parked) -> std::optional<Waiter::Reason> {
            if (!channel.is_new && now >= parked.not_before) {
                if (channel.has_ended) return Waiter::Reason::ended;
                if (channel.newest > parked.above) return Waiter::Reason::changed;
            }
            if (with_deadlines && now >= parked.deadline) return Waiter::Reason::late;
            return std::nullopt;
        };
        const auto stay = std::stable_partition(channel.parked.begin(), channel.parked.end(),
                                                [&](const Parked& parked) { return !reason_of(parked); });
        woken.reserve(woken.size() + static_cast<std::size_t>(channel.parked.end() - stay));  // whoever is taken is woken
        for (auto at = stay; at != channel.parked.end(); ++at) woken.emplace_back(std::move(at->waiter), *reason_of(*at));
        channel.parked.erase(stay, channel.parked.end());
    }
    return woken;
}

// Watchers come back soon for more; what none of them did is over.
void EventFeed::forget_unused(Clock::time_point now) {
    std::erase_if(channels_, [&](const auto& one) { return one.second.parked.empty() && now - one.second.used > unused_kept; });
    channel_count_.store(channels_.size(), std::memory_order_release);
}

EventFeed::View EventFeed::view(const NamespaceId& ns) {
    std::lock_guard lock(mutex_);
    const auto found = channels_.find(ns);
    return found == channels_.end() ? View{} : View{found->second.row, found->second.newest};
}

// No channel goes while the feed's thread is here, and nobody else touches `recent`.
Result<std::vector<EventRow>> EventFeed::read(const NamespaceId& ns, std::uint64_t after) {
    std::deque<EventRow>* recent = nullptr;
    {
        std::lock_guard lock(mutex_);
        const auto found = channels_.find(ns);
        if (found != channels_.end()) recent = &found->second.recent;
    }
    if (recent != nullptr && !recent->empty() && after > recent->back().revision) recent->clear();  // nobody read for a while
    const bool goes_on = recent != nullptr && !recent->empty() && after + 1 >= recent->front().revision;
    const bool is_kept = recent != nullptr && (goes_on || recent->empty());
    EventRange range;
    range.from = {{ns, goes_on ? recent->back().revision : after}};
    range.limit = events_at_once;
    if (!goes_on || after == recent->back().revision) {
        KV_TRY(std::vector<EventRow> rows, storage_.scan_events(range));
        if (!is_kept) return rows;
        // Behind a gap something else begins.
        if (!rows.empty() && !recent->empty() && rows.front().revision != recent->back().revision + 1) recent->clear();
        for (EventRow& row : rows) {
            if (!recent->empty() && row.revision != recent->back().revision + 1) break;
            recent->push_back(std::move(row));
        }
        while (recent->size() > recent_max) recent->pop_front();
    }
    std::vector<EventRow> rows;
    const auto first = std::find_if(recent->begin(), recent->end(), [&](const EventRow& row) { return row.revision > after; });
    std::copy_n(first, std::min<std::size_t>(events_at_once, static_cast<std::size_t>(recent->end() - first)), std::back_inserter(rows));
    return rows;
}

}  // namespace kv
