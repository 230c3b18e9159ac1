#include "kvd/amqp_sink.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "kvd/amqp_connection.h"
#include "kvd/amqp_job.h"
#include "kvd/log.h"

namespace kvd {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto delivery_time_max = 4500ms;
constexpr auto connection_grace = 500ms;  // that a delivery waits for a connection in the making
constexpr auto retry_min = 100ms;
constexpr auto retry_max = 10'000ms;
constexpr auto steady_after = 5000ms;  // a connection that held so long is no reason to wait before the next
constexpr auto tick = 1000ms;          // for heartbeats, while nothing happens
constexpr auto hang_after = 10'000ms;
constexpr auto stop_time_max = 2000ms;
constexpr int publishes_between_pumps = 32;

kv::Error unavailable(std::string what) { return {kv::Errc::unavailable, std::move(what)}; }
kv::Error stopping() { return {kv::Errc::shutting_down, "the sink is being stopped"}; }
kv::Error alarm() { return unavailable("RabbitMQ raised an alarm and takes no messages: see its memory and its disk"); }

void ring(int wake) {
    const std::uint64_t once = 1;
    // It fails only where the bell rings already.
    [[maybe_unused]] const ssize_t size = ::write(wake, &once, sizeof once);
}

}  // namespace

// What the callers and the thread share.
struct AmqpSink::State final : AmqpListener {
    State(AmqpSettings given, Log& log_given) : settings(std::move(given)), log(&log_given), wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (wake < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    ~State() override { ::close(wake); }

    // ---- the callers ----
    kv::Result<void> deliver(std::span<const kv::Event> events, std::vector<bool>& confirmed);
    void stop();
    bool await_end(std::chrono::milliseconds patience);
    bool hangs() const;

    // ---- the thread ----
    void run();
    bool connect_and_serve();
    kv::Result<void> serve(AmqpConnection& connection);
    kv::Result<void> publish(AmqpConnection& connection);
    void await_something(const AmqpConnection& connection) const;
    bool pause(std::chrono::milliseconds length);
    void end_job(kv::Result<void> how);
    void on_confirm(std::uint64_t tag, bool is_multiple, bool is_taken) override;
    void on_return(std::string_view message_id) override;
    void note_connected();
    void note_lost(kv::Error why);
    void note_unreached(const kv::Error& why);
    void note_blocked(const AmqpConnection& connection);
    void note_arrivals();
    void say(kv::LogLevel level, std::string_view message, Log::Fields fields);

    const AmqpSettings settings;
    AmqpBreaker breaker;
    std::mutex log_mutex;
    Log* log;  // null: whoever owns it is gone
    const int wake;

    std::mutex mutex;  // guards what follows, and what is in the job
    std::condition_variable changed;
    bool is_stopping = false;
    bool has_ended = false;
    std::string away = "not connected yet";
    std::optional<kv::Error> given_up;        // why a delivery cut the connection
    std::shared_ptr<AmqpJob> job;             // shared because a delivery goes without its thread if that hangs
    std::optional<kv::Result<void>> outcome;  // of the job

    std::atomic<bool> is_connected{false};
    std::atomic<bool> is_blocked{false};
    std::atomic<std::uint64_t> published{0};
    std::atomic<std::uint64_t> taken{0};
    std::atomic<std::uint64_t> returned{0};
    std::atomic<std::uint64_t> nacked{0};
    std::atomic<std::uint64_t> connections{0};
    std::atomic<steady_clock::rep> last_turn{0};  // of the thread while it serves

    std::size_t window = AmqpJob::window_max;  // of the callers' side: one delivers at a time

    // The thread's own.
    std::shared_ptr<AmqpJob> current;
    std::chrono::milliseconds retry = retry_min;
    std::set<std::string> logged_reasons;  // since it was connected last
    std::string unroutable;                // what came back and was logged: a routing key without its last word
    bool has_logged_refusals = false;
    std::minstd_rand random{std::random_device{}()};
};

// ---- the callers ----

kv::Result<void> AmqpSink::State::deliver(std::span<const kv::Event> events, std::vector<bool>& confirmed) {
    const auto mine = std::make_shared<AmqpJob>(events, settings.hides_keys, settings.drops_unroutable, window);
    std::unique_lock lock(mutex);
    changed.wait_for(lock, connection_grace, [&] { return is_stopping || is_connected; });
    if (is_stopping) return stopping();
    if (!is_connected) return unavailable("RabbitMQ is away: " + away);
    if (hangs()) breaker.cut();
    if (is_blocked) return alarm();
    job = mine;
    outcome.reset();
    ring(wake);
    changed.wait_for(lock, delivery_time_max, [&] { return is_stopping || outcome; });
    job.reset();
    for (std::size_t i = 0; i < mine->size(); ++i) confirmed[i] = mine->is_confirmed(i);
    window = mine->has_refusals() ? 1 : mine->window();
    if (outcome) return *std::exchange(outcome, std::nullopt);
    if (is_stopping) return stopping();
    given_up = unavailable("it did not confirm everything in time");
    breaker.cut();
    return given_up.value();
}

// It waits in the library, which no time-out ends.
bool AmqpSink::State::hangs() const {
    const steady_clock::time_point seen{steady_clock::duration(last_turn.load())};
    return steady_clock::now() - seen > hang_after;
}

void AmqpSink::State::stop() {
    std::lock_guard lock(mutex);
    is_stopping = true;
    changed.notify_all();
    ring(wake);
}

bool AmqpSink::State::await_end(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, patience, [&] { return has_ended; });
}

