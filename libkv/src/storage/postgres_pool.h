#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "storage/postgres_connection.h"

namespace kv::postgres {

// Connections, made when needed and as many as allowed. What was idle for long is tried before it is given away, what is old
// is made anew, and once one was found broken those that lay idle with it are not trusted either.
//
// Threads: any. Outlives what it gave away.
class Pool {
public:
    struct Settings {
        ConnectionSettings connection;
        std::size_t connections = 8;
        std::function<void(Connection&)> enter;    // called with each new one; throws Failure where it may not be used
        std::chrono::milliseconds patience{1000};  // with those who have them all
    };
    explicit Pool(Settings settings) : settings_(std::move(settings)) {}
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    class Lease;
    // Throws Failure.
    Lease take();
    // Of its own, beside the others: for what takes long.
    std::unique_ptr<Connection> open() const { return std::make_unique<Connection>(settings_.connection); }
    std::uint64_t round_trips() const { return round_trips_; }

private:
    std::unique_ptr<Connection> take_idle(std::unique_lock<std::mutex>& lock);
    std::unique_ptr<Connection> connect();
    void give_back(std::unique_ptr<Connection> connection, std::uint64_t round_trips_before) noexcept;

    const Settings settings_;
    std::mutex mutex_;
    std::condition_variable returned_;
    std::vector<std::unique_ptr<Connection>> idle_;  // the last used at the end
    std::size_t lent_ = 0;
    SteadyTime trusted_since_{};  // what was opened earlier is not used again
    std::optional<Failure> refusal_;  // of the last attempt to connect
    SteadyTime refused_at_{};
    std::atomic<std::uint64_t> round_trips_ = 0;
};

// A connection in one's hands; goes back when it dies.
class Pool::Lease {
public:
    Lease(Pool& pool, std::unique_ptr<Connection> connection)
        : pool_(&pool), connection_(std::move(connection)), round_trips_before_(connection_->round_trips()) {}
    ~Lease() {
        if (connection_) pool_->give_back(std::move(connection_), round_trips_before_);
    }
    Lease(Lease&&) = default;
    Lease& operator=(Lease&&) = delete;
    Connection& operator*() const { return *connection_; }
    Connection* operator->() const { return connection_.get(); }

private:
    Pool* pool_;
    std::unique_ptr<Connection> connection_;
    std::uint64_t round_trips_before_;
};

}  // namespace kv::postgres
