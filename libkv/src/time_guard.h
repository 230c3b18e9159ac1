#pragma once
#include <chrono>
#include <functional>
#include <optional>

#include "kv/clock.h"
#include "kv/options.h"
#include "kv/storage.h"

namespace kv {

// TimeGuard gives the store's time: the storage's, but never before the last the store recorded. And it judges whether
// that time can be relied on: a clock that jumped may hide what has expired, it must not destroy it.
//
// Threads: any.
class TimeGuard {
public:
    struct Settings {
        Clock* clock = nullptr;  // borrowed; null: the storage has its own
        std::chrono::seconds gap_max{};
        bool trust_clock = false;
        std::function<void(LogLevel, std::string_view)> log;
    };
    // The storage's own time, trusted.
    TimeGuard() = default;
    // Compares the clock with what the storage recorded last. A gap is noted in the storage, because what is recorded
    // from now on would hide it from the next opening.
    static Result<TimeGuard> open(Storage& storage, const Settings& settings);

    Result<Time> now(StorageReader& storage) const {
        KV_TRY(const Time time, storage.now());
        return time + offset_;
    }

    // Errc::clock_unsound and why, if nothing may be destroyed. The storage that was opened lives still.
    Result<void> judge() const;
    // The same, of a time that now() gave: the clock may have been set right since.
    Result<void> judge(Time now) const;
    // How far the wall clock is ahead of the store's time.
    std::chrono::microseconds skew() const;

private:
    Result<void> judge_ahead(std::chrono::microseconds ahead) const;
    // The clock of a storage that others share is to be held against this machine's.
    bool is_compared() const { return shared_ != nullptr && clock_ != nullptr; }

    Storage* shared_ = nullptr;
    Clock* clock_ = nullptr;
    std::chrono::microseconds offset_{0};  // the clock was that far behind what was recorded
    bool is_offset_trusted_ = false;
    std::optional<Time> gap_since_;        // the last that was recorded before the clock leapt ahead
};

}  // namespace kv
