#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kv/export.h"

namespace kv {

// An instant in UTC, in microseconds.
using Time = std::chrono::sys_time<std::chrono::microseconds>;

// Clock tells storages that have no clock of their own (memory, SQLite) the time. Threads: any.
class KV_EXPORT Clock {
public:
    virtual ~Clock();
    virtual Time now() = 0;
    // How far the wall clock is ahead of now(), for clocks that are not the wall clock themselves.
    virtual std::chrono::microseconds disagreement() { return std::chrono::microseconds(0); }
};

// The time at creation plus what the steady clock counted since: it never jumps, whatever happens to the wall clock.
KV_EXPORT std::unique_ptr<Clock> make_system_clock();

// RFC 3339 in UTC with milliseconds: "2024-01-15T10:00:00.000Z".
KV_EXPORT std::string format_time(Time time);
// Reads any RFC 3339 date-time (fraction of any length, `Z` or an offset). Empty if it is none.
KV_EXPORT std::optional<Time> parse_time(std::string_view text);

}  // namespace kv