// ---- the thread ----

void AmqpSink::State::run() {
    bool goes_on = true;
    while (goes_on) {
        try {
            goes_on = connect_and_serve();
        } catch (const std::exception&) {
            current.reset();
            note_lost(unavailable("there was no memory for it"));
        }
        std::uniform_int_distribution<std::int64_t> half_to_whole(retry.count() / 2, retry.count());
        goes_on = goes_on && pause(std::chrono::milliseconds(half_to_whole(random)));
        retry = std::min<std::chrono::milliseconds>(retry * 2, retry_max);
    }
    std::lock_guard lock(mutex);
    has_ended = true;
    changed.notify_all();
}

// False: the sink is to stop.
bool AmqpSink::State::connect_and_serve() {
    auto connection = AmqpConnection::open(settings, breaker);
    if (!connection) {
        note_unreached(connection.error());
        return true;
    }
    note_connected();
    const auto began = steady_clock::now();
    const std::uint64_t taken_before = taken;
    kv::Result<void> served = serve(**connection);
    if (served) {
        (*connection)->close();
        is_connected = false;
        return false;
    }
    current.reset();
    note_lost(std::move(served).error());
    if (steady_clock::now() - began >= steady_after || taken != taken_before) retry = retry_min;
    return true;
}

// Until the sink is to stop, or the connection is of no use any more.
kv::Result<void> AmqpSink::State::serve(AmqpConnection& connection) {
    for (;;) {
        last_turn = steady_clock::now().time_since_epoch().count();
        KV_CHECK(connection.pump(*this));
        note_blocked(connection);
        {
            std::lock_guard lock(mutex);
            if (is_stopping) return {};
            current = outcome ? nullptr : job;
        }
        if (current && is_blocked) {
            end_job(alarm());
        } else if (current) {
            KV_CHECK(publish(connection));
            if (connection.is_blocked()) continue;
            std::unique_lock lock(mutex);
            const bool is_done = current->is_done();
            lock.unlock();
            if (is_done) end_job({});
        }
        await_something(connection);
    }
}

kv::Result<void> AmqpSink::State::publish(AmqpConnection& connection) {
    for (int count = 1;; ++count) {
        const AmqpConnection::Message* message = nullptr;
        {
            std::lock_guard lock(mutex);
            message = current->next();
        }
        if (message == nullptr) return {};
        KV_TRY(const std::uint64_t tag, connection.publish(*message));
        published.fetch_add(1, std::memory_order_relaxed);
        {
            std::lock_guard lock(mutex);
            current->published(tag);
        }
        if (count % publishes_between_pumps != 0) continue;
        KV_CHECK(connection.pump(*this));
        if (connection.is_blocked()) return {};
    }
}

void AmqpSink::State::await_something(const AmqpConnection& connection) const {
    std::array<pollfd, 2> waited = {pollfd{wake, POLLIN, 0}, pollfd{connection.socket(), POLLIN, 0}};
    ::poll(waited.data(), waited.size(), connection.has_more() ? 0 : static_cast<int>(tick.count()));
    std::uint64_t rings = 0;
    if (waited[0].revents != 0 && ::read(wake, &rings, sizeof rings) < 0 && errno != EAGAIN)
        throw std::system_error(errno, std::generic_category(), "eventfd");
}

// False: the sink is to stop.
bool AmqpSink::State::pause(std::chrono::milliseconds length) {
    std::unique_lock lock(mutex);
    return !changed.wait_for(lock, length, [&] { return is_stopping; });
}

void AmqpSink::State::end_job(kv::Result<void> how) {
    note_arrivals();
    std::lock_guard lock(mutex);
    if (job == current) outcome = std::move(how);
    current.reset();
    changed.notify_all();
}

void AmqpSink::State::on_confirm(std::uint64_t tag, bool is_multiple, bool is_taken) {
    if (!current) return;  // of a delivery that was given up
    AmqpJob::Counts counts;
    {
        std::lock_guard lock(mutex);
        counts = current->confirm(tag, is_multiple, is_taken);
    }
    taken.fetch_add(counts.taken, std::memory_order_relaxed);
    nacked.fetch_add(counts.refused, std::memory_order_relaxed);
    if (counts.refused == 0 || has_logged_refusals) return;
    has_logged_refusals = true;
    say(kv::LogLevel::warning, "RabbitMQ refuses events, which wait: is a queue full?", {{"exchange", settings.exchange}});
}

