#include "audit_retention.h"

#include <algorithm>
#include <map>
#include <utility>

#include "epoch.h"
#include "kv/admin.h"
#include "out_of_memory.h"
#include "steps.h"
#include "time_guard.h"

namespace kv {
namespace {

constexpr std::size_t batch_rows = 2048;
// Fewer are not worth the checkpoint rows they leave, unless they are well beyond their time.
constexpr std::size_t batch_rows_min = 256;
constexpr std::size_t rows_kept_min = 256;  // of the newest, however tight the disk is
constexpr std::chrono::minutes forbidden_for{1};  // until it is asked again whether rows may be removed
constexpr std::size_t row_overhead_bytes = 150;  // ids, numbers, MAC and what a storage adds

std::size_t bytes_of(const AuditRecord& record) {
    return row_overhead_bytes + record.key_path.size() + record.operation.size() + record.user_id.size() +
           record.credential_id.size() + record.application_id.size() + record.peer.size() + record.request_id.size() +
           record.reason.size();
}

std::size_t mean_bytes(const std::vector<AuditRow>& rows) {
    std::size_t bytes = 0;
    for (const AuditRow& row : rows) bytes += bytes_of(row.record);
    return std::max<std::size_t>(bytes / rows.size(), 1);
}

// What vouches from now on for what was taken of a stream: the last row taken, and how many.
struct Cut {
    AuditHead last;
    std::uint64_t rows = 0;
    bool is_carried = false;  // by an earlier checkpoint, which goes itself
};

// A checkpoint that goes is carried on where it is still the last one of its stream: a stream may rest for long and go on,
// or have rows left behind it.
std::map<StreamId, Cut> cuts_of(std::span<const AuditRow> rows) {
    std::map<StreamId, Cut> cuts;
    for (const AuditRow& row : rows) {
        Cut& cut = cuts[row.record.stream];
        if (cut.is_carried) cut = {};
        cut.last.stream = row.record.stream;
        cut.last.sequence = row.record.sequence;
        cut.last.mac = row.mac;
        ++cut.rows;
        if (row.record.operation != audit_checkpoint) continue;
        const std::optional<AuditHead> head = read_head_record(row.record);
        if (!head) continue;
        Cut& carried = cuts[head->stream];
        if (carried.rows == 0 || (carried.is_carried && carried.last.sequence < head->sequence)) carried = {*head, row.record.count, true};
    }
    return cuts;
}

}  // namespace

AuditRetention::AuditRetention(Storage& storage, Settings settings) : storage_(storage), settings_(std::move(settings)) {
    if (!settings_.archive.empty()) archive_ = std::make_unique<AuditArchive>(settings_.archive, settings_.epoch);
}

Result<std::size_t> AuditRetention::run(Time now, Reason reason, const Commit& commit) {
    if (forbidden_at_ && !is_due(forbidden_at_, forbidden_for, now)) return std::size_t{0};
    AuditRange range;
    range.newest_first = false;
    range.limit = 1;
    // One row tells most of the time that there is nothing to do: rows go by age only where the oldest one is old.
    KV_TRY(const AuditPage first, storage_.scan_audit(range));
    if (first.rows.empty() || !may_be_due(first.rows.front(), now, reason)) return std::size_t{0};
    range.limit = batch_rows;
    KV_TRY(const AuditPage oldest, storage_.scan_audit(range));
    if (oldest.rows.empty()) return std::size_t{0};
    KV_TRY(const std::size_t due, count_due(oldest.rows, now, reason));
    if (due == 0) return std::size_t{0};
    KV_TRY(const bool may, may_remove(now));
    if (!may) return std::size_t{0};
    const std::span<const AuditRow> rows(oldest.rows.data(), due);
    if (archive_) KV_CHECK(archive(rows));
    KV_CHECK(remove(rows, commit));
    removed_.fetch_add(due, std::memory_order_relaxed);
    return due;
}

bool AuditRetention::is_old(const AuditRow& row, Time now) const {
    return row.record.timestamp < now - settings_.retention;
}

bool AuditRetention::may_be_due(const AuditRow& oldest, Time now, Reason reason) const {
    return (reason.is_disk_tight && archive_) || settings_.bytes_max > 0 || (reason.is_clock_sound && is_old(oldest, now));
}

Result<std::size_t> AuditRetention::count_due(const std::vector<AuditRow>& oldest, Time now, Reason reason) {
    AuditRange range;
    range.limit = 1;
    KV_TRY(const AuditPage newest, storage_.scan_audit(range));
    if (newest.rows.empty()) return std::size_t{0};
    const std::uint64_t rows = newest.rows.front().position - oldest.front().position + 1;
    const auto take = [&](std::uint64_t count) { return static_cast<std::size_t>(std::min<std::uint64_t>(count, oldest.size())); };

    if (reason.is_disk_tight && archive_ && rows > rows_kept_min + batch_rows_min) return take(rows - rows_kept_min);
    const std::size_t mean = mean_bytes(oldest);
    if (settings_.bytes_max > 0 && rows > settings_.bytes_max / mean + batch_rows_min) {
        return take(rows - settings_.bytes_max / mean);
    }
    if (!reason.is_clock_sound) return std::size_t{0};
    const auto end = std::find_if_not(oldest.begin(), oldest.end(), [&](const AuditRow& row) { return is_old(row, now); });
    const auto due = static_cast<std::size_t>(end - oldest.begin());
    const auto slack = std::min<std::chrono::seconds>(settings_.retention / 10, std::chrono::hours(1));
    // A store at rest would replace one checkpoint by the next for ever.
    const auto is_checkpoint = [](const AuditRow& row) { return row.record.operation == audit_checkpoint; };
    if (due < batch_rows_min && std::all_of(oldest.begin(), end, is_checkpoint)) return std::size_t{0};
    const bool is_overdue = due > 0 && oldest.front().record.timestamp < now - settings_.retention - slack;
    return due >= batch_rows_min || is_overdue ? due : std::size_t{0};
}

// Asked before anything is archived: what stays in the log is not to be in the archive time and again.
Result<bool> AuditRetention::may_remove(Time now) {
    KV_TRY(const bool may, storage_.may_erase_audit());
    if (may) {
        forbidden_at_.reset();
        return true;
    }
    forbidden_at_ = now;
    if (removals_forbidden_.fetch_add(1, std::memory_order_relaxed) == 0 && settings_.log) {
        settings_.log(LogLevel::warning,
                      "audit: rows are older, or more, than they are to stay, and the database's role may not remove them: whoever "
                      "owns the tables can, with kvd trim-audit, or grant delete on audit");
    }
    return false;
}

Result<void> AuditRetention::archive(std::span<const AuditRow> rows) {
    Result<void> appended = archive_->append(rows);
    if (appended) {
        archived_.fetch_add(rows.size(), std::memory_order_relaxed);
    } else if (failures_.fetch_add(1, std::memory_order_relaxed) == 0 && settings_.log) {
        settings_.log(LogLevel::error, "audit: nothing is removed from the log while its archive cannot be written: " +
                                           appended.error().message);
    }
    return appended;
}

Result<void> AuditRetention::remove(std::span<const AuditRow> rows, const Commit& commit) {
    const std::map<StreamId, Cut> cuts = cuts_of(rows);
    return commit([&](GroupContext& context) -> Result<void> {
        Changeset& changes = context.overlay.changes();
        changes.erase_audit_to = rows.back().position;
        for (const auto& [stream, cut] : cuts) {
            KV_TRY(const auto heads, context.storage.get_audit_heads(std::span(&stream, 1)));
            if (cut.is_carried && heads.empty()) continue;  // nothing is left that it could vouch for
            AuditRecord record = make_head_record(audit_checkpoint, cut.last, context.plan.now);
            record.count = cut.rows;
            context.audit.push_back(std::move(record));
            // Nothing is left of a stream that ended there: the checkpoint is what remains of it.
            const bool is_over = heads.size() == 1 && heads.front().state != HeadState::open &&
                                 heads.front().sequence == cut.last.sequence && heads.front().mac == cut.last.mac;
            if (is_over) changes.erase_heads.push_back(stream);
        }
        return {};
    });
}

// ---- beside the stores that serve ----

namespace {

// In batches, until nothing more is due.
Result<std::uint64_t> trim_all(Storage& storage, CommitQueue& commits, const TimeGuard& time, AuditRetention& retention) {
    Steps steps(storage, commits);
    const auto commit = [&](Steps::Step step) { return steps.commit({}, std::move(step), false); };
    for (std::size_t removed = 1; removed > 0;) {
        KV_TRY(const Time now, time.now(storage));
        KV_CHECK(time.judge(now));
        KV_TRY(removed, retention.run(now, {}, commit));
    }
    return retention.removed();
}

}  // namespace

Result<std::uint64_t> trim_audit(Storage& storage, KeyProvider& keys, const AuditTrim& trim) {
    KV_TRY(const StoreMeta meta, read_store_meta(storage));
    KV_TRY(const auto keyring, open_keyring(storage, keys));
    KV_TRY(const bool may, storage.may_erase_audit());
    if (!may) {
        return Error{Errc::unsupported, "the database's role may not remove rows of the audit log: this is for whoever owns the tables"};
    }
    const auto wall = make_system_clock();
    KV_TRY(const TimeGuard time, TimeGuard::open(storage, {wall.get(), Options{}.clock_gap_max, false, {}}));
    const Vault vault(*keyring);
    const Limits limits;
    CommitQueue::Settings settings;
    settings.epoch = meta.epoch;
    settings.limits = &limits;
    settings.time = time;
    settings.version_base = meta.version_base;
    CommitQueue commits(storage, vault, std::move(settings));
    AuditRetention retention(storage, {trim.retention, trim.bytes_max, trim.archive, meta.epoch, {}});
    auto removed = contain([&] { return trim_all(storage, commits, time, retention); });
    commits.stop();
    return removed;
}

}  // namespace kv
