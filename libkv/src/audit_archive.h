#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "kv/rows.h"

namespace kv {

// One audit row as a line of JSON, without its end: every member that its MAC covers, position and MAC (hex).
std::string audit_line(const AuditRow& row);

// AuditArchive appends audit rows that are about to be deleted to files in a folder: JSON lines,
// audit-<epoch>-<first position>.jsonl, a new file every 64 MiB, owner only. What a crash left half-written is cut off,
// and rows that are there already are not written twice.
//
// Threads: one at a time.
class AuditArchive {
public:
    AuditArchive(std::string folder, std::string epoch);
    ~AuditArchive();
    AuditArchive(const AuditArchive&) = delete;
    AuditArchive& operator=(const AuditArchive&) = delete;

    // On disk when it returns. In ascending positions.
    Result<void> append(std::span<const AuditRow> rows);

private:
    Result<void> open();
    Result<void> open_newest(const std::string& name);
    Result<void> create(std::uint64_t position);
    Result<void> write(const std::string& text);
    void close();

    const std::string folder_;
    const std::string prefix_;
    int file_ = -1;
    std::uint64_t bytes_ = 0;
    std::uint64_t last_position_ = 0;
    bool is_known_ = false;  // the folder was looked at
};

}  // namespace kv
