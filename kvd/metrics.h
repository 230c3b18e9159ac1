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
    enum Extra : std::size_t { no_route, health, metrics, extra_count };

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

    void request(std::size_t operation, unsigned status, std::chrono::nanoseconds took) noexcept;

    std::atomic<std::uint64_t> connections{0};
    std::atomic<std::uint64_t> connections_accepted{0};
    std::atomic<std::uint64_t> connections_refused{0};
    std::atomic<std::uint64_t> accept_failures{0};
    std::atomic<std::uint64_t> framing_errors{0};
    std::atomic<std::uint64_t> timeouts{0};
    std::atomic<std::uint64_t> exceptions{0};
    std::atomic<std::uint64_t> bytes_of_bodies{0};  // received and not yet answered
    std::atomic<std::uint64_t> token_reloads{0};
    std::atomic<std::uint64_t> token_reload_failures{0};

    // From then on render() includes the store's figures. Called once, before anything renders.
    void set_store(Build build, std::function<kv::StoreStats()> stats);
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
    std::function<kv::StoreStats()> stats_;
};

}  // namespace kvd
