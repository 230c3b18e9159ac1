#include "storage/postgres_tail.h"

#include <algorithm>
#include <set>
#include <string>
#include <thread>

namespace kv::postgres {
namespace {

constexpr std::chrono::milliseconds look_again{1};

std::set<std::string> writes_under_way(Connection& connection) {
    Rows rows = connection.run(
        "select virtualtransaction from pg_locks where locktype = 'advisory' and classid = 1802924405"
        " and objid = hashtext(current_schema())::oid and objsubid = 2"
        " and database = (select d.oid from pg_database d where d.datname = current_database())");
    std::set<std::string> writes;
    while (rows.next()) {
        std::string write;
        rows.read(write);
        writes.insert(std::move(write));
    }
    return writes;
}

}  // namespace

std::uint64_t AuditTail::settle(Connection& connection) {
    Rows rows = connection.run("select coalesce(max(position), 0) from audit");
    std::uint64_t newest = 0;
    if (rows.next()) rows.read(newest);
    if (newest <= settled_) return newest;
    const SteadyTime deadline = std::chrono::steady_clock::now() + patience_;
    const std::set<std::string> before = writes_under_way(connection);
    const auto is_one_left = [&] {
        const std::set<std::string> now = writes_under_way(connection);
        return std::any_of(before.begin(), before.end(), [&](const std::string& one) { return now.contains(one); });
    };
    while (!before.empty() && is_one_left()) {
        if (std::chrono::steady_clock::now() >= deadline) throw Failure("55P03", "a write holds up the end of the log");
        std::this_thread::sleep_for(look_again);
    }
    std::uint64_t known = settled_;
    while (known < newest && !settled_.compare_exchange_weak(known, newest)) {
    }
    return newest;
}

}  // namespace kv::postgres
