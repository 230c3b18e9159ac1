#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "audit_archive.h"
#include "commit_queue.h"

namespace kv {

// AuditRetention takes the oldest rows of the audit log away once they are old enough, or too many, or the disk is
// nearly full: first into the archive, then out of the log, behind a checkpoint row for each stream from which
// verification goes on. It only ever takes a beginning of the log, so that what vouches for a stream outlives it. Where the
// storage lets nothing be removed it says so once, looks again every minute, and leaves everything as it is.
//
// Threads: one at a time, except for the figures.
class AuditRetention {
public:
    struct Settings {
        std::chrono::seconds retention{};
        std::uint64_t bytes_max = 0;  // of the log; 0: any
        std::string archive;          // a folder; empty: none
        std::string epoch;
        std::function<void(LogLevel, std::string_view)> log;
    };
    using Commit = std::function<Result<void>(std::function<Result<void>(GroupContext&)>)>;

    // Borrows the storage.
    AuditRetention(Storage& storage, Settings settings);

    struct Reason {
        bool is_clock_sound = true;  // otherwise age counts for nothing
        bool is_disk_tight = false;  // with an archive, all but the newest rows may go
    };
    // One batch; how many rows went.
    Result<std::size_t> run(Time now, Reason reason, const Commit& commit);

    std::uint64_t removed() const noexcept { return removed_.load(std::memory_order_relaxed); }
    std::uint64_t archived() const noexcept { return archived_.load(std::memory_order_relaxed); }
    std::uint64_t removals_forbidden() const noexcept { return removals_forbidden_.load(std::memory_order_relaxed); }
    std::uint64_t failures() const noexcept { return failures_.load(std::memory_order_relaxed); }

private:
    bool is_old(const AuditRow& row, Time now) const;
    bool may_be_due(const AuditRow& oldest, Time now, Reason reason) const;
    Result<std::size_t> count_due(const std::vector<AuditRow>& oldest, Time now, Reason reason);
    Result<bool> may_remove(Time now);
    Result<void> archive(std::span<const AuditRow> rows);
    Result<void> remove(std::span<const AuditRow> rows, const Commit& commit);

    Storage& storage_;
    const Settings settings_;
    std::unique_ptr<AuditArchive> archive_;
    std::atomic<std::uint64_t> removed_{0};
    std::atomic<std::uint64_t> archived_{0};
    std::atomic<std::uint64_t> failures_{0};
    std::atomic<std::uint64_t> removals_forbidden_{0};
    std::optional<Time> forbidden_at_;  // when that was seen last
};

}  // namespace kv
