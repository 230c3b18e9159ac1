#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kv/result.h"

namespace kvd {

class Log;
class Metrics;
class Service;
class Tls;
struct SessionLimits;

// Where to listen: an address literal and a port, which may be 0; or the path of a Unix socket.
struct Endpoint {
    std::string address;
    std::uint16_t port = 0;
    std::string path = {};  // of a Unix socket; then there is no address
    bool is_tls = false;

    bool is_unix() const noexcept { return !path.empty(); }
    bool is_loopback() const;  // a Unix socket counts as such
    // "127.0.0.1:8420", "[::1]:8420", "localhost:8420" (which is 127.0.0.1), "unix:/run/kvd/kvd.sock".
    static kv::Result<Endpoint> parse(const std::string& text);
    // Several, with commas between them.
    static kv::Result<std::vector<Endpoint>> parse_list(const std::string& text);
    // "http://[::1]:8420", "https://...", "unix:/run/kvd/kvd.sock"
    std::string url() const;
};

// Server owns the listeners and the threads that serve their connections: one per core for the API, and the caller's own
// for accepting, signals and the operator's listener, so that metrics answer however busy the API is.
//
// Threads: one. Ownership: everything given is borrowed.
class Server {
public:
    struct Options {
        std::size_t threads = 1;
        std::size_t connections_max = 10'000;
        std::size_t admin_connections_max = 100;
        std::chrono::milliseconds drain_timeout = std::chrono::seconds(30);
        bool logs_requests = false;
        const Tls* tls = nullptr;
    };
    struct Hooks {
        std::function<void()> on_hangup;  // SIGHUP
        std::function<void()> on_drain;   // the first SIGTERM or SIGINT
        std::function<void()> on_minute;
        std::function<void()> on_second;
    };

    Server(const Options& options, const SessionLimits& limits, Metrics& metrics, Log& log);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Bind and listen; give the endpoint with the port the system picked. listen() may be called for several, of one service. Those
    // that are marked so are under `tls`, which is borrowed. A Unix socket is made for owner and group.
    kv::Result<Endpoint> listen(const Endpoint& endpoint, Service& service);
    kv::Result<Endpoint> listen_admin(const Endpoint& endpoint, Service& service);

    // Serves until SIGTERM or SIGINT, then until what is in flight is answered or drain_timeout is over. A second signal
    // ends the process at once. True if nothing was cut short.
    bool run(Hooks hooks);
    // The threads end. What the store completes from then on is dropped.
    void stop();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace kvd
