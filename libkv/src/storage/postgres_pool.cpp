#include "storage/postgres_pool.h"

#include "out_of_memory.h"

namespace kv::postgres {
namespace {

constexpr std::chrono::seconds idle_untried_max{30};
constexpr std::chrono::minutes age_max{30};
// A database that is away is asked for again no sooner, by however many threads.
constexpr std::chrono::milliseconds pause_after_refusal{100};

bool is_alive(Connection& connection) {
    try {
        connection.run("select 1");
        return true;
    } catch (const Failure&) {
        return false;
    }
}

}  // namespace

Pool::Lease Pool::take() {
    std::unique_lock lock(mutex_);
    const auto is_free = [&] { return lent_ < settings_.connections; };
    // Not wait_for(), which asks the wall clock on older libraries.
    const SteadyTime deadline = std::chrono::steady_clock::now() + settings_.patience;
    if (!returned_.wait_until(lock, deadline, is_free)) throw Failure("53300", "every connection to the database is in use");
    ++lent_;
    try {
        std::unique_ptr<Connection> connection = take_idle(lock);
        if (lock.owns_lock()) lock.unlock();
        if (!connection) connection = connect();
        return {*this, std::move(connection)};
    } catch (...) {
        if (!lock.owns_lock()) lock.lock();
        --lent_;
        returned_.notify_one();
        throw;
    }
}

// Leaves the lock while it tries one. Null: there is none.
std::unique_ptr<Connection> Pool::take_idle(std::unique_lock<std::mutex>& lock) {
    while (!idle_.empty()) {
        std::unique_ptr<Connection> connection = std::move(idle_.back());
        idle_.pop_back();
        const SteadyTime now = std::chrono::steady_clock::now();
        const bool is_usable = connection->opened >= trusted_since_ && now - connection->opened < age_max;
        if (is_usable && now - connection->used < idle_untried_max) return connection;
        lock.unlock();
        if (is_usable && is_alive(*connection)) return connection;
        connection.reset();
        lock.lock();
    }
    return nullptr;
}

std::unique_ptr<Connection> Pool::connect() {
    {
        std::lock_guard lock(mutex_);
        const bool is_too_soon = std::chrono::steady_clock::now() - refused_at_ < pause_after_refusal;
        if (refusal_ && is_too_soon) throw Failure(*refusal_);
    }
    try {
        auto connection = std::make_unique<Connection>(settings_.connection);
        if (settings_.enter) settings_.enter(*connection);
        std::lock_guard lock(mutex_);
        refusal_.reset();
        return connection;
    } catch (const Failure& failure) {
        std::lock_guard lock(mutex_);
        refusal_ = failure;
        refused_at_ = std::chrono::steady_clock::now();
        throw;
    }
}

void Pool::give_back(std::unique_ptr<Connection> connection, std::uint64_t round_trips_before) noexcept {
    round_trips_ += connection->round_trips() - round_trips_before;
    const bool is_sound = connection->is_sound();
    connection->used = std::chrono::steady_clock::now();
    std::vector<std::unique_ptr<Connection>> untrusted;
    {
        std::lock_guard lock(mutex_);
        --lent_;
        if (is_sound) {
            attempt([&] { idle_.push_back(std::move(connection)); });
        } else {
            trusted_since_ = std::chrono::steady_clock::now();
            untrusted.swap(idle_);
        }
    }
    returned_.notify_one();
}

}  // namespace kv::postgres
