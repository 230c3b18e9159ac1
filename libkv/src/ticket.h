#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kv/store.h"
#include "out_of_memory.h"

namespace kv {

// True on a thread that is inside a completion callback: it must not wait there.
inline thread_local bool in_completion = false;

// What the store has accepted and not yet answered, and what an operator watches among the answers. Threads: any.
struct InFlight {
    std::atomic<std::size_t> bytes{0};
    std::atomic<std::size_t> operations{0};

    std::atomic<std::uint64_t> denials{0};
    std::atomic<std::uint64_t> integrity_failures{0};
    std::atomic<std::uint64_t> overloaded{0};

    void count(const Result<Reply>& reply) noexcept {
        if (reply) return;
        if (reply.error().code == Errc::permission_denied) denials.fetch_add(1, std::memory_order_relaxed);
        if (reply.error().code == Errc::integrity) integrity_failures.fetch_add(1, std::memory_order_relaxed);
        if (reply.error().code == Errc::overloaded) overloaded.fetch_add(1, std::memory_order_relaxed);
    }
};

// Ticket is the duty to answer one accepted operation exactly once. Where what holds it comes apart before anything was
// committed, because there is no memory to go on, it says so itself.
class Ticket {
public:
    Ticket() = default;
    Ticket(Completion done, std::size_t bytes, InFlight& in_flight)
        : done_(std::move(done)), bytes_(bytes), in_flight_(&in_flight) {
        in_flight_->bytes.fetch_add(bytes_, std::memory_order_relaxed);
        in_flight_->operations.fetch_add(1);  // in one order with the store's stopping
    }
    Ticket(Ticket&& other) noexcept
        : done_(std::move(other.done_)), bytes_(other.bytes_), in_flight_(std::exchange(other.in_flight_, nullptr)) {}
    Ticket& operator=(Ticket&&) = delete;
    ~Ticket() {
        if (in_flight_ != nullptr) answer(out_of_memory());
    }

    // Counts what the answer will hold, too.
    void hold(std::size_t bytes) {
        if (in_flight_ == nullptr) return;
        bytes_ += bytes;
        in_flight_->bytes.fetch_add(bytes, std::memory_order_relaxed);
    }

    void answer(Result<Reply> reply) noexcept {
        InFlight* in_flight = std::exchange(in_flight_, nullptr);
        if (in_flight == nullptr) return;
        in_flight->count(reply);
        const bool outer = std::exchange(in_completion, true);
        try {
            done_(std::move(reply));
        } catch (...) {
            // A completion must not throw; one that does must not take down the others of its group.
        }
        in_completion = outer;
        done_ = nullptr;
        in_flight->bytes.fetch_sub(bytes_, std::memory_order_relaxed);
        if (in_flight->operations.fetch_sub(1, std::memory_order_release) == 1) in_flight->operations.notify_all();
    }

private:
    Completion done_;
    std::size_t bytes_ = 0;
    InFlight* in_flight_ = nullptr;
};

}  // namespace kv