void AmqpSink::State::on_return(std::string_view message_id) {
    returned.fetch_add(1, std::memory_order_relaxed);
    if (!current) return;
    std::string key;
    {
        std::lock_guard lock(mutex);
        if (const std::string* found = current->returned(message_id)) key = *found;
    }
    if (key.empty() || !unroutable.empty()) return;
    unroutable = key.substr(0, key.rfind('.') + 1);
    say(kv::LogLevel::warning,
        settings.drops_unroutable ? "events that no queue takes are dropped: bind a queue to the exchange"
                                  : "no queue takes events, which wait: bind a queue to the exchange",
        {{"exchange", settings.exchange}, {"routingKey", key}});
}

// ---- what the log is told: each change once ----

void AmqpSink::State::say(kv::LogLevel level, std::string_view message, Log::Fields fields) {
    std::lock_guard lock(log_mutex);
    if (log != nullptr) log->write(level, message, fields);
}

void AmqpSink::State::note_connected() {
    connections.fetch_add(1, std::memory_order_relaxed);
    logged_reasons.clear();
    say(kv::LogLevel::info, "connected to RabbitMQ", {{"broker", settings.place()}, {"exchange", settings.exchange}});
    last_turn = steady_clock::now().time_since_epoch().count();
    std::lock_guard lock(mutex);
    given_up.reset();
    is_connected = true;
    changed.notify_all();
}

void AmqpSink::State::note_lost(kv::Error why) {
    {
        std::lock_guard lock(mutex);
        if (given_up) why = *std::exchange(given_up, std::nullopt);
        is_connected = false;
        is_blocked = false;
        away = why.message;
        if (job && !outcome) outcome = unavailable("the connection to RabbitMQ was lost: " + why.message);
        changed.notify_all();
    }
    say(kv::LogLevel::warning, "the connection to RabbitMQ was lost: events wait", {{"broker", settings.place()}, {"reason", why.message}});
    if (!why.detail.empty()) say(kv::LogLevel::debug, "RabbitMQ said", {{"text", why.detail}});
}

void AmqpSink::State::note_unreached(const kv::Error& why) {
    {
        std::lock_guard lock(mutex);
        away = why.message;
    }
    if (!logged_reasons.insert(why.message).second) return;
    say(kv::LogLevel::warning, "RabbitMQ is away: events wait", {{"broker", settings.place()}, {"reason", why.message}});
    if (!why.detail.empty()) say(kv::LogLevel::debug, "RabbitMQ said", {{"text", why.detail}});
}

void AmqpSink::State::note_blocked(const AmqpConnection& connection) {
    if (is_blocked.exchange(connection.is_blocked()) == connection.is_blocked()) return;
    if (connection.is_blocked())
        say(kv::LogLevel::warning, "RabbitMQ raised an alarm: events wait", {{"reason", connection.blocked_reason()}});
    else
        say(kv::LogLevel::info, "RabbitMQ takes messages again", {});
}

void AmqpSink::State::note_arrivals() {
    if (unroutable.empty() && !has_logged_refusals) return;
    std::unique_lock lock(mutex);
    const bool is_routed = !unroutable.empty() && current->has_arrived(unroutable);
    const bool is_taken = has_logged_refusals && current->count(AmqpJob::Outcome::refused) == 0 && current->count(AmqpJob::Outcome::taken) > 0;
    lock.unlock();
    if (is_routed) {
        unroutable.clear();
        say(kv::LogLevel::info, "a queue takes events again", {{"exchange", settings.exchange}});
    }
    if (is_taken) {
        has_logged_refusals = false;
        say(kv::LogLevel::info, "RabbitMQ refuses no events any more", {{"exchange", settings.exchange}});
    }
}

// ---- AmqpSink ----

AmqpSink::AmqpSink(AmqpSettings settings, Log& log)
    : state_(std::make_shared<State>(std::move(settings), log)), thread_([state = state_] { state->run(); }) {}

AmqpSink::~AmqpSink() {
    state_->stop();
    bool has_ended = state_->await_end(stop_time_max);
    if (!has_ended) {
        state_->breaker.cut();
        has_ended = state_->await_end(stop_time_max);
    }
    if (has_ended) {
        thread_.join();
        return;
    }
    std::lock_guard lock(state_->log_mutex);
    state_->log = nullptr;
    thread_.detach();
}

const std::string& AmqpSink::name() const {
    static const std::string name = "amqp";
    return name;
}

kv::Result<void> AmqpSink::deliver(std::span<const kv::Event> events, std::vector<bool>& confirmed) {
    return state_->deliver(events, confirmed);
}

void AmqpSink::stop() noexcept { state_->stop(); }

Metrics::AmqpStats AmqpSink::stats() const {
    const State& state = *state_;
    Metrics::AmqpStats stats;
    stats.published = state.published;
    stats.confirmed = state.taken;
    stats.returned = state.returned;
    stats.nacked = state.nacked;
    stats.reconnects = std::max<std::uint64_t>(state.connections, 1) - 1;
    stats.is_connected = state.is_connected;
    stats.is_blocked = state.is_blocked;
    return stats;
}

}  // namespace kvd
