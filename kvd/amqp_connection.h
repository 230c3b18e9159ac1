#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "kv/result.h"
#include "kvd/amqp_settings.h"

struct amqp_connection_state_t_;
struct amqp_frame_t_;
struct amqp_method_t_;
struct amqp_rpc_reply_t_;
struct amqp_socket_t_;

namespace kvd {

// AmqpBreaker cuts a connection from another thread: what hangs in it then fails. (The library waits without end when the
// broker does not read, and knows no other way out.) It holds the socket by a descriptor of its own, which nobody else
// closes. Threads: any.
class AmqpBreaker {
public:
    AmqpBreaker() = default;
    ~AmqpBreaker() { forget(); }
    AmqpBreaker(const AmqpBreaker&) = delete;
    AmqpBreaker& operator=(const AmqpBreaker&) = delete;

    void watch(int socket) noexcept;
    void forget() noexcept;
    void cut() noexcept;

private:
    std::mutex mutex_;
    int socket_ = -1;
};

// What a broker says about messages that were published.
class AmqpListener {
public:
    virtual ~AmqpListener();
    // `tag`: what publish() gave; `is_multiple`: it and all before it. The broker has them, or will not.
    virtual void on_confirm(std::uint64_t tag, bool is_multiple, bool is_taken) = 0;
    // No queue takes the message. Comes before its confirmation, which says that it was taken all the same.
    virtual void on_return(std::string_view message_id) = 0;
};

// AmqpConnection is one channel of one connection to a RabbitMQ, on which messages are published to a topic exchange and
// confirmed. After an error it is of no use any more. Errors are Errc::unavailable and name neither user nor password;
// their details are the broker's own words.
//
// Threads: one; only the breaker may be used by others.
class AmqpConnection {
public:
    struct Message {
        std::string routing_key;
        std::string id;
        std::string type;
        std::string body;
        std::uint64_t timestamp = 0;  // seconds since 1970
    };

    // Connects, logs in and declares the exchange, each within some seconds (but who asks for the address of a host waits as
    // long as the system does). Borrows both.
    static kv::Result<std::unique_ptr<AmqpConnection>> open(const AmqpSettings& settings, AmqpBreaker& breaker);
    // Whether the files for TLS are what they should be. Names the option of the one that is not.
    static kv::Result<void> check_files(const AmqpSettings& settings);
    // Drops the connection without a word.
    ~AmqpConnection();
    AmqpConnection(const AmqpConnection&) = delete;
    AmqpConnection& operator=(const AmqpConnection&) = delete;

    // Its tag, which counts from 1. Call pump() shortly before: the library waits without end when a heartbeat is overdue.
    kv::Result<std::uint64_t> publish(const Message& message);
    // Takes what has arrived and waits for nothing; sends heartbeats, and misses those of the broker.
    kv::Result<void> pump(AmqpListener& listener);
    // Whether more has arrived than the last pump() took, although the socket shows nothing.
    bool has_more() const noexcept;
    // While the broker has raised an alarm. What is published then only fills buffers.
    bool is_blocked() const noexcept { return is_blocked_; }
    const std::string& blocked_reason() const noexcept { return blocked_reason_; }
    int socket() const noexcept;
    // Says goodbye, within a second.
    void close() noexcept;

private:
    AmqpConnection(const AmqpSettings& settings, AmqpBreaker& breaker);

    kv::Result<void> connect();
    kv::Result<void> log_in();
    kv::Result<void> prepare();
    kv::Result<void> take(const amqp_frame_t_& frame, AmqpListener& listener);
    kv::Result<void> take_method(const amqp_method_t_& method, AmqpListener& listener);
    void end_return(AmqpListener& listener);
    kv::Error failure(const std::string& what, const amqp_rpc_reply_t_& reply) const;
    kv::Error closed_by_broker(const std::string& what, std::uint16_t code, std::string_view text) const;

    // A message that comes back: its method, then its properties, then its body.
    enum class Returning : std::uint8_t { nothing, properties, body };

    const AmqpSettings& settings_;
    AmqpBreaker& breaker_;
    amqp_connection_state_t_* state_;
    std::uint64_t published_ = 0;
    bool is_blocked_ = false;
    std::string blocked_reason_;
    Returning returning_ = Returning::nothing;
    std::string returning_id_;
    std::uint64_t returning_bytes_ = 0;
};

}  // namespace kvd
