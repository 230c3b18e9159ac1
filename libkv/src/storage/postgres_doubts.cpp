#include "storage/postgres_doubts.h"

#include <algorithm>

namespace kv::postgres {
namespace {

// A number that this server has not given yet is of one that it was promoted without.
constexpr std::string_view not_given_yet = "22023";

constexpr std::chrono::milliseconds confirmation_patience{1000};

bool has_ended(Connection& connection, std::uint64_t transaction) {
    try {
        Rows rows = connection.run("select coalesce(pg_xact_status($1::text::xid8), '') <> 'in progress'",
                                   Params(std::to_string(transaction)));
        bool is_over = false;
        if (rows.next()) rows.read(is_over);
        return is_over;
    } catch (const Failure& failure) {
        if (failure.code() != not_given_yet) throw;
        return true;
    }
}

void commit_something(Connection& connection) {
    connection.begin("begin isolation level read committed", nullptr, {});
    connection.run("update meta set value = value where name = 'storage.schema_version'");
    if (connection.commit(confirmation_patience) != Connection::Commit::committed) {
        connection.poison();
        throw Failure(state_connection_lost, "the database does not confirm what it commits");
    }
}

}  // namespace

void Doubts::add(std::uint64_t transaction) {
    std::lock_guard lock(mutex_);
    transactions_.push_back(transaction);
}

void Doubts::settle(Connection& connection) {
    const std::vector<std::uint64_t> transactions = copy();
    if (transactions.empty()) return;
    for (const std::uint64_t transaction : transactions) {
        if (!has_ended(connection, transaction)) throw Failure("55P03", "a write before has not ended yet");
    }
    commit_something(connection);
    remove(transactions);
}

std::vector<std::uint64_t> Doubts::copy() {
    std::lock_guard lock(mutex_);
    return transactions_;
}

void Doubts::remove(const std::vector<std::uint64_t>& settled) {
    std::lock_guard lock(mutex_);
    std::erase_if(transactions_, [&](std::uint64_t one) { return std::find(settled.begin(), settled.end(), one) != settled.end(); });
}

}  // namespace kv::postgres
