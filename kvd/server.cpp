#include "kvd/server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "kvd/auth/gateway.h"
#include "kvd/log.h"
#include "kvd/metrics.h"
#include "kvd/session.h"
#include "kvd/tls.h"
#include "kvd/worker.h"

namespace kvd {
namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

constexpr std::chrono::milliseconds accept_pause(100);
constexpr std::chrono::milliseconds drain_poll(20);

// A quarter of the shortest deadline, so that none is missed by much; four times a second is plenty otherwise.
std::chrono::milliseconds tick_of(const SessionLimits& limits) {
    const auto shortest =
        std::min({limits.idle_timeout, limits.header_timeout, limits.body_timeout, limits.write_timeout, limits.stall_timeout});
    return std::clamp(shortest / 4, std::chrono::milliseconds(10), std::chrono::milliseconds(250));
}

// A descriptor kept in reserve: with none left, giving it up for a moment lets us accept a connection only to close it,
// instead of leaving it in the queue and being woken for it for ever.
class SpareDescriptor {
public:
    SpareDescriptor() { open(); }
    ~SpareDescriptor() { close(); }
    SpareDescriptor(const SpareDescriptor&) = delete;
    SpareDescriptor& operator=(const SpareDescriptor&) = delete;
    void open() { number_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
    void close() {
        if (number_ >= 0) ::close(std::exchange(number_, -1));
    }

private:
    int number_ = -1;
};

// One listening socket and its accept loop, which no error ends.
class Listener {
public:
    // `next_worker` says who serves a connection.
    Listener(net::io_context& context, SessionContext& sessions, std::size_t connections_max, const Tls* tls,
             std::function<Worker&()> next_worker)
        : acceptor_(context),
          pause_(context),
          sessions_(sessions),
          connections_max_(connections_max),
          tls_(tls),
          next_worker_(std::move(next_worker)) {}

    kv::Result<Endpoint> open(const Endpoint& endpoint) {
        error_code error;
        if (endpoint.is_unix()) {
            remove_stale_socket(endpoint.path);
            bind(local::endpoint(endpoint.path), error);
            if (!error) path_ = endpoint.path;
            // Made by umask for its owner; a gateway is of the group.
            if (!error && ::chmod(endpoint.path.c_str(), 0660) != 0) error = error_code(errno, boost::system::system_category());
        } else {
            bind(tcp::endpoint(net::ip::make_address(endpoint.address, error), endpoint.port), error);
        }
        if (!error) acceptor_.listen(net::socket_base::max_listen_connections, error);
        if (error)
            return kv::Error{kv::Errc::unavailable, "cannot listen on " + endpoint.url() + ": " + error.message()};
        Endpoint opened = endpoint;
        if (!endpoint.is_unix()) opened.port = port_of(acceptor_.local_endpoint(error));
        return opened;
    }

    void start() {
        if (!acceptor_.is_open()) return;
        Worker& worker = next_worker_();
        acceptor_.async_accept(worker.context(), [this, &worker](error_code error, Connection::Socket socket) {
            if (error == net::error::operation_aborted) return;
            if (error) return on_failure(error);
            try {
                on_connection(worker, std::move(socket));
            } catch (const std::exception&) {
                // There is no memory for this one, which is closed; others are heard.
            }
            start();
        });
    }

    void close() {
        error_code ignored;
        acceptor_.close(ignored);
        pause_.cancel();
        if (!path_.empty()) ::unlink(std::exchange(path_, {}).c_str());
    }

private:
    using Protocol = net::generic::stream_protocol;
    using local = net::local::stream_protocol;

    template <class Address>
    void bind(const Address& address, error_code& error) {
        if (!error) acceptor_.open(address.protocol(), error);
        if (!error) acceptor_.set_option(net::socket_base::reuse_address(true), error);
        if (!error) acceptor_.bind(address, error);
    }

    static std::uint16_t port_of(const Protocol::endpoint& endpoint) {
        tcp::endpoint address;
        std::memcpy(address.data(), endpoint.data(), std::min(endpoint.size(), address.capacity()));
        return address.port();
    }

