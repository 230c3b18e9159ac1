#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kv/store.h"

namespace kvd {

// Metrics counts what the transport does and renders it, with the store's figures, as Prometheus text. No label holds a
// key path, a name or a user. Threads: any; counting is a few relaxed additions.
class Metrics {
public:
    // Operations that no row of the route table names.
    enum Extra : std::size_t { no_route, health, metrics, preflight, extra_count };

    struct Build {
        std::string version;
        std::string key_id;
        std::string crypto;
    };

    // Operations are numbered as in route_table(), the extra ones behind.
    Metrics();
    ~Metrics();

    static std::size_t operation_of(Extra extra) noexcept;
    const std::string& name_of(std::size_t operation) const noexcept { return names_[operation]; }

    // `is_timed`: how long it took counts.
    void request(std::size_t operation, unsigned status, std::chrono::nanoseconds took, bool is_timed = true) noexcept;

    std::atomic<std::uint64_t> connections{0};
    std::atomic<std::uint64_t> connections_accepted{0};
    std::atomic<std::uint64_t> connections_refused{0};
    std::atomic<std::uint64_t> accept_failures{0};
    std::atomic<std::uint64_t> handshake_failures{0};  // of TLS
    std::atomic<std::uint64_t> framing_errors{0};
    std::atomic<std::uint64_t> timeouts{0};
    std::atomic<std::uint64_t> exceptions{0};
    std::atomic<std::uint64_t> bytes_of_bodies{0};  // of requests received and not yet answered, and of answers not yet sent
    std::atomic<std::uint64_t> answers_dropped{0};  // to reads, there being no room for them
    std::atomic<std::uint64_t> rate_limited{0};
    std::atomic<std::uint64_t> failed_logins{0};
    std::atomic<std::uint64_t> token_reloads{0};
    std::atomic<std::uint64_t> token_reload_failures{0};
    std::atomic<std::uint64_t> tls_reload_failures{0};

    // Of the copy of the audit log.
    struct AuditCopyStats {
        std::uint64_t rows = 0;     // written
        std::uint64_t dropped = 0;  // there being no room for them
        std::uint64_t failures = 0;
        std::uint64_t bytes_waiting = 0;
    };

    // Of the sink that sends events to RabbitMQ.
    struct AmqpStats {
        std::uint64_t published = 0;   // messages, repeats too
        std::uint64_t confirmed = 0;   // by the broker, and taken by a queue
        std::uint64_t returned = 0;    // for want of a queue that takes them
        std::uint64_t nacked = 0;      // refused by the broker
        std::uint64_t reconnects = 0;  // connections made after the first
        bool is_connected = false;
        bool is_blocked = false;  // the broker has raised an alarm and takes nothing
    };

    // Of the permission service.
    struct PermissionStats {
        std::uint64_t asked = 0;
        std::uint64_t failures = 0;
    };

    // Of the key set for JWTs.
    struct KeyStats {
        std::uint64_t refreshes = 0;
        std::uint64_t failures = 0;
        bool has_keys = false;
    };

    // What others count. From then on render() includes it. Called once, before anything renders; null: not there.
    struct Sources {
        std::function<kv::StoreStats()> store;
        std::function<kv::Result<void>()> ready;
        std::function<AuditCopyStats()> audit_copy;
        std::function<AmqpStats()> amqp;
        std::function<PermissionStats()> permissions;
        std::function<KeyStats()> jwt_keys;
        std::function<kv::Time()> certificate_end;  // of the one that we show
    };
    void set_sources(Build build, Sources sources);
    std::string render() const;

private:
    static constexpr std::size_t status_count = 500;  // 100..599
    static constexpr std::size_t bucket_count = 16;   // of the latency histogram, the last one open
    struct Operation {
        std::array<std::atomic<std::uint64_t>, status_count> by_status{};
        std::array<std::atomic<std::uint64_t>, bucket_count> by_latency{};
        std::atomic<std::uint64_t> nanoseconds{0};
    };
    class Collector;

    std::vector<std::string> names_;  // of the operations
    std::unique_ptr<Operation[]> operations_;
    std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
    Build build_;
    Sources sources_;
};

}  // namespace kvd
