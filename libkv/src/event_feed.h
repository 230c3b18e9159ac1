#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "kv/options.h"
#include "kv/storage.h"
#include "vault.h"

namespace kv {

// Somebody who goes on once a namespace has changed.
class Waiter {
public:
    enum class Reason : std::uint8_t {
        changed,  // its revision is above what was waited for
        late,     // the deadline is over
        ended,    // the namespace was deleted, or its row is not to be trusted
        closing,  // the store stops
    };
    virtual ~Waiter() = default;
    // Once, on the feed's thread (on the caller's, if the feed has stopped): what takes long holds up all others.
    virtual void wake(Reason reason) noexcept = 0;
};

// EventFeed knows of the namespaces that somebody waits for how far they are: it hears of every commit of this process at
// once, and looks itself each second, for others may write the same storage. Its one thread wakes who waits, and reads events
// for them: those that were read lately are kept, so that many watchers of one namespace cost one question.
//
// Threads: any, but read() and view() are for wake() alone.
class EventFeed {
public:
    using Clock = std::chrono::steady_clock;

    // Borrows both.
    EventFeed(Storage& storage, const Vault& vault) : storage_(storage), vault_(vault) {}
    ~EventFeed() { stop(); }
    EventFeed(const EventFeed&) = delete;
    EventFeed& operator=(const EventFeed&) = delete;

    // These were committed; nothing: something may have been. Cheap where nobody waits.
    void note(std::span<const Storage::Hint> committed) noexcept;
    // Until the namespace's revision is above `above`, not before `not_before` except to say that it is late.
    void wait(const NamespaceId& ns, std::uint64_t above, Clock::time_point deadline, std::unique_ptr<Waiter> waiter,
              Clock::time_point not_before = {});
    // Who waits is woken because it closes, and so is from now on who would. Does not wait for that: stop() does.
    void release() noexcept;
    void stop() noexcept;

    // Events above `after`, oldest first, as many as there are at hand or one batch.
    Result<std::vector<EventRow>> read(const NamespaceId& ns, std::uint64_t after);
    struct View {
        std::shared_ptr<const NamespaceRow> row;  // as it was when the feed last looked; null if it was not there
        std::uint64_t newest = 0;                 // the highest revision heard of
    };
    View view(const NamespaceId& ns);

    std::atomic<std::uint64_t> watches{0};  // how many there are, for whoever makes them

private:
    struct Parked {
        std::uint64_t above;
        Clock::time_point deadline;
        Clock::time_point not_before;
        std::unique_ptr<Waiter> waiter;
    };
    struct Channel {
        std::uint64_t newest = 0;
        std::shared_ptr<const NamespaceRow> row;
        bool has_ended = false;
        bool is_new = true;     // to be looked at before anybody is woken
        bool is_noted = false;  // its waiters are to be gone through
        std::vector<Parked> parked;
        Clock::time_point used;
        std::deque<EventRow> recent;  // without a gap; the feed's thread alone
    };
    using Woken = std::vector<std::pair<std::unique_ptr<Waiter>, Waiter::Reason>>;

    void run();
    void go_round(std::unique_lock<std::mutex>& lock);
    void look(std::unique_lock<std::mutex>& lock, bool at_all);
    Result<std::vector<Found>> find(const std::vector<NamespaceId>& namespaces);
    void take_found(Channel& channel, std::shared_ptr<const NamespaceRow> row);
    Woken take_due(Clock::time_point now, bool with_deadlines);
    void forget_unused(Clock::time_point now);

    Storage& storage_;
    const Vault& vault_;
    std::atomic<std::size_t> channel_count_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::map<NamespaceId, Channel> channels_;
    bool is_noted_ = false;     // a channel is
    bool must_look_ = false;    // at those that are new
    bool must_look_at_all_ = false;
    bool is_stopping_ = false;
    Clock::time_point next_look_;
    Clock::time_point next_tick_;
    std::thread thread_;  // begins with the first who waits
};

}  // namespace kv
