#include "kvd/limiter.h"

#include <algorithm>

namespace kvd {

RateLimiter::RateLimiter(std::size_t per_second, std::size_t burst, std::size_t callers_max)
    : interval_(per_second == 0 ? Clock::duration::zero()
                                : Clock::duration(std::chrono::seconds(1)) / static_cast<Clock::rep>(per_second)),
      tolerance_(interval_ * static_cast<Clock::rep>(std::max<std::size_t>(burst, 1) - 1)),
      shard_max_(std::max<std::size_t>(callers_max / shard_count, 1)) {}

bool RateLimiter::admit(std::string_view caller, Clock::time_point now) {
    if (!is_on()) return true;
    Shard& shard = shards_[Hash()(caller) % shard_count];
    std::lock_guard lock(shard.mutex);
    auto found = shard.turns.find(caller);
    if (found == shard.turns.end()) {
        make_room(shard.turns, now);
        found = shard.turns.emplace(std::string(caller), now).first;
    }
    const Clock::time_point turn = std::max(found->second, now);
    if (turn - now > tolerance_) return false;
    found->second = turn + interval_;
    return true;
}

// Whoever's turn has come is as good as new.
void RateLimiter::make_room(Turns& turns, Clock::time_point now) const {
    if (turns.size() < shard_max_) return;
    std::erase_if(turns, [now](const auto& turn) { return turn.second <= now; });
    // A flood of callers: half of them, so that the next ones find room without a search.
    while (turns.size() > shard_max_ / 2) turns.erase(turns.begin());
}

bool AddressCounts::enter(const std::string& address) {
    if (max_ == 0) return true;
    std::lock_guard lock(mutex_);
    std::size_t& count = counts_[address];
    if (count >= max_) return false;
    ++count;
    return true;
}

void AddressCounts::leave(const std::string& address) noexcept {
    if (max_ == 0) return;
    std::lock_guard lock(mutex_);
    const auto found = counts_.find(address);
    if (found != counts_.end() && --found->second == 0) counts_.erase(found);
}

}  // namespace kvd
