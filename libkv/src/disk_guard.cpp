#include "disk_guard.h"

#include <algorithm>
#include <string>
#include <utility>

namespace kv {
namespace {

constexpr std::uint64_t free_min_default_max = 256ull << 20;
constexpr std::uint64_t reserve_max = 64ull << 20;

}  // namespace

DiskGuard::DiskGuard(Storage& storage, std::optional<std::uint64_t> free_min, Log log)
    : storage_(storage), log_(std::move(log)) {
    const Storage::Stats stats = storage_.stats();
    if (!stats.disk_free_bytes) return;
    free_min_ = free_min.value_or(std::min(free_min_default_max, stats.disk_bytes.value_or(0) / 8));
    reserve_bytes_ = std::min(free_min_ / 2, reserve_max);
    look();
}

void DiskGuard::look() {
    if (free_min_ == 0) return;
    std::lock_guard lock(mutex_);
    const Storage::Stats stats = storage_.stats();
    if (!stats.disk_free_bytes) return;
    adjust_reserve(*stats.disk_free_bytes);
    // What erased rows left in the database is room as well, and so is the log that a quiet moment gives back: otherwise
    // writes would come back with it and be refused again a moment later.
    const std::uint64_t wal = std::min(stats.wal_bytes, free_min_ / 2);
    enter(judge(*stats.disk_free_bytes + stats.reusable_bytes + wal));
}

void DiskGuard::expect(std::uint64_t bytes) {
    if (free_min_ == 0 || expected_.fetch_add(bytes, std::memory_order_relaxed) + bytes < free_min_ / 8) return;
    expected_.store(0, std::memory_order_relaxed);
    look();
}

DiskGuard::State DiskGuard::judge(std::uint64_t room) const {
    const State now = state_.load(std::memory_order_relaxed);
    // Leaving a state takes a little more room than entering it, so that it does not flicker.
    const auto is_below = [&](State state, std::uint64_t bytes, std::uint64_t bound) {
        return bytes < (now >= state ? bound + bound / 8 : bound);
    };
    // What was held back and let go of is room for what makes room, and for nothing else.
    if (is_below(State::empty, room, free_min_ / 8)) return State::empty;
    const std::uint64_t owed = is_held_back_ ? 0 : reserve_bytes_;
    const std::uint64_t for_writes = room > owed ? room - owed : 0;
    if (is_below(State::low, for_writes, free_min_)) return State::low;
    return is_below(State::tight, for_writes, free_min_ * 2) ? State::tight : State::roomy;
}

void DiskGuard::adjust_reserve(std::uint64_t disk_free) {
    if (is_held_back_ && disk_free < free_min_ / 4) {
        storage_.hold_back(0);
        is_held_back_ = false;
    } else if (!is_held_back_ && disk_free >= free_min_ + reserve_bytes_) {
        is_held_back_ = storage_.hold_back(reserve_bytes_);
    }
}

void DiskGuard::enter(State state) {
    const State before = state_.exchange(state, std::memory_order_relaxed);
    if (!log_ || (before >= State::low) == (state >= State::low)) return;
    if (state >= State::low) {
        log_(LogLevel::error, "storage: the disk is nearly full: writes are refused until there is room");
    } else {
        log_(LogLevel::info, "storage: there is room on the disk again");
    }
}

void DiskGuard::note_full() {
    std::lock_guard lock(mutex_);
    if (free_min_ == 0) return;
    storage_.hold_back(0);
    is_held_back_ = false;
    enter(std::max(State::low, state_.load(std::memory_order_relaxed)));
}

}  // namespace kv
