#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "steps.h"

namespace kv {

// EventRetention erases events that are old enough, or too many in their namespace, oldest first; never one that a registered
// sink has not confirmed. What is left of a purged namespace goes once every sink has it.
//
// Threads: one at a time, except for the figure.
class EventRetention {
public:
    struct Settings {
        std::chrono::seconds retention{};
        std::uint64_t events_max = 0;  // of a namespace
    };
    // Borrows both.
    EventRetention(Storage& storage, Steps& steps, Settings settings) : storage_(storage), steps_(steps), settings_(settings) {}

    // One page of namespaces; how many events went. Every minute it begins again at the first. Without a sound clock age counts
    // for nothing.
    Result<std::size_t> run(Time now, bool is_clock_sound);

    std::uint64_t removed() const noexcept { return removed_.load(std::memory_order_relaxed); }

private:
    Result<std::optional<EventErase>> judge(const EventSpan& span, Time before);
    Result<std::uint64_t> confirmed_by_all(const EventSpan& span);
    Result<std::uint64_t> last_before(const EventSpan& span, Time before);

    Storage& storage_;
    Steps& steps_;
    const Settings settings_;
    std::optional<Time> begun_at_;
    std::optional<NamespaceId> after_;
    bool is_at_end_ = true;
    std::atomic<std::uint64_t> removed_{0};
};

}  // namespace kv
