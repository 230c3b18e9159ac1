#include "kvd/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <utility>

#include "kvd/routes.h"

namespace kvd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Upper bounds in nanoseconds: 50 µs, where a memory read ends, to 10 s.
constexpr std::array<std::uint64_t, 15> latency_bounds = {
    50'000,     100'000,    250'000,     500'000,     1'000'000,     2'500'000,     5'000'000,     10'000'000,
    25'000'000, 50'000'000, 100'000'000, 500'000'000, 1'000'000'000, 5'000'000'000, 10'000'000'000};

double seconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }

MetricFamily family(const char* name, const char* help, MetricType type) {
    MetricFamily result;
    result.name = name;
    result.help = help;
    result.type = type;
    return result;
}

ClientMetric counter(std::uint64_t value) {
    ClientMetric metric;
    metric.counter.value = static_cast<double>(value);
    return metric;
}

ClientMetric gauge(double value) {
    ClientMetric metric;
    metric.gauge.value = value;
    return metric;
}

ClientMetric labelled(ClientMetric metric, std::initializer_list<std::pair<const char*, std::string>> labels) {
    for (const auto& [name, value] : labels) {
        ClientMetric::Label label;
        label.name = name;
        label.value = value;
        metric.label.push_back(std::move(label));
    }
    return metric;
}

void add_counter(std::vector<MetricFamily>& out, const char* name, const char* help, std::uint64_t value) {
    out.push_back(family(name, help, MetricType::Counter));
    out.back().metric.push_back(counter(value));
}

void add_gauge(std::vector<MetricFamily>& out, const char* name, const char* help, double value) {
    out.push_back(family(name, help, MetricType::Gauge));
    out.back().metric.push_back(gauge(value));
}

// StoreStats buckets count groups of at most 2^i operations, the last one all larger.
void add_group_sizes(std::vector<MetricFamily>& out, const char* name, const char* help,
                     const std::array<std::uint64_t, kv::StoreStats::group_buckets>& sizes, std::uint64_t groups,
                     std::uint64_t operations) {
    out.push_back(family(name, help, MetricType::Histogram));
    ClientMetric metric;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        sum += sizes[i];
        ClientMetric::Bucket bucket;
        bucket.cumulative_count = sum;
        bucket.upper_bound =
            i + 1 == sizes.size() ? std::numeric_limits<double>::infinity() : static_cast<double>(1u << i);
        metric.histogram.bucket.push_back(bucket);
    }
    metric.histogram.sample_count = groups;
    metric.histogram.sample_sum = static_cast<double>(operations);
    out.back().metric.push_back(std::move(metric));
}

void add_store(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_group_sizes(out, "kv_commit_group_size", "Operations carried by one commit", stats.group_sizes, stats.groups,
                    stats.operations);
    add_group_sizes(out, "kv_read_group_size", "Reads answered by one query", stats.read_group_sizes, stats.read_groups,
                    stats.reads);
    out.push_back(family("kv_commit_seconds_total", "Time spent in storage writes", MetricType::Counter));
    out.back().metric.push_back(counter(0));
    out.back().metric.back().counter.value = static_cast<double>(stats.commit_microseconds) / 1e6;
    add_counter(out, "kv_commits_total", "Groups committed", stats.groups);
    add_counter(out, "kv_operations_total", "Operations carried by commits", stats.operations);
    add_counter(out, "kv_reads_total", "Reads answered", stats.reads);
    add_counter(out, "kv_groups_halved_total", "Groups halved to find the operation that failed", stats.groups_halved);
    add_counter(out, "kv_outcomes_unknown_total", "Operations answered outcome-unknown", stats.outcomes_unknown);
    add_counter(out, "kv_denials_total", "Operations refused for lack of a grant", stats.denials);
    add_counter(out, "kv_integrity_failures_total", "Entries that failed their integrity check",
                stats.integrity_failures);
    add_counter(out, "kv_overloaded_total", "Operations refused for lack of room", stats.overloaded);
    add_counter(out, "kv_expired_entries_total", "Entries whose time to live ran out", stats.expired_entries);
    add_counter(out, "kv_audit_rows_total", "Audit rows written", stats.audit_rows);
    add_gauge(out, "kv_bytes_in_flight", "Bytes of requests accepted and not yet answered",
              static_cast<double>(stats.bytes_in_flight));
    add_gauge(out, "kv_queue_length", "Operations waiting for a group", static_cast<double>(stats.queued));
    add_gauge(out, "kv_storage_wal_bytes", "Size of the write-ahead log", static_cast<double>(stats.storage.wal_bytes));
    add_gauge(out, "kv_storage_database_bytes", "Size of the database",
              static_cast<double>(stats.storage.database_bytes));
}

}  // namespace

// One snapshot of everything, in the form prometheus-cpp serializes.
class Metrics::Collector final : public prometheus::Collectable {
public:
    explicit Collector(const Metrics& metrics) : metrics_(metrics) {}

