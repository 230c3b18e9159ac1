#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>

#include "kv/options.h"
#include "kv/storage.h"

namespace kv {

// DiskGuard watches the room on the storage's disk. Below the minimum writes are refused, so that what is left serves the
// audit rows of reads, the archive of old ones, and deletions. Some of that is held back in a file from the beginning:
// others may fill the disk, too.
//
// Threads: any.
class DiskGuard {
public:
    using Log = std::function<void(LogLevel, std::string_view)>;
    // Borrows the storage. `free_min`: see Options::disk_free_min.
    DiskGuard(Storage& storage, std::optional<std::uint64_t> free_min, Log log);

    // Looks at the disk; cheap enough for twice a second.
    void look();
    // So much is about to be written. Looks whenever it adds up to a good part of the minimum: a small disk is filled sooner than
    // the next time that somebody looks.
    void expect(std::uint64_t bytes);
    // A commit found no room: what is held back is let go of.
    void note_full();

    bool is_low() const noexcept { return state_.load(std::memory_order_relaxed) >= State::low; }
    // Room for deletions is gone, too.
    bool is_empty() const noexcept { return state_.load(std::memory_order_relaxed) >= State::empty; }
    // Not low yet, but audit rows should make room if they may.
    bool is_tight() const noexcept { return state_.load(std::memory_order_relaxed) >= State::tight; }
    std::uint64_t free_min() const noexcept { return free_min_; }

private:
    enum class State : std::uint8_t { roomy, tight, low, empty };

    State judge(std::uint64_t room) const;
    void adjust_reserve(std::uint64_t disk_free);
    void enter(State state);

    Storage& storage_;
    const Log log_;
    std::uint64_t free_min_ = 0;  // 0: no guard
    std::uint64_t reserve_bytes_ = 0;
    std::mutex mutex_;
    bool is_held_back_ = false;
    std::atomic<State> state_{State::roomy};
    std::atomic<std::uint64_t> expected_{0};  // since that was looked at
};

}  // namespace kv