    // What a kvd that was killed left behind: a socket that nobody listens on. Anything else stays, and binding fails.
    void remove_stale_socket(const std::string& path) {
        struct stat info {};
        if (::lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
        error_code error;
        local::socket probe(acceptor_.get_executor());
        probe.connect(local::endpoint(path), error);
        if (error == net::error::connection_refused) ::unlink(path.c_str());
    }

    void on_connection(Worker& worker, Connection::Socket socket) {
        failing_ = false;
        if (sessions_.sessions.load(std::memory_order_relaxed) >= connections_max_) return turn_away(std::move(socket));
        sessions_.sessions.fetch_add(1, std::memory_order_relaxed);
        sessions_.metrics.connections.fetch_add(1, std::memory_order_relaxed);
        sessions_.metrics.connections_accepted.fetch_add(1, std::memory_order_relaxed);
        const auto or_uncount = [&sessions = sessions_](auto&& make) {
            try {
                return make();
            } catch (...) {
                sessions.sessions.fetch_sub(1, std::memory_order_relaxed);
                sessions.metrics.connections.fetch_sub(1, std::memory_order_relaxed);
                throw;
            }
        };
        or_uncount([&] {
            TlsSession tls = tls_ != nullptr ? tls_->session() : nullptr;
            if (tls_ != nullptr && !tls) throw std::bad_alloc();
            net::post(worker.context(), [&worker, &sessions = sessions_, or_uncount, connection = Connection(std::move(socket), std::move(tls))]() mutable {
                const auto session = or_uncount([&] { return std::make_shared<Session>(std::move(connection), worker, sessions); });
                session->start();
            });
        });
    }

    // Too many: said as well as it can be without waiting.
    void turn_away(Connection::Socket socket) {
        sessions_.metrics.connections_refused.fetch_add(1, std::memory_order_relaxed);
        if (tls_ != nullptr) return;  // before a handshake nothing can be said
        static constexpr std::string_view answer =
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nCache-Control: no-store\r\n"
            "Connection: close\r\n\r\n";
        error_code ignored;
        socket.non_blocking(true, ignored);
        socket.write_some(net::buffer(answer), ignored);
        socket.shutdown(net::socket_base::shutdown_send, ignored);
    }

    void on_failure(error_code error) {
        sessions_.metrics.accept_failures.fetch_add(1, std::memory_order_relaxed);
        if (error == net::error::connection_aborted) return start();
        if (!std::exchange(failing_, true))
            sessions_.log.error("cannot accept connections", {{"reason", error.message()}});
        if (error == net::error::no_descriptors || error.value() == ENFILE) {
            spare_.close();
            const int taken = ::accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (taken >= 0) ::close(taken);
            spare_.open();
        }
        pause_.expires_after(accept_pause);
        pause_.async_wait([this](error_code cancelled) {
            if (cancelled) return;
            start();
        });
    }

    net::basic_socket_acceptor<Protocol> acceptor_;
    net::steady_timer pause_;
    SessionContext& sessions_;
    std::size_t connections_max_;
    const Tls* tls_;
    std::string path_;  // of a Unix socket, to be removed
    std::function<Worker&()> next_worker_;
    SpareDescriptor spare_;
    bool failing_ = false;  // and logged so
};

}  // namespace

// ---- Endpoint ----

kv::Result<Endpoint> Endpoint::parse(const std::string& text) {
    const kv::Error malformed{kv::Errc::invalid_request,
                              "\"" + text + "\" is not ADDRESS:PORT, like 127.0.0.1:8420 or [::1]:8420, nor unix:PATH"};
    constexpr std::string_view unix_scheme = "unix:";
    constexpr std::size_t path_bytes_max = 107;  // sockaddr_un
    if (text.starts_with(unix_scheme)) {
        std::string path = text.substr(unix_scheme.size());
        if (path.empty() || path.size() > path_bytes_max)
            return kv::Error{kv::Errc::invalid_request, "the path of a Unix socket has 1 to 107 bytes, like unix:/run/kvd/kvd.sock"};
        return Endpoint{.address = {}, .path = std::move(path)};
    }
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos) return malformed;
    Endpoint endpoint{.address = text.substr(0, colon)};
    const char* const end = text.data() + text.size();
    const auto number = std::from_chars(text.data() + colon + 1, end, endpoint.port);
    if (number.ec != std::errc() || number.ptr != end) return malformed;
    std::string& address = endpoint.address;
    const bool has_brackets = address.size() > 2 && address.front() == '[' && address.back() == ']';
    if (has_brackets) address = address.substr(1, address.size() - 2);
    if (address == "localhost") address = "127.0.0.1";
    error_code error;
    const auto parsed = net::ip::make_address(address, error);
    if (error || parsed.is_v6() != has_brackets) return malformed;
    return endpoint;
}

kv::Result<std::vector<Endpoint>> Endpoint::parse_list(const std::string& text) {
    std::vector<Endpoint> endpoints;
    for (const std::string& item : split_list(text)) {
        KV_TRY(Endpoint endpoint, parse(item));
        endpoints.push_back(std::move(endpoint));
    }
    if (endpoints.empty()) return parse(text).error();
    return endpoints;
}

bool Endpoint::is_loopback() const {
    if (is_unix()) return true;
    error_code error;
    const auto parsed = net::ip::make_address(address, error);
    return !error && parsed.is_loopback();
}

std::string Endpoint::url() const {
    if (is_unix()) return "unix:" + path;
    const bool is_v6 = address.find(':') != std::string::npos;
    return (is_tls ? "https://" : "http://") + (is_v6 ? "[" + address + "]" : address) + ":" + std::to_string(port);
}

// ---- Server ----

struct Server::Impl {
    Impl(const Options& server_options, const SessionLimits& session_limits, Metrics& server_metrics, Log& server_log)
        : options(server_options),
          limits(session_limits),
          metrics(server_metrics),
          log(server_log),
          control(metrics, tick_of(limits)) {
        for (std::size_t i = 0; i < std::max<std::size_t>(options.threads, 1); ++i)
            workers.push_back(std::make_unique<Worker>(metrics, tick_of(limits)));
    }