    std::vector<MetricFamily> Collect() const override {
        std::vector<MetricFamily> out;
        add_requests(out);
        add_latencies(out);
        add_transport(out);
        if (metrics_.stats_) {
            add_store(out, metrics_.stats_());
            out.push_back(family("kvd_build_info", "What runs here", MetricType::Gauge));
            out.back().metric.push_back(labelled(gauge(1), {{"version", metrics_.build_.version},
                                                            {"key_id", metrics_.build_.key_id},
                                                            {"crypto", metrics_.build_.crypto}}));
        }
        return out;
    }

private:
    void add_requests(std::vector<MetricFamily>& out) const {
        out.push_back(family("kvd_requests_total", "Requests answered", MetricType::Counter));
        for (std::size_t i = 0; i < metrics_.names_.size(); ++i) {
            const Operation& operation = metrics_.operations_[i];
            for (std::size_t status = 0; status < status_count; ++status) {
                const std::uint64_t count = operation.by_status[status].load(std::memory_order_relaxed);
                if (count == 0) continue;
                out.back().metric.push_back(labelled(
                    counter(count), {{"operation", metrics_.names_[i]}, {"status", std::to_string(status + 100)}}));
            }
        }
    }

    void add_latencies(std::vector<MetricFamily>& out) const {
        out.push_back(
            family("kvd_request_seconds", "From the end of a request's header to its answer", MetricType::Histogram));
        for (std::size_t i = 0; i < metrics_.names_.size(); ++i) {
            const Operation& operation = metrics_.operations_[i];
            ClientMetric metric;
            std::uint64_t sum = 0;
            for (std::size_t at = 0; at < bucket_count; ++at) {
                sum += operation.by_latency[at].load(std::memory_order_relaxed);
                ClientMetric::Bucket bucket;
                bucket.cumulative_count = sum;
                bucket.upper_bound =
                    at < latency_bounds.size() ? seconds(latency_bounds[at]) : std::numeric_limits<double>::infinity();
                metric.histogram.bucket.push_back(bucket);
            }
            if (sum == 0) continue;
            metric.histogram.sample_count = sum;
            metric.histogram.sample_sum = seconds(operation.nanoseconds.load(std::memory_order_relaxed));
            out.back().metric.push_back(labelled(std::move(metric), {{"operation", metrics_.names_[i]}}));
        }
    }

    void add_transport(std::vector<MetricFamily>& out) const {
        const Metrics& m = metrics_;
        add_gauge(out, "kvd_connections", "Open connections", static_cast<double>(m.connections));
        add_counter(out, "kvd_connections_accepted_total", "Connections accepted", m.connections_accepted);
        add_counter(out, "kvd_connections_refused_total", "Connections turned away, there being too many",
                    m.connections_refused);
        add_counter(out, "kvd_accept_failures_total", "Connections that could not be accepted", m.accept_failures);
        add_counter(out, "kvd_framing_errors_total", "Requests refused for how they were framed", m.framing_errors);
        add_counter(out, "kvd_timeouts_total", "Connections closed for being too slow", m.timeouts);
        add_counter(out, "kvd_exceptions_total", "Exceptions caught in a session", m.exceptions);
        add_gauge(out, "kvd_body_bytes_in_flight", "Bytes of bodies received and not yet answered",
                  static_cast<double>(m.bytes_of_bodies));
        add_counter(out, "kvd_token_reloads_total", "Times the tokens file was read again", m.token_reloads);
        add_counter(out, "kvd_token_reload_failures_total", "Times it did not read and the old one was kept",
                    m.token_reload_failures);
        add_gauge(out, "process_start_time_seconds", "Start of the process since the epoch",
                  std::chrono::duration<double>(m.started_.time_since_epoch()).count());
    }

    const Metrics& metrics_;
};

Metrics::Metrics() {
    for (const Route& route : route_table()) names_.emplace_back(route.operation);
    for (const char* extra : {"none", "health", "metrics"}) names_.emplace_back(extra);
    operations_ = std::make_unique<Operation[]>(names_.size());
}

Metrics::~Metrics() = default;

std::size_t Metrics::operation_of(Extra extra) noexcept { return route_table().size() + extra; }

void Metrics::request(std::size_t operation, unsigned status, std::chrono::nanoseconds took) noexcept {
    Operation& counts = operations_[operation];
    const auto nanoseconds = static_cast<std::uint64_t>(took.count());
    const auto* bound = std::lower_bound(latency_bounds.begin(), latency_bounds.end(), nanoseconds);
    counts.by_status[status - 100].fetch_add(1, std::memory_order_relaxed);
    counts.by_latency[static_cast<std::size_t>(bound - latency_bounds.begin())].fetch_add(1, std::memory_order_relaxed);
    counts.nanoseconds.fetch_add(nanoseconds, std::memory_order_relaxed);
}

void Metrics::set_store(Build build, std::function<kv::StoreStats()> stats) {
    build_ = std::move(build);
    stats_ = std::move(stats);
}

std::string Metrics::render() const { return prometheus::TextSerializer().Serialize(Collector(*this).Collect()); }

}  // namespace kvd
