#pragma once
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/uuid/random_generator.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kvd/turn.h"

namespace kvd {

class Metrics;
class Session;

// Worker is one thread's share of the connections: its own io_context, so that small requests cross no lock and no
// core, and one timer that walks the deadlines of them all, which is cheaper than a timer per connection re-armed by
// every request. Everything but context() and drain() belongs to the thread in run().
class Worker {
public:
    Worker(Metrics& metrics, std::chrono::milliseconds tick);
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    boost::asio::io_context& context() noexcept { return context_; }
    // Serves until stop(). What a handler throws is counted and survived.
    void run();
    void stop() { context_.stop(); }
    bool is_current() const noexcept;
    // On the worker's thread, and no session is in the middle of anything.
    bool is_answering() const noexcept { return is_current() && turn_.is_answering(); }

    void add(std::shared_ptr<Session> session);
    void remove(const Session& session) noexcept;
    // 36 characters of UUID.
    std::string draw_id();

    // Threads: any. Asks every session to finish what it is at and close; idle ones close at once.
    void drain();
    // Threads: any. Closes every connection, whatever it is at.
    void close_all();

private:
    template <class Visit>
    void for_each_session(Visit visit);
    void arm_tick();
    void check_deadlines();

    Metrics& metrics_;
    std::chrono::milliseconds tick_;
    bool tick_armed_ = false;
    boost::uuids::random_generator_mt19937 ids_;
    boost::asio::io_context context_{1};  // before what lives on it
    Turn turn_;
    // The list owns the sessions, and their handlers share in it while an operation is pending. Nobody outside the worker's
    // thread ever holds one, or its destructor could run there.
    std::vector<std::shared_ptr<Session>> sessions_;
    boost::asio::steady_timer timer_{context_};
};

}  // namespace kvd