    std::unique_ptr<SessionContext> make_sessions(Service& service) {
        return std::unique_ptr<SessionContext>(
            new SessionContext{service, metrics, log, limits, options.logs_requests});
    }

    const Tls* tls_of(const Endpoint& endpoint) const { return endpoint.is_tls ? options.tls : nullptr; }

    void arm_signals() {
        signals.async_wait([this](error_code error, int number) {
            if (error) return;
            if (number == SIGHUP) {
                hooks.on_hangup();
            } else if (std::exchange(draining, true)) {
                std::_Exit(70);  // the operator has waited long enough
            } else {
                begin_drain();
            }
            arm_signals();
        });
    }

    void begin_drain() {
        hooks.on_drain();
        api_sessions->draining.store(true, std::memory_order_relaxed);
        for (const auto& listener : api) listener->close();
        for (const auto& worker : workers) worker->drain();
        drain_until = std::chrono::steady_clock::now() + options.drain_timeout;
        await_drain();
    }

    // The operator's listener goes on meanwhile: that is where a load balancer reads that we are not ready.
    void await_drain() {
        const bool is_over = std::chrono::steady_clock::now() >= drain_until;
        if (is_over || api_sessions->sessions.load(std::memory_order_acquire) == 0) {
            was_clean = !is_over;
            control.stop();
            return;
        }
        drain_timer.expires_after(drain_poll);
        drain_timer.async_wait([this](error_code error) {
            if (!error) await_drain();
        });
    }

    void arm_minute() {
        minute_timer.expires_after(std::chrono::minutes(1));
        minute_timer.async_wait([this](error_code error) {
            if (error) return;
            hooks.on_minute();
            arm_minute();
        });
    }

    void arm_second() {
        second_timer.expires_after(std::chrono::seconds(1));
        second_timer.async_wait([this](error_code error) {
            if (error) return;
            hooks.on_second();
            arm_second();
        });
    }

    Options options;
    const SessionLimits limits;
    Metrics& metrics;
    Log& log;
    Hooks hooks;
    // Before the workers: their sessions end in them.
    std::unique_ptr<SessionContext> api_sessions, admin_sessions;
    std::size_t next_worker = 0;
    // In this order: an accept under way in `control` holds a socket of a worker.
    std::vector<std::unique_ptr<Worker>> workers;
    Worker control;
    std::vector<std::unique_ptr<Listener>> api;
    std::unique_ptr<Listener> admin;
    net::signal_set signals{control.context()};
    net::steady_timer drain_timer{control.context()};
    net::steady_timer minute_timer{control.context()};
    net::steady_timer second_timer{control.context()};
    std::chrono::steady_clock::time_point drain_until;
    bool draining = false;
    bool was_clean = true;
    std::vector<std::thread> threads;
};

Server::Server(const Options& options, const SessionLimits& limits, Metrics& metrics, Log& log)
    : impl_(std::make_unique<Impl>(options, limits, metrics, log)) {
    // Before anything else runs: from here on a signal ends the server in good order.
    for (int number : {SIGTERM, SIGINT, SIGHUP}) impl_->signals.add(number);
}

Server::~Server() { stop(); }

kv::Result<Endpoint> Server::listen(const Endpoint& endpoint, Service& service) {
    if (!impl_->api_sessions) impl_->api_sessions = impl_->make_sessions(service);
    impl_->api.push_back(std::make_unique<Listener>(impl_->control.context(), *impl_->api_sessions, impl_->options.connections_max,
                                                    impl_->tls_of(endpoint), [impl = impl_.get()]() -> Worker& {
                                                        impl->next_worker = (impl->next_worker + 1) % impl->workers.size();
                                                        return *impl->workers[impl->next_worker];
                                                    }));
    return impl_->api.back()->open(endpoint);
}

kv::Result<Endpoint> Server::listen_admin(const Endpoint& endpoint, Service& service) {
    impl_->admin_sessions = impl_->make_sessions(service);
    impl_->admin = std::make_unique<Listener>(impl_->control.context(), *impl_->admin_sessions,
                                              impl_->options.admin_connections_max, impl_->tls_of(endpoint),
                                              [impl = impl_.get()]() -> Worker& { return impl->control; });
    return impl_->admin->open(endpoint);
}

bool Server::run(Hooks hooks) {
    impl_->hooks = std::move(hooks);
    for (const auto& worker : impl_->workers) impl_->threads.emplace_back([&worker = *worker] { worker.run(); });
    impl_->arm_signals();
    impl_->arm_minute();
    impl_->arm_second();
    for (const auto& listener : impl_->api) listener->start();
    if (impl_->admin) impl_->admin->start();
    impl_->control.run();
    for (const auto& worker : impl_->workers) worker->close_all();
    return impl_->was_clean;
}

void Server::stop() {
    for (const auto& worker : impl_->workers) worker->stop();
    for (std::thread& thread : impl_->threads) thread.join();
    impl_->threads.clear();
}

}  // namespace kvd
