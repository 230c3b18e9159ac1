#pragma once
#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

namespace kvd {

// RateLimiter lets each of many callers through so many times a second, and a burst of them at once: the generic cell rate
// algorithm (ITU-T I.371), which keeps one time for each caller. Callers who have not been heard of for long are forgotten.
//
// Threads: any. Sizes are bounded: where there are more callers than it keeps apart, some begin anew.
class RateLimiter {
public:
    using Clock = std::chrono::steady_clock;

    // 0 per second: no limit.
    RateLimiter(std::size_t per_second, std::size_t burst, std::size_t callers_max = 65'536);

    bool is_on() const noexcept { return interval_.count() > 0; }
    // Whether the caller may go on; counted only then.
    bool admit(std::string_view caller, Clock::time_point now = Clock::now());

private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
    };
    // When the caller's next turn would come if all of them came at the even rate.
    using Turns = std::unordered_map<std::string, Clock::time_point, Hash, std::equal_to<>>;
    struct Shard {
        std::mutex mutex;
        Turns turns;
    };
    void make_room(Turns& turns, Clock::time_point now) const;

    static constexpr std::size_t shard_count = 16;
    Clock::duration interval_;   // between two of one caller
    Clock::duration tolerance_;  // how far ahead of it a burst may be
    std::size_t shard_max_;
    std::array<Shard, shard_count> shards_;
};

// How many connections each address has, up to a limit; 0: none. Threads: any.
class AddressCounts {
public:
    explicit AddressCounts(std::size_t max) : max_(max) {}

    // Whether there is room for one more, which is counted then until it leaves.
    bool enter(const std::string& address);
    void leave(const std::string& address) noexcept;

private:
    const std::size_t max_;
    std::mutex mutex_;
    std::unordered_map<std::string, std::size_t> counts_;
};

}  // namespace kvd
