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

ClientMetric::Bucket bucket(std::uint64_t cumulative_count, double upper_bound) {
    ClientMetric::Bucket result;
    result.cumulative_count = cumulative_count;
    result.upper_bound = upper_bound;
    return result;
}

constexpr double infinity = std::numeric_limits<double>::infinity();

// StoreStats buckets count groups of at most 2^i operations, the last one all larger.
void add_group_sizes(std::vector<MetricFamily>& out, const char* name, const char* help,
                     const std::array<std::uint64_t, kv::StoreStats::group_buckets>& sizes, std::uint64_t groups,
                     std::uint64_t operations) {
    out.push_back(family(name, help, MetricType::Histogram));
    ClientMetric metric;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        sum += sizes[i];
        metric.histogram.bucket.push_back(
            bucket(sum, i + 1 == sizes.size() ? infinity : static_cast<double>(1u << i)));
    }
    metric.histogram.sample_count = groups;
    metric.histogram.sample_sum = static_cast<double>(operations);
    out.back().metric.push_back(std::move(metric));
}

void add_latency(std::vector<MetricFamily>& out, const char* name, const char* help,
                 const std::array<std::uint64_t, kv::StoreStats::latency_buckets>& counts, std::uint64_t microseconds) {
    out.push_back(family(name, help, MetricType::Histogram));
    ClientMetric metric;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        sum += counts[i];
        const std::uint64_t bound = kv::StoreStats::latency_bound_microseconds << i;
        metric.histogram.bucket.push_back(
            bucket(sum, i + 1 == counts.size() ? infinity : static_cast<double>(bound) / 1e6));
    }
    metric.histogram.sample_count = sum;
    metric.histogram.sample_sum = static_cast<double>(microseconds) / 1e6;
    out.back().metric.push_back(std::move(metric));
}

void add_bytes(std::vector<MetricFamily>& out, const char* name, const char* help, std::optional<std::uint64_t> bytes) {
    if (bytes) add_gauge(out, name, help, static_cast<double>(*bytes));
}

void add_storage(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_bytes(out, "kv_storage_wal_bytes", "Size of the write-ahead log", stats.storage.wal_bytes);
    add_bytes(out, "kv_storage_database_bytes", "Size of the database", stats.storage.database_bytes);
    add_bytes(out, "kv_storage_reusable_bytes", "Room in the database that erased rows left", stats.storage.reusable_bytes);
    add_bytes(out, "kv_disk_free_bytes", "Room on the disk of the database", stats.storage.disk_free_bytes);
    add_bytes(out, "kv_disk_bytes", "Size of the disk of the database", stats.storage.disk_bytes);
    add_bytes(out, "kv_disk_free_min_bytes", "With less room writes are refused; 0: no such guard", stats.disk_free_min);
}

void add_keys(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_gauge(out, "kv_data_key_seals_max", "Values sealed by the busiest data key",
              static_cast<double>(stats.data_key_seals_max));
    add_gauge(out, "kv_rekeying_namespaces", "Namespaces with values that a replaced data key seals",
              static_cast<double>(stats.rekeying_namespaces));
    add_gauge(out, "kv_master_key_rows_missing", "Stored keys that the master key in use does not wrap yet",
              static_cast<double>(stats.master_key_rows_missing));
}

void add_events(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_gauge(out, "kvd_watches", "Watchers of changes", static_cast<double>(stats.watches));
    add_counter(out, "kvd_events_removed_total", "Events that retention removed", stats.events_removed);
    if (stats.sinks.empty()) return;
    const auto add = [&](const char* name, const char* help, MetricType type, auto value_of) {
        out.push_back(family(name, help, type));
        for (const kv::StoreStats::Sink& sink : stats.sinks) out.back().metric.push_back(labelled(value_of(sink), {{"sink", sink.name}}));
    };
    using Sink = kv::StoreStats::Sink;
    // Of the one kvd that sends; the others know nothing of it.
    add("kvd_sink_owner", "Whether this kvd sends the events to the sink", MetricType::Gauge,
        [](const Sink& sink) { return gauge(sink.is_owner ? 1 : 0); });
    add("kvd_outbox_pending", "Events that the sink has not confirmed, as far as this kvd knows", MetricType::Gauge,
        [](const Sink& sink) { return gauge(static_cast<double>(sink.pending)); });
    add("kvd_outbox_oldest_pending_seconds", "Age of the oldest of them", MetricType::Gauge,
        [](const Sink& sink) { return gauge(sink.oldest_pending_seconds); });
    add("kvd_sink_delivered_total", "Events that the sink confirmed, repeats too", MetricType::Counter,
        [](const Sink& sink) { return counter(sink.delivered); });
    add("kvd_sink_failures_total", "Deliveries of which something did not arrive", MetricType::Counter,
        [](const Sink& sink) { return counter(sink.failures); });
}

