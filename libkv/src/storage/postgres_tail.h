#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

#include "storage/postgres_connection.h"

namespace kv::postgres {

// The end of the audit log, where a lower position may come to light after a higher one. Every write holds a lock of ours,
// which none waits for, from before it takes its positions until its rows are visible. So once those that held it when the
// newest position was seen are over, nothing can come up below that position any more: who reads from the oldest row on reads
// up to there, and retention removes no row that it has not seen.
//
// Threads: any.
class AuditTail {
public:
    explicit AuditTail(std::chrono::milliseconds patience) : patience_(patience) {}

    // Takes the lock; part of the statement that every write begins with.
    static constexpr const char* lock_call = "pg_advisory_xact_lock_shared(1802924405, hashtext(current_schema()))";

    // Gives the newest position that all before it are certain of. Throws Failure where a write does not end.
    std::uint64_t settle(Connection& connection);

private:
    const std::chrono::milliseconds patience_;
    std::atomic<std::uint64_t> settled_ = 0;
};

}  // namespace kv::postgres
