#pragma once
#include <algorithm>
#include <chrono>
#include <ctime>
#include <mutex>
#include <optional>

#include "kv/clock.h"

namespace kv::postgres {

// The database's clock, as it was last heard, plus what the steady clock counted since: asking it is no round trip. It does not
// go back, whatever server answers, except from a leap that is over: where the server now and this machine both say that what
// was told before is more than a day ahead. A clock given from outside takes its place.
//
// Threads: any.
class DatabaseClock {
public:
    explicit DatabaseClock(Clock* instead) : instead_(instead) {}

    void hear(Time time) {
        std::lock_guard lock(mutex_);
        heard_at_ = steady();
        offset_ = time - heard_at_;
    }
    // Where nothing was asked for so long, the clocks may have drifted apart.
    bool is_stale() {
        constexpr std::chrono::seconds trusted{10};
        std::lock_guard lock(mutex_);
        return !instead_ && steady() - heard_at_ > trusted;
    }
    Time now() {
        if (instead_) return instead_->now();
        std::lock_guard lock(mutex_);
        return advance(steady() + offset_);
    }
    // Of a statement of this write.
    Time at_least(Time time) {
        if (instead_) return instead_->now();
        std::lock_guard lock(mutex_);
        return advance(time);
    }

private:
    Time advance(Time time) {
        constexpr std::chrono::hours leap_min{24};  // as far ahead as a store takes for sound, which destroys nothing beyond
        const auto wall = std::chrono::time_point_cast<Time::duration>(std::chrono::system_clock::now());
        const bool was_leap = last_ - time > leap_min && last_ - wall > leap_min;
        return last_ = was_leap ? time : std::max(last_, time);
    }
    // Goes on while the machine sleeps.
    static Time steady() {
        timespec time{};
        clock_gettime(CLOCK_BOOTTIME, &time);
        return Time(std::chrono::duration_cast<Time::duration>(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec)));
    }

    Clock* const instead_;
    std::mutex mutex_;
    Time heard_at_{};
    Time::duration offset_{};
    Time last_{};
};

}  // namespace kv::postgres
