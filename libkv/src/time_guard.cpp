#include "time_guard.h"

#include <charconv>
#include <cstdlib>
#include <string>

namespace kv {
namespace {

using std::chrono::microseconds;

constexpr std::string_view gap_name = "clock.gap_since";
constexpr microseconds disagreement_max = std::chrono::minutes(1);
constexpr microseconds behind_max = std::chrono::hours(24);
constexpr microseconds ahead_max = std::chrono::hours(24);

std::string in_words(microseconds span) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(span < microseconds(0) ? -span : span).count();
    if (seconds >= 2 * 24 * 3600) return std::to_string(seconds / (24 * 3600)) + " days";
    return std::to_string(seconds) + " seconds";
}

std::optional<Time> parse_micros(std::string_view text) {
    std::int64_t micros = 0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), micros);
    if (end.ec != std::errc() || end.ptr != text.data() + text.size()) return std::nullopt;
    return Time(microseconds(micros));
}

Result<std::optional<Time>> noted_gap(StorageReader& storage) {
    KV_TRY(const std::vector<MetaRow> rows, storage.get_meta());
    for (const MetaRow& row : rows) {
        if (row.name == gap_name) return parse_micros(row.value);
    }
    return std::optional<Time>();
}

Result<void> note_gap(Storage& storage, std::optional<Time> since) {
    return storage.write([&](StorageWriter& writer) {
        Changeset changes;
        if (since) {
            changes.meta.push_back({std::string(gap_name), std::to_string(since->time_since_epoch().count())});
        } else {
            changes.erase_meta.emplace_back(gap_name);
        }
        return writer.apply(changes);
    });
}

Result<std::optional<Time>> last_recorded(StorageReader& storage) {
    AuditRange newest;
    newest.limit = 1;
    KV_TRY(const AuditPage page, storage.scan_audit(newest));
    if (page.rows.empty()) return std::optional<Time>();
    return std::optional<Time>(page.rows.front().record.timestamp);
}

Error unsound(std::string message) { return Error{Errc::clock_unsound, std::move(message)}; }

}  // namespace

Result<TimeGuard> TimeGuard::open(Storage& storage, const Settings& settings) {
    TimeGuard guard;
    guard.clock_ = settings.clock;
    if (storage.is_shared()) guard.shared_ = &storage;
    KV_TRY(const Time now, storage.now());
    KV_TRY(const std::optional<Time> last, last_recorded(storage));
    KV_TRY(const std::optional<Time> noted, noted_gap(storage));
    if (last && *last > now) guard.offset_ = *last - now;
    guard.is_offset_trusted_ = settings.trust_clock;

    std::optional<Time> gap = noted;
    if (!gap && last && now - *last > settings.gap_max) gap = last;
    // A clock that was put right again shows a time near the one before it leapt.
    if (settings.trust_clock || (gap && now - *gap <= settings.gap_max)) gap.reset();
    if (gap != noted) KV_CHECK(note_gap(storage, gap));
    guard.gap_since_ = gap;

    if (auto sound = guard.judge(); !sound && settings.log) settings.log(LogLevel::error, sound.error().message);
    return guard;
}

Result<void> TimeGuard::judge() const {
    if (!is_compared()) return judge_ahead({});
    const Result<Time> theirs = shared_->now();
    return judge_ahead(theirs ? *theirs - clock_->now() : microseconds(0));
}

Result<void> TimeGuard::judge(Time now) const {
    return judge_ahead(is_compared() ? now - offset_ - clock_->now() : microseconds(0));
}

// `ahead`: the clock of a storage that is shared, of this machine's.
Result<void> TimeGuard::judge_ahead(microseconds ahead) const {
    if (const microseconds apart = skew(); apart > disagreement_max || apart < -disagreement_max) {
        return unsound("The wall clock jumped by " + in_words(apart) + " since the store was opened. Nothing is expired or " +
                       "destroyed until it is set right or the store is opened again.");
    }
    if (ahead > ahead_max && !is_offset_trusted_) {
        return unsound("The clock of the database is " + in_words(ahead) + " ahead of this machine's. Nothing is expired or " +
                       "destroyed until the wrong one of them is set right.");
    }
    if (offset_ > behind_max && !is_offset_trusted_) {
        return unsound("The clock is " + in_words(offset_) + " behind what the store recorded last. Nothing is expired or " +
                       "destroyed: set the clock, or open the store with trust-clock if it is right.");
    }
    if (gap_since_) {
        return unsound("The clock is far ahead of what the store recorded last, on " + format_time(*gap_since_) +
                       ". Nothing is expired or destroyed: set the clock, or open the store with trust-clock if it is right.");
    }
    return {};
}

microseconds TimeGuard::skew() const { return clock_ != nullptr ? clock_->disagreement() : microseconds(0); }

}  // namespace kv
