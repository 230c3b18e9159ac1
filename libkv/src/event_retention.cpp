#include "event_retention.h"

#include <algorithm>

namespace kv {
namespace {

constexpr std::chrono::seconds between_walks{60};
constexpr std::size_t spans_at_once = 500;
constexpr std::size_t events_at_once = 2000;

}  // namespace

Result<std::size_t> EventRetention::run(Time now, bool is_clock_sound) {
    if (is_at_end_) {
        if (!is_due(begun_at_, between_walks, now)) return std::size_t{0};
        begun_at_ = now;
        after_.reset();
        is_at_end_ = false;
    }
    EventSpanRange range;
    range.after = after_;
    range.limit = spans_at_once;
    KV_TRY(const std::vector<EventSpan> spans, storage_.scan_event_spans(range));
    std::vector<EventErase> erase;
    std::size_t count = 0;
    for (const EventSpan& span : spans) {
        KV_TRY(const std::optional<EventErase> due, judge(span, is_clock_sound ? now - settings_.retention : Time{}));
        if (due) {
            erase.push_back(*due);
            count += static_cast<std::size_t>(due->to - span.oldest + 1);
        }
        if (count >= events_at_once) break;
    }
    if (count > 0) {
        KV_CHECK(steps_.commit({}, [&](GroupContext& context) -> Result<void> {
            context.overlay.changes().erase_events = erase;
            return {};
        }));
        removed_.fetch_add(count, std::memory_order_relaxed);
        return count;  // and again from the same place
    }
    is_at_end_ = spans.size() < range.limit;
    if (!spans.empty()) after_ = spans.back().ns;
    return std::size_t{0};
}

// What is to go of a namespace, a batch at most.
Result<std::optional<EventErase>> EventRetention::judge(const EventSpan& span, Time before) {
    const std::uint64_t beyond_count = span.newest > settings_.events_max ? span.newest - settings_.events_max : 0;
    const bool is_due = span.is_gone || span.oldest <= beyond_count || span.oldest_at < before;
    if (!is_due) return std::optional<EventErase>();
    std::uint64_t to = span.newest;
    if (!span.is_gone) {
        KV_TRY(to, last_before(span, before));
        to = std::max(to, beyond_count);
    }
    KV_TRY(const std::uint64_t confirmed, confirmed_by_all(span));
    to = std::min({to, confirmed, span.oldest + events_at_once - 1});
    if (to < span.oldest) return std::optional<EventErase>();
    return std::optional(EventErase{span.ns, to});
}

// Of those that are looked at; what is left has its turn later. Times do not go back within a namespace.
Result<std::uint64_t> EventRetention::last_before(const EventSpan& span, Time before) {
    if (span.oldest_at >= before) return std::uint64_t{0};
    EventRange range;
    range.from = {{span.ns, span.oldest - 1}};
    range.limit = events_at_once;
    KV_TRY(const std::vector<EventRow> rows, storage_.scan_events(range));
    const auto end = std::find_if(rows.begin(), rows.end(), [&](const EventRow& row) { return row.at >= before; });
    return end == rows.begin() ? std::uint64_t{0} : std::prev(end)->revision;
}

// A sink without a cursor in a living namespace has confirmed nothing there; in one that is gone it has confirmed everything.
Result<std::uint64_t> EventRetention::confirmed_by_all(const EventSpan& span) {
    KV_TRY(const std::vector<SinkRow> sinks, storage_.scan_sinks());
    CursorRange range;
    range.ns = span.ns;
    KV_TRY(const std::vector<SinkCursorRow> cursors, storage_.scan_cursors(range));
    std::uint64_t least = UINT64_MAX;
    for (const SinkRow& sink : sinks) {
        const auto cursor = std::find_if(cursors.begin(), cursors.end(), [&](const SinkCursorRow& row) { return row.sink == sink.name; });
        if (cursor != cursors.end()) {
            least = std::min(least, cursor->revision);
        } else if (!span.is_gone) {
            least = 0;
        }
    }
    return least;
}

}  // namespace kv
