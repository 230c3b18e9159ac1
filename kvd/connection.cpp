#include "kvd/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cerrno>
#include <cstring>

namespace kvd {
namespace {

namespace net = boost::asio;

// One record: what is smaller than it goes out together.
constexpr std::size_t record_bytes = 16u << 10;

net::ip::address address_of(const net::generic::stream_protocol::endpoint& endpoint) {
    net::ip::tcp::endpoint address;
    std::memcpy(address.data(), endpoint.data(), std::min(endpoint.size(), address.capacity()));
    address.resize(endpoint.size());
    if (address.address().is_v6() && address.address().to_v6().is_v4_mapped())
        return net::ip::make_address_v4(net::ip::v4_mapped, address.address().to_v6());
    return address.address();
}

}  // namespace

Connection::Error Connection::open(Peer& peer) {
    Error error;
    const auto endpoint = socket_.remote_endpoint(error);
    if (error) return error;
    peer.is_unix = endpoint.data()->sa_family == AF_UNIX;
    if (peer.is_unix) {
        peer.address = "unix";
    } else {
        peer.address = address_of(endpoint).to_string();
        socket_.set_option(net::ip::tcp::no_delay(true), error);
    }
    socket_.non_blocking(true, error);
    if (!error && tls_ && SSL_set_fd(tls_.get(), socket_.native_handle()) != 1) error = net::error::no_memory;
    return error;
}

void Connection::close() noexcept {
    Error ignored;
    socket_.close(ignored);
}

void Connection::shutdown(Error& error) {
    if (tls_) {
        ERR_clear_error();
        SSL_shutdown(tls_.get());  // says that we are done; whether the peer says so, too, is its affair
    }
    socket_.shutdown(net::socket_base::shutdown_send, error);
}

void Connection::cancel() {
    Error ignored;
    socket_.cancel(ignored);
}

// What OpenSSL's calls give back, and what is to be waited for.
Connection::Error Connection::error_of(int result) {
    switch (SSL_get_error(tls_.get(), result)) {
        case SSL_ERROR_WANT_READ:
            wants_ = Socket::wait_read;
            return net::error::would_block;
        case SSL_ERROR_WANT_WRITE:
            wants_ = Socket::wait_write;
            return net::error::would_block;
        case SSL_ERROR_ZERO_RETURN:
            return net::error::eof;
        default:
            ERR_clear_error();
            return net::error::connection_reset;
    }
}

Connection::Error Connection::handshake(Peer& peer) {
    ERR_clear_error();
    const int result = SSL_accept(tls_.get());
    if (result != 1) return error_of(result);
    peer.names = peer_names(tls_.get());
    return {};
}

std::size_t Connection::read_tls(net::mutable_buffer room, Error& error) {
    ERR_clear_error();
    std::size_t size = 0;
    const int result = SSL_read_ex(tls_.get(), room.data(), room.size(), &size);
    if (result != 1) error = error_of(result);
    return size;
}

std::size_t Connection::write_tls(const Parts& parts, Error& error) {
    net::const_buffer bytes = parts[0].size() > 0 ? parts[0] : parts[1];
    // Head and body in one record, or in as few as there can be: each costs a call and 22 bytes.
    std::array<char, record_bytes> together;
    if (parts[0].size() > 0 && parts[1].size() > 0 && parts[0].size() < record_bytes)
        bytes = net::const_buffer(together.data(), net::buffer_copy(net::buffer(together), parts));
    if (bytes.size() == 0) return 0;
    ERR_clear_error();
    std::size_t size = 0;
    const int result = SSL_write_ex(tls_.get(), bytes.data(), bytes.size(), &size);
    if (result != 1) error = error_of(result);
    OPENSSL_cleanse(together.data(), bytes.data() == together.data() ? bytes.size() : 0);
    return size;
}

bool Connection::is_peer_gone() {
    char byte = 0;
    if (tls_) {
        ERR_clear_error();
        std::size_t size = 0;
        const int result = SSL_peek_ex(tls_.get(), &byte, 1, &size);
        const auto wanted = wants_;
        const bool is_gone = result != 1 && error_of(result) != net::error::would_block;
        wants_ = wanted;
        return is_gone;
    }
    Error error;
    socket_.receive(net::buffer(&byte, 1), net::socket_base::message_peek, error);
    return error && error != net::error::would_block;
}

void Connection::limit_sending(int buffer_bytes, std::chrono::milliseconds patience) {
    Error ignored;
    socket_.set_option(net::socket_base::send_buffer_size(buffer_bytes), ignored);
    const auto milliseconds = static_cast<unsigned>(patience.count());
    static_cast<void>(setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds));
}

}  // namespace kvd
