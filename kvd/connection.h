#pragma once
#include <array>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "kvd/auth/identity.h"
#include "kvd/tls.h"

namespace kvd {

// Connection is what a session reads from and writes to: a TCP or a Unix stream socket, in the clear or under TLS. One read and
// one wait may be under way at a time.
//
// Threads: the io_context's alone.
class Connection {
public:
    // With the executor's own type: no virtual call per operation.
    using Socket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol, boost::asio::io_context::executor_type>;
    using Error = boost::system::error_code;
    using Parts = std::array<boost::asio::const_buffer, 2>;

    // `tls`: null in the clear.
    Connection(Socket socket, TlsSession tls) : socket_(std::move(socket)), tls_(std::move(tls)) {}

    // Never to wait from here on. Tells whose it is; an error if it is gone already.
    Error open(Peer& peer);
    void close() noexcept;
    // Nothing more is sent.
    void shutdown(Error& error);
    // A read under way fails.
    void cancel();

    bool is_tls() const noexcept { return tls_ != nullptr; }
    // Only under TLS, and first: again and again, with wait() between, until it is done. `would_block`: not yet.
    Error handshake(Peer& peer);

    // Calls back with what there is, once there is something.
    template <class Handler>
    void async_read_some(boost::asio::mutable_buffer room, Handler handler) {
        if (!tls_) return socket_.async_read_some(room, std::move(handler));
        Error error;
        const std::size_t size = read_tls(room, error);
        if (error != boost::asio::error::would_block) {
            boost::asio::post(socket_.get_executor(), [handler = std::move(handler), error, size]() mutable { handler(error, size); });
            return;
        }
        wait([this, room, handler = std::move(handler)](Error failed) mutable {
            if (failed) return handler(failed, 0);
            async_read_some(room, std::move(handler));
        });
    }
    // Without waiting: `would_block` where there is no room.
    std::size_t write_some(const Parts& parts, Error& error) { return tls_ ? write_tls(parts, error) : socket_.write_some(parts, error); }
    // Until what would have blocked may go on.
    template <class Handler>
    void wait(Handler handler) {
        socket_.async_wait(wants_, std::move(handler));
    }
    // Until the peer says something, or goes.
    template <class Handler>
    void wait_for_peer(Handler handler) {
        socket_.async_wait(Socket::wait_read, std::move(handler));
    }
    bool is_peer_gone();
    // Of an answer without an end: what the kernel holds, and how long it waits for a peer that acknowledges nothing.
    void limit_sending(int buffer_bytes, std::chrono::milliseconds patience);

private:
    std::size_t read_tls(boost::asio::mutable_buffer room, Error& error);
    std::size_t write_tls(const Parts& parts, Error& error);
    Error error_of(int result);

    Socket socket_;
    TlsSession tls_;
    Socket::wait_type wants_ = Socket::wait_write;
};

}  // namespace kvd
