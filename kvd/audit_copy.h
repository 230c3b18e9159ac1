#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kv/types.h"
#include "kvd/metrics.h"

namespace kvd {

class Log;

// Where a copy of the audit log goes: "file:PATH", "syslog:" or "stdout".
struct AuditCopyTarget {
    enum class Kind : std::uint8_t { file, syslog, standard_output };
    Kind kind = Kind::file;
    std::string path = {};  // file

    static kv::Result<AuditCopyTarget> parse(std::string_view text);
};

// AuditCopy writes each audit row as a line of JSON somewhere else, for whoever collects logs. It delays nobody: rows wait in
// a bounded queue for a thread of its own, and beyond it they are dropped and counted. The audit log itself has them all.
//
// Threads: add(), reopen() and stats() any; the rest one.
class AuditCopy {
public:
    struct Limits {
        std::size_t bytes_waiting_max = 8u << 20;
        std::chrono::milliseconds retry{1000};
        std::chrono::milliseconds stop_timeout{5000};  // for what waits then
    };

    // Borrows the log. Opens the file, so that a wrong path stops the start.
    static kv::Result<std::unique_ptr<AuditCopy>> open(const AuditCopyTarget& target, Log& log, const Limits& limits);
    static kv::Result<std::unique_ptr<AuditCopy>> open(const AuditCopyTarget& target, Log& log) {
        return open(target, log, Limits{});
    }
    ~AuditCopy();
    AuditCopy(const AuditCopy&) = delete;
    AuditCopy& operator=(const AuditCopy&) = delete;

    // Takes copies, never waits for a disk, never throws.
    void add(std::span<const kv::AuditRecord> records) noexcept;
    // From now on rows are written; until then they wait.
    void start();
    // The file was moved away: the next row goes to a new one.
    void reopen();
    // Writes what waits, as far as the time allows. A thread that hangs in a write is left behind.
    void stop();
    Metrics::AuditCopyStats stats() const;

private:
    struct State;
    explicit AuditCopy(std::shared_ptr<State> state);

    std::shared_ptr<State> state_;  // shared with the thread, which may be left behind
    bool is_stopped_ = false;
};

}  // namespace kvd
