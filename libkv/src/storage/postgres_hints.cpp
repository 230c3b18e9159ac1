#include "storage/postgres_hints.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <system_error>
#include <utility>

#include "out_of_memory.h"

namespace kv::postgres {
namespace {

constexpr std::chrono::milliseconds patience{2000};  // with an answer of the server
constexpr std::chrono::milliseconds between_notifications{20};
// A proxy on the way may cut a connection on which nothing is said.
constexpr std::chrono::seconds silence_max{15};
constexpr std::chrono::milliseconds pause_min{100};
constexpr std::chrono::milliseconds pause_max{5000};

// The server takes payloads below 8000 bytes, and a hint has 58 at most.
constexpr std::size_t hints_max = 128;
constexpr std::size_t id_size = 36;

// Several stores may lie in schemas of one database, where names of channels are common to all. The commits of notifications
// need not be on disk, and say so, for the lock that they take is held until then.
std::string prepare(Connection& connection) {
    Rows rows = connection.run(
        "select 'kv_hints_' || (hashtext(current_schema())::bigint & 4294967295), set_config('synchronous_commit', 'off', false),"
        " set_config('application_name', left(current_setting('application_name'), 50) || ' hints', false)");
    std::string channel;
    if (rows.next()) rows.read(channel);
    return channel;
}

std::optional<Storage::Hint> parse_hint(std::string_view text) {
    Storage::Hint hint;
    if (text.size() <= id_size || text[id_size] != ':') return std::nullopt;
    const auto id = Uuid::parse(text.substr(0, id_size));
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + id_size + 1, end, hint.revision);
    if (!id || error != std::errc() || stop != end) return std::nullopt;
    hint.ns = *id;
    return hint;
}

void raise(std::map<NamespaceId, std::uint64_t>& hints, const Storage::Hint& hint) {
    std::uint64_t& revision = hints[hint.ns];
    revision = std::max(revision, hint.revision);
}

}  // namespace

std::string payload_of(const std::map<NamespaceId, std::uint64_t>& hints) {
    std::string payload;
    if (hints.size() > hints_max) return payload;
    for (const auto& [ns, revision] : hints) {
        if (!payload.empty()) payload += ' ';
        payload += ns.to_string() + ':' + std::to_string(revision);
    }
    return payload;
}

std::vector<Storage::Hint> hints_of(std::string_view payload) {
    std::vector<Storage::Hint> hints;
    while (!payload.empty()) {
        const std::size_t end = std::min(payload.find(' '), payload.size());
        const std::optional<Storage::Hint> hint = parse_hint(payload.substr(0, end));
        if (!hint) return {};
        hints.push_back(*hint);
        payload.remove_prefix(std::min(end + 1, payload.size()));
    }
    return hints;
}

// ---- asked for by any thread ----

Hints::Hints(std::string conninfo) : conninfo_(std::move(conninfo)), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Hints::~Hints() {
    {
        std::lock_guard lock(mutex_);
        is_over_ = true;
    }
    over_.notify_all();
    wake();
    if (thread_.joinable()) thread_.join();
    if (wake_ >= 0) ::close(wake_);
}

// With the lock held.
void Hints::start() {
    if (!thread_.joinable() && wake_ >= 0) thread_ = std::thread([this] { run(); });
}

void Hints::wake() noexcept {
    constexpr std::uint64_t one = 1;
    if (wake_ >= 0) (void)!::write(wake_, &one, sizeof one);
}

void Hints::merge(std::span<const Storage::Hint> committed) noexcept {
    try {
        for (const Storage::Hint& hint : committed) raise(pending_, hint);
        is_anything_pending_ = is_anything_pending_ || pending_.size() > hints_max;
    } catch (const std::bad_alloc&) {
        is_anything_pending_ = true;
    }
    if (is_anything_pending_) pending_.clear();
}

