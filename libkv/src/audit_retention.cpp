#include "audit_retention.h"

#include <algorithm>
#include <map>
#include <utility>

namespace kv {
namespace {

constexpr std::size_t batch_rows = 2048;
// Fewer are not worth the checkpoint rows they leave, unless they are well beyond their time.
constexpr std::size_t batch_rows_min = 256;
constexpr std::size_t rows_kept_min = 256;  // of the newest, however tight the disk is
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

// The last row taken of each stream, and how many.
struct Cut {
    AuditHead last;
    std::uint64_t rows = 0;
};

std::map<StreamId, Cut> cuts_of(std::span<const AuditRow> rows) {
    std::map<StreamId, Cut> cuts;
    for (const AuditRow& row : rows) {
        Cut& cut = cuts[row.record.stream];
        cut.last.stream = row.record.stream;
        cut.last.sequence = row.record.sequence;
        cut.last.mac = row.mac;
        ++cut.rows;
    }
    return cuts;
}

}  // namespace

AuditRetention::AuditRetention(Storage& storage, Settings settings) : storage_(storage), settings_(std::move(settings)) {
    if (!settings_.archive.empty()) archive_ = std::make_unique<AuditArchive>(settings_.archive, settings_.epoch);
}

Result<std::size_t> AuditRetention::run(Time now, Reason reason, const Commit& commit) {
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
            AuditRecord record = make_head_record(audit_checkpoint, cut.last, context.plan.now);
            record.count = cut.rows;
            context.audit.push_back(std::move(record));
            // Nothing is left of a stream that ended there: the checkpoint is what remains of it.
            KV_TRY(const auto heads, context.storage.get_audit_heads(std::span(&stream, 1)));
            const bool is_over = heads.size() == 1 && heads.front().state != HeadState::open &&
                                 heads.front().sequence == cut.last.sequence && heads.front().mac == cut.last.mac;
            if (is_over) changes.erase_heads.push_back(stream);
        }
        return {};
    });
}

}  // namespace kv
