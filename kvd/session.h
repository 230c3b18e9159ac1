#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kvd/connection.h"
#include "kvd/framing.h"
#include "kvd/input_buffer.h"
#include "kvd/limiter.h"
#include "kvd/service.h"

namespace kvd {

class Log;
class Metrics;
class Worker;

struct SessionLimits {
    FramingLimits framing;
    std::chrono::milliseconds idle_timeout = std::chrono::seconds(60);
    std::chrono::milliseconds header_timeout = std::chrono::seconds(10);  // from the first byte
    std::chrono::milliseconds body_timeout = std::chrono::seconds(10);    // and what the slowest allowed rate adds
    std::chrono::milliseconds write_timeout = std::chrono::seconds(30);   // the same
    std::chrono::milliseconds stall_timeout = std::chrono::seconds(60);   // of an endless answer's reader who takes nothing
    std::chrono::milliseconds linger_timeout = std::chrono::seconds(2);
    std::size_t bytes_per_second_min = 64u << 10;
    std::size_t requests_max = 1'000'000;               // of one connection
    std::size_t connections_per_address_max = 0;        // 0: no limit
    std::size_t body_bytes_in_flight_max = 256u << 20;  // of requests and answers, of all connections
};

// What the sessions of one listener share. Everything is borrowed.
struct SessionContext {
    Service& service;
    Metrics& metrics;
    Log& log;
    SessionLimits limits;
    bool logs_requests = false;
    std::atomic<bool> draining{false};
    AddressCounts addresses{limits.connections_per_address_max};
    std::atomic<std::size_t> sessions{0};  // counted up by who accepts, down by the session itself
};

// Bytes under way, counted for as long as this lives. Threads: one at a time.
class HeldBytes {
public:
    HeldBytes() = default;
    HeldBytes(std::atomic<std::uint64_t>& total, std::size_t bytes) noexcept;
    HeldBytes(HeldBytes&& other) noexcept : total_(std::exchange(other.total_, nullptr)), bytes_(other.bytes_) {}
    HeldBytes& operator=(HeldBytes&& other) noexcept {
        std::swap(total_, other.total_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~HeldBytes() {
        if (total_ != nullptr) total_->fetch_sub(bytes_, std::memory_order_relaxed);
    }

    std::size_t bytes() const noexcept { return total_ != nullptr ? bytes_ : 0; }

private:
    std::atomic<std::uint64_t>* total_ = nullptr;
    std::size_t bytes_ = 0;
};

// One connection, from accept to close: reads a request, hands it over, writes the answer, one at a time. What follows
// in the buffer waits (pipelining). Threads: the worker's alone; completions find their way there.
class Session final : public std::enable_shared_from_this<Session> {
public:
    Session(Connection connection, Worker& worker, SessionContext& context);
    ~Session();

    void start();
    // Closes now if idle, else after the answer under way.
    void drain();
    void close() noexcept;
    void check_deadline(std::chrono::steady_clock::time_point now);

    std::size_t place = 0;  // in the worker's list

private:
    using Clock = std::chrono::steady_clock;
    enum class Phase : std::uint8_t { handshake, head, judging, body, handling, writing, pulling, lingering, closed };
    // What a step leaves behind: more to do at once, or an operation under way that calls back.
    enum class Step : std::uint8_t { again, wait };

    template <class First>
    void run(First first);
    Step step();

    Step shake_hands();
    Step take_head();
    Step judge(const Head& head, std::size_t head_bytes);
    Step await_verdict(const Head& head, std::size_t head_bytes);
    Step act_on_verdict(const Head& head, std::size_t head_bytes);
    void complete_verdict(std::uint64_t sequence, Service::Verdict verdict);
    void read_request(const Head& head);
    std::optional<kv::Error> judge_body(const Head& head) const;
    void skip_body(const Head& head);
    Step begin_body(const Head& head);
    Step take_body();
    Step take_chunks();

    Step dispatch();
    Step refuse(kv::Error error);
    Step answer_unheard(const kv::Error& error);
    Step answer_now(HttpResponse response);
    Step await_answer();
    // An answer, and its share of the budget; or what is left of one for which there was no room.
    struct Counted {
        HttpResponse response;
        HeldBytes held;
        bool was_dropped = false;
    };
    Service::Done completion();
    template <class T>
    static void deliver(Worker& worker, const std::weak_ptr<Session>& weak, std::uint64_t sequence,
                        void (Session::*take)(std::uint64_t sequence, T given), T given);
    void complete(std::uint64_t sequence, Counted answer);
    void complete_piece(std::uint64_t sequence, kv::Result<BodySource::Piece> piece);

    Step begin_write();
    Step write_some();
    Step finish_write();
    Step await_room(bool took_some);
    Step pull();
    Step await_piece();
    void begin_chunk();
    void begin_piece(BodySource::Piece piece);
    void log_request(Clock::duration took);
    void log_end() noexcept;
    void prepare_endless();
    void watch_peer();
    void look_at_peer();

    void arm_read();
    void on_read(std::size_t size, bool failed);
    Step on_timeout();
    bool has_room() const noexcept;
    static Counted count(HttpResponse response, SessionContext& context, bool may_be_dropped);
    void hold(const std::string& bytes, HeldBytes& held) noexcept;

    Connection connection_;
    Worker& worker_;
    SessionContext& context_;
    Peer peer_;
    InputBuffer input_;
    HeadScanner scanner_;
    Clock::time_point deadline_;  // for whatever is under way, except handling
    Clock::time_point phase_began_;
    Phase phase_ = Phase::head;
    bool is_counted_ = false;  // among those of its address
    bool running_ = false;     // in run(): an answer that comes meanwhile is picked up there
    bool reading_ = false;     // a read is under way
    bool timed_out_ = false;   // and was cancelled for its deadline
    bool head_begun_ = false;  // the first byte of a request is there
    bool closing_ = false;     // after this answer
    bool watching_ = false;    // for the peer to go while it waits for its answer

    // The request at hand.
    std::uint64_t sequence_ = 0;
    HttpRequest request_;
    Service::Verdict verdict_;
    bool has_verdict_ = false;  // that was open, or is to wait
    bool is_delayed_ = false;   // until the deadline
    std::string cors_origin_;
    std::size_t operation_ = 0;
    std::string method_;
    std::string request_id_;
    bool is_http_1_0_ = false;
    bool is_endless_ = false;  // its answer, which is begun
    bool log_due_ = false;     // its line in the access log, where the answer is sent in pieces
    bool is_read_ = false;  // so that nothing is left undone, or done, by not giving its answer
    Clock::time_point began_;
    std::optional<ChunkedDecoder> chunked_;
    std::uint64_t body_left_ = 0;
    HeldBytes body_held_;

    // Its answer.
    std::optional<HttpResponse> answer_;
    std::string head_out_;     // what stands before the body, or before the piece at hand
    std::size_t written_ = 0;  // of both
    HeldBytes answer_held_;
    std::optional<kv::Result<BodySource::Piece>> piece_;
    bool chunk_begun_ = false;  // one was sent, whose end is not
    Clock::time_point pull_began_;
};

}  // namespace kvd