void Hints::announce(std::span<const Storage::Hint> committed) noexcept {
    if (committed.empty()) return;
    bool is_first = false;
    {
        std::lock_guard lock(mutex_);
        is_first = pending_.empty() && !is_anything_pending_;
        merge(committed);
        attempt([&] { start(); });
    }
    if (is_first) wake();
}

void Hints::listen(Heard heard) noexcept {
    const bool listens = static_cast<bool>(heard);
    {
        std::lock_guard lock(heard_mutex_);
        heard_.swap(heard);
    }
    {
        std::lock_guard lock(mutex_);
        listens_ = listens;
        if (listens) attempt([&] { start(); });
    }
    wake();
}

// ---- the thread ----

void Hints::run() noexcept {
    std::chrono::milliseconds time = pause_min;
    do {
        const SteadyTime begun = std::chrono::steady_clock::now();
        (void)guard([&] { serve(); });
        if (std::exchange(is_under_way_, false)) {
            std::lock_guard lock(mutex_);
            is_anything_pending_ = true;
            pending_.clear();
        }
        const bool has_served = std::chrono::steady_clock::now() - begun > pause_max;
        time = has_served ? pause_min : std::min(2 * time, pause_max);
    } while (pause(time));
}

// False: it is over.
bool Hints::pause(std::chrono::milliseconds time) {
    const SteadyTime until = std::chrono::steady_clock::now() + time;
    std::unique_lock lock(mutex_);
    return !over_.wait_until(lock, until, [&] { return is_over_; });
}

void Hints::serve() {
    Connection connection({conninfo_, patience});
    const std::string channel = prepare(connection);
    bool listens = false;
    for (;;) {
        const Work work = take_work();
        if (work.is_over) return;
        if (work.listens != listens) {
            listens = work.listens;
            set_listening(connection, channel, listens);
        }
        if (work.payload) {
            connection.run("select pg_notify($1::text, $2::text)", Params(channel, *work.payload));
            is_under_way_ = false;
            next_notification_ = std::chrono::steady_clock::now() + between_notifications;
        }
        hear(connection, listens);
        const SteadyTime silent_until = std::chrono::steady_clock::now() + silence_max;
        connection.wait_for_notifications(wake_, std::min(work.until, silent_until));
        if (std::chrono::steady_clock::now() >= silent_until) connection.run("select 1");
    }
}

Hints::Work Hints::take_work() {
    std::uint64_t woken = 0;
    (void)!::read(wake_, &woken, sizeof woken);
    std::lock_guard lock(mutex_);
    Work work{.is_over = is_over_, .listens = listens_};
    if (pending_.empty() && !is_anything_pending_) return work;
    if (std::chrono::steady_clock::now() < next_notification_) {
        work.until = next_notification_;
        return work;
    }
    work.payload = payload_of(pending_);
    pending_.clear();
    is_anything_pending_ = false;
    is_under_way_ = true;
    return work;
}

// What was notified before the server listened is missed, so whoever hears is told at once that something may have been.
void Hints::set_listening(Connection& connection, const std::string& channel, bool listens) {
    const std::string sql = (listens ? "listen " : "unlisten ") + channel;
    connection.execute(sql.c_str(), patience);
    if (listens) tell({});
}

void Hints::hear(Connection& connection, bool listens) {
    const std::vector<std::string> payloads = connection.take_notifications();
    if (payloads.empty() || !listens) return;
    std::map<NamespaceId, std::uint64_t> latest;
    for (const std::string& payload : payloads) {
        const std::vector<Storage::Hint> hints = hints_of(payload);
        if (hints.empty()) return tell({});
        for (const Storage::Hint& hint : hints) raise(latest, hint);
    }
    std::vector<Storage::Hint> merged;
    for (const auto& [ns, revision] : latest) merged.push_back({ns, revision});
    tell(merged);
}

void Hints::tell(std::span<const Storage::Hint> hints) noexcept {
    std::lock_guard lock(heard_mutex_);
    attempt([&] {
        if (heard_) heard_(hints);
    });
}

}  // namespace kv::postgres
