#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

#include "storage/postgres_connection.h"

namespace kv::postgres {

// Writes whose commit was not answered. Until it is certain how they ended nobody may look at what they left: the server may
// still be about to commit one, and one that was committed may not have reached the standby that must confirm it.
//
// Threads: any.
class Doubts {
public:
    void add(std::uint64_t transaction);
    // Throws Failure as long as one of them has not ended. A commit of our own that is confirmed then confirms theirs as well,
    // because a standby takes them in their order.
    void settle(Connection& connection);

private:
    std::vector<std::uint64_t> copy();
    void remove(const std::vector<std::uint64_t>& settled);

    std::mutex mutex_;
    std::vector<std::uint64_t> transactions_;
};

}  // namespace kv::postgres