void add_times(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_gauge(out, "kv_clock_skew_seconds", "How far the wall clock is ahead of the store's", stats.clock_skew_seconds);
    add_gauge(out, "kv_sweeper_lag_seconds", "Age of the oldest expired entry that was not swept yet",
              stats.sweeper_lag_seconds);
    // Absent without one: an age would have to be made up.
    if (stats.last_backup)
        add_gauge(out, "kv_last_backup_timestamp_seconds", "What the last complete backup shows, since the epoch",
                  std::chrono::duration<double>(stats.last_backup->time_since_epoch()).count());
}

void add_store(std::vector<MetricFamily>& out, const kv::StoreStats& stats) {
    add_group_sizes(out, "kv_commit_group_size", "Operations carried by one commit", stats.group_sizes, stats.groups,
                    stats.operations);
    add_group_sizes(out, "kv_read_group_size", "Reads answered by one query", stats.read_group_sizes, stats.read_groups,
                    stats.reads);
    add_latency(out, "kv_commit_seconds", "How long a storage write took", stats.commit_latency, stats.commit_microseconds);
    add_latency(out, "kv_audit_seconds", "How long the result of a read waited for its audit row", stats.audit_latency,
                stats.audit_microseconds);
    add_counter(out, "kv_commits_total", "Groups committed", stats.groups);
    add_counter(out, "kv_operations_total", "Operations carried by commits", stats.operations);
    add_counter(out, "kv_reads_total", "Reads answered", stats.reads);
    add_counter(out, "kv_groups_halved_total", "Groups halved to find the operation that failed", stats.groups_halved);
    add_counter(out, "kv_outcomes_unknown_total", "Operations answered outcome-unknown", stats.outcomes_unknown);
    add_counter(out, "kv_denials_total", "Requests refused for lack of a credential or a grant", stats.denials);
    add_counter(out, "kv_integrity_failures_total", "Entries that failed their integrity check",
                stats.integrity_failures);
    add_counter(out, "kv_overloaded_total", "Operations refused for lack of room", stats.overloaded);
    add_counter(out, "kv_expired_entries_total", "Entries whose time to live ran out", stats.expired_entries);
    add_counter(out, "kv_audit_rows_total", "Audit rows written", stats.audit_rows);
    add_gauge(out, "kv_bytes_in_flight", "Bytes of requests accepted and not yet answered",
              static_cast<double>(stats.bytes_in_flight));
    add_gauge(out, "kv_queue_length", "Operations waiting for a group", static_cast<double>(stats.queued));
    add_counter(out, "kv_denials_folded_total", "Denials that were counted in the audit row of others", stats.denials_folded);
    add_counter(out, "kv_audit_rows_removed_total", "Audit rows that retention removed", stats.audit_rows_removed);
    add_counter(out, "kv_audit_rows_archived_total", "Audit rows appended to the archive", stats.audit_rows_archived);
    add_counter(out, "kv_audit_archive_failures_total", "Times the archive could not be written", stats.audit_archive_failures);
    add_counter(out, "kv_audit_removals_forbidden_total",
                "Times audit rows were due to be removed and the database's role may remove none", stats.audit_removals_forbidden);
    add_storage(out, stats);
    add_keys(out, stats);
    add_events(out, stats);
    add_times(out, stats);
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
        if (metrics_.sources_.store) {
            add_store(out, metrics_.sources_.store());
            out.push_back(family("kvd_build_info", "What runs here", MetricType::Gauge));
            out.back().metric.push_back(labelled(gauge(1), {{"version", metrics_.build_.version},
                                                            {"key_id", metrics_.build_.key_id},
                                                            {"crypto", metrics_.build_.crypto}}));
        }
        if (metrics_.sources_.ready) add_ready(out);
        if (metrics_.sources_.audit_copy) add_audit_copy(out);
        if (metrics_.sources_.amqp) add_amqp(out);
        if (metrics_.sources_.permissions) add_permissions(out);
        if (metrics_.sources_.jwt_keys) add_keys(out);
        if (metrics_.sources_.certificate_end) add_certificate(out);
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
                metric.histogram.bucket.push_back(
                    bucket(sum, at < latency_bounds.size() ? seconds(latency_bounds[at]) : infinity));
            }
            if (sum == 0) continue;
            metric.histogram.sample_count = sum;
            metric.histogram.sample_sum = seconds(operation.nanoseconds.load(std::memory_order_relaxed));
            out.back().metric.push_back(labelled(std::move(metric), {{"operation", metrics_.names_[i]}}));
        }
    }

    void add_ready(std::vector<MetricFamily>& out) const {
        const kv::Result<void> ready = metrics_.sources_.ready();
        out.push_back(family("kvd_ready", "Whether requests are served, and the code if not", MetricType::Gauge));
        out.back().metric.push_back(
            labelled(gauge(ready ? 1 : 0), {{"code", ready ? "ready" : std::string(kv::code_name(ready.error().code))}}));
    }

    void add_audit_copy(std::vector<MetricFamily>& out) const {
        const AuditCopyStats stats = metrics_.sources_.audit_copy();
        add_counter(out, "kvd_audit_copy_rows_total", "Audit rows copied", stats.rows);
        add_counter(out, "kvd_audit_copy_dropped_total", "Audit rows that were not, there being no room to wait in",
                    stats.dropped);
        add_counter(out, "kvd_audit_copy_failures_total", "Times the copy could not be written", stats.failures);
        add_bytes(out, "kvd_audit_copy_waiting_bytes", "Audit rows that wait to be copied", stats.bytes_waiting);
    }

    void add_amqp(std::vector<MetricFamily>& out) const {
        const AmqpStats stats = metrics_.sources_.amqp();
        add_counter(out, "kvd_amqp_published_total", "Messages sent to RabbitMQ, repeats too", stats.published);
        add_counter(out, "kvd_amqp_confirmed_total", "Messages that RabbitMQ confirmed and a queue took", stats.confirmed);
        add_counter(out, "kvd_amqp_returned_total", "Messages that no queue took", stats.returned);
        add_counter(out, "kvd_amqp_nacked_total", "Messages that RabbitMQ refused", stats.nacked);
        add_counter(out, "kvd_amqp_reconnects_total", "Connections to RabbitMQ after the first", stats.reconnects);
        add_gauge(out, "kvd_amqp_connected", "Whether there is a connection to RabbitMQ", stats.is_connected ? 1 : 0);
        add_gauge(out, "kvd_amqp_blocked", "Whether RabbitMQ raised an alarm and takes nothing", stats.is_blocked ? 1 : 0);
    }

    void add_permissions(std::vector<MetricFamily>& out) const {
        const PermissionStats stats = metrics_.sources_.permissions();
        add_counter(out, "kvd_permission_requests_total", "Times the permission service was asked", stats.asked);
        add_counter(out, "kvd_permission_failures_total", "Times it gave no answer, or none that is one: denied", stats.failures);
    }

    void add_keys(std::vector<MetricFamily>& out) const {
        const KeyStats stats = metrics_.sources_.jwt_keys();
        add_counter(out, "kvd_jwt_key_refreshes_total", "Times the key set for JWTs was asked for", stats.refreshes);
        add_counter(out, "kvd_jwt_key_failures_total", "Times it could not be had and the old one was kept", stats.failures);
        add_gauge(out, "kvd_jwt_keys_ready", "Whether there is one: without it JWTs are refused with 503", stats.has_keys ? 1 : 0);
    }

    void add_certificate(std::vector<MetricFamily>& out) const {
        add_gauge(out, "kvd_tls_certificate_expiry_timestamp_seconds", "When our certificate ends, since the epoch",
                  std::chrono::duration<double>(metrics_.sources_.certificate_end().time_since_epoch()).count());
        add_counter(out, "kvd_tls_reload_failures_total", "Times certificate or key did not read and the old ones were kept",
                    metrics_.tls_reload_failures);
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
        add_gauge(out, "kvd_body_bytes_in_flight", "Bytes of requests not yet answered and of answers not yet sent",
                  static_cast<double>(m.bytes_of_bodies));
        add_counter(out, "kvd_answers_dropped_total", "Answers to reads that found no room and became overloaded",
                    m.answers_dropped);
        add_counter(out, "kvd_tls_handshake_failures_total", "Connections that ended before TLS was agreed upon", m.handshake_failures);
        add_counter(out, "kvd_rate_limited_total", "Requests refused because their caller or address asked too often", m.rate_limited);
        add_counter(out, "kvd_failed_logins_total", "Requests without a good credential where one is needed", m.failed_logins);
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
    for (const char* extra : {"none", "health", "metrics", "preflight"}) names_.emplace_back(extra);
    operations_ = std::make_unique<Operation[]>(names_.size());
}

Metrics::~Metrics() = default;

std::size_t Metrics::operation_of(Extra extra) noexcept { return route_table().size() + extra; }

void Metrics::request(std::size_t operation, unsigned status, std::chrono::nanoseconds took, bool is_timed) noexcept {
    Operation& counts = operations_[operation];
    counts.by_status[status - 100].fetch_add(1, std::memory_order_relaxed);
    if (!is_timed) return;
    const auto nanoseconds = static_cast<std::uint64_t>(took.count());
    const auto* bound = std::lower_bound(latency_bounds.begin(), latency_bounds.end(), nanoseconds);
    counts.by_latency[static_cast<std::size_t>(bound - latency_bounds.begin())].fetch_add(1, std::memory_order_relaxed);
    counts.nanoseconds.fetch_add(nanoseconds, std::memory_order_relaxed);
}

void Metrics::set_sources(Build build, Sources sources) {
    build_ = std::move(build);
    sources_ = std::move(sources);
}

std::string Metrics::render() const { return prometheus::TextSerializer().Serialize(Collector(*this).Collect()); }

}  // namespace kvd
