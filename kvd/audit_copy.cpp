#include "kvd/audit_copy.h"

#include <fcntl.h>
#include <poll.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "kvd/json.h"
#include "kvd/log.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using Clock = std::chrono::steady_clock;

constexpr std::size_t block_bytes = 64u << 10;  // of lines written at once
constexpr int poll_milliseconds = 100;

// What a record takes while it waits.
std::size_t bytes_of(const kv::AuditRecord& record) {
    return sizeof record + record.key_path.size() + record.operation.size() + record.user_id.size() +
           record.credential_id.size() + record.application_id.size() + record.peer.size() + record.request_id.size() +
           record.reason.size();
}

// Where lines go. `taken` may be less than all without a failure: then it could not go on just now.
struct Written {
    std::size_t taken = 0;
    int error = 0;  // errno
};
class Sink {
public:
    virtual ~Sink() = default;
    virtual Written write(std::string_view lines) = 0;
    virtual int reopen() { return 0; }  // errno
};

// Waits a little at most, so that whoever writes can look whether it should stop.
Written write_some(int descriptor, std::string_view bytes) {
    pollfd ready{descriptor, POLLOUT, 0};
    const int count = ::poll(&ready, 1, poll_milliseconds);
    if (count < 0 && errno != EINTR) return {0, errno};
    if (count <= 0) return {};
    const ssize_t size = ::write(descriptor, bytes.data(), bytes.size());
    if (size >= 0) return {static_cast<std::size_t>(size), 0};
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {};
    return {0, errno};
}

class FileSink final : public Sink {
public:
    explicit FileSink(std::string path) : path_(std::move(path)) {}
    ~FileSink() override { close(); }
    FileSink(const FileSink&) = delete;
    FileSink& operator=(const FileSink&) = delete;

    int reopen() override {
        close();
        // Without O_NONBLOCK a pipe would hold us until somebody reads it.
        descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
        return descriptor_ < 0 ? errno : 0;
    }

    Written write(std::string_view lines) override {
        if (descriptor_ < 0)
            if (const int error = reopen(); error != 0) return {0, error};
        return write_some(descriptor_, lines);
    }

private:
    void close() {
        if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    }
    const std::string path_;
    int descriptor_ = -1;
};

// Others share what is behind descriptor 1, so that it stays blocking: but a pipe that is ready takes this much at once.
class OutputSink final : public Sink {
public:
    Written write(std::string_view lines) override {
        return write_some(STDOUT_FILENO, lines.substr(0, std::min<std::size_t>(lines.size(), PIPE_BUF)));
    }
};

class SyslogSink final : public Sink {
public:
    SyslogSink() { ::openlog("kvd", LOG_PID, LOG_AUTHPRIV); }
    Written write(std::string_view lines) override {
        const std::size_t end = lines.find('\n');
        ::syslog(LOG_AUTHPRIV | LOG_INFO, "%.*s", static_cast<int>(end), lines.data());
        return {end + 1, 0};
    }
};

std::unique_ptr<Sink> make_sink(const AuditCopyTarget& target) {
    switch (target.kind) {
        case AuditCopyTarget::Kind::file:
            return std::make_unique<FileSink>(target.path);
        case AuditCopyTarget::Kind::syslog:
            return std::make_unique<SyslogSink>();
        case AuditCopyTarget::Kind::standard_output:
            break;
    }
    return std::make_unique<OutputSink>();
}

}  // namespace

Result<AuditCopyTarget> AuditCopyTarget::parse(std::string_view text) {
    constexpr std::string_view file = "file:";
    if (text == "stdout") return AuditCopyTarget{Kind::standard_output, {}};
    if (text == "syslog:") return AuditCopyTarget{Kind::syslog, {}};
    if (text.starts_with(file) && text.size() > file.size())
        return AuditCopyTarget{Kind::file, std::string(text.substr(file.size()))};
    return Error{Errc::invalid_request, "must be file:PATH, syslog: or stdout"};
}

struct AuditCopy::State {
    State(std::unique_ptr<Sink> lines, const Limits& of, Log& to) : limits(of), sink(std::move(lines)), log(&to) {}

    void run();
    void write(const std::vector<kv::AuditRecord>& records);
    bool write_block(std::string_view lines);
    void tell(std::string_view message, int error);

    const Limits limits;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::vector<kv::AuditRecord>> waiting;
    std::size_t bytes = 0;  // of what waits, and of what is being written
    bool is_started = false;
    bool is_stopping = false;
    bool is_ended = false;
    bool wants_reopen = false;
    bool is_failing = false;   // and was said to
    bool is_dropping = false;  // the same
    Clock::time_point deadline;
    Metrics::AuditCopyStats stats;

    std::unique_ptr<Sink> sink;  // the thread's
    Log* log;                    // null once the thread was left behind
    std::thread thread;
};

// ---- the thread ----

void AuditCopy::State::run() {
    std::unique_lock lock(mutex);
    for (;;) {
        changed.wait(lock, [this] { return is_stopping || wants_reopen || (is_started && !waiting.empty()); });
        if (wants_reopen && waiting.empty()) {
            wants_reopen = false;
            lock.unlock();
            const int error = sink->reopen();
            lock.lock();
            if (error != 0) tell("the copy of the audit log could not be opened again", error);
        }
        if (waiting.empty() && is_stopping) break;
        if (waiting.empty()) continue;
        const std::vector<kv::AuditRecord> records = std::move(waiting.front());
        waiting.pop_front();
        lock.unlock();
        write(records);
        lock.lock();
        for (const kv::AuditRecord& record : records) bytes -= bytes_of(record);
    }
    is_ended = true;
    changed.notify_all();
}

void AuditCopy::State::write(const std::vector<kv::AuditRecord>& records) {
    std::string block;
    std::size_t rows = 0;
    for (std::size_t i = 0; i < records.size(); ++i) {
        block += write_json(records[i]);
        block += '\n';
        ++rows;
        if (block.size() < block_bytes && i + 1 < records.size()) continue;
        const bool is_written = write_block(block);
        std::lock_guard guard(mutex);
        (is_written ? stats.rows : stats.dropped) += rows;
        block.clear();
        rows = 0;
    }
}

// False: it was time to stop.
bool AuditCopy::State::write_block(std::string_view lines) {
    std::size_t at = 0;
    while (at < lines.size()) {
        {
            std::unique_lock guard(mutex);
            if (is_stopping && Clock::now() >= deadline) return false;
            if (std::exchange(wants_reopen, false)) {
                guard.unlock();
                sink->reopen();  // if that fails, the write says so
                // A line begun in the old file is whole in the new one.
                const std::size_t line = at == 0 ? std::string_view::npos : lines.rfind('\n', at - 1);
                at = line == std::string_view::npos ? 0 : line + 1;
            }
        }
        const Written written = sink->write(lines.substr(at));
        at += written.taken;
        std::unique_lock guard(mutex);
        if (written.error == 0) {
            if (written.taken > 0) is_failing = false;
            continue;
        }
        ++stats.failures;
        if (!std::exchange(is_failing, true)) tell("the copy of the audit log cannot be written", written.error);
        changed.wait_for(guard, limits.retry, [this] { return is_stopping || wants_reopen; });
        if (is_stopping) return false;
    }
    return true;
}

// With the lock.
void AuditCopy::State::tell(std::string_view message, int error) {
    if (log != nullptr) log->error(message, {{"reason", std::strerror(error)}});
}

// ---- its owner ----

Result<std::unique_ptr<AuditCopy>> AuditCopy::open(const AuditCopyTarget& target, Log& log, const Limits& limits) {
    std::unique_ptr<Sink> sink = make_sink(target);
    if (const int error = sink->reopen(); error != 0)
        return Error{Errc::invalid_request,
                     "cannot write the audit copy to " + target.path + ": " + std::strerror(error)};
    auto state = std::make_shared<State>(std::move(sink), limits, log);
    state->thread = std::thread([state] {
        try {
            state->run();
        } catch (const std::exception&) {
            std::lock_guard lock(state->mutex);
            state->is_ended = true;
            state->changed.notify_all();
        }
    });
    return std::unique_ptr<AuditCopy>(new AuditCopy(std::move(state)));
}

AuditCopy::AuditCopy(std::shared_ptr<State> state) : state_(std::move(state)) {}

AuditCopy::~AuditCopy() { stop(); }

void AuditCopy::add(std::span<const kv::AuditRecord> records) noexcept {
    State& state = *state_;
    std::size_t bytes = 0;
    for (const kv::AuditRecord& record : records) bytes += bytes_of(record);
    std::lock_guard lock(state.mutex);
    try {
        if (!state.is_ended && state.bytes + bytes <= state.limits.bytes_waiting_max) {
            state.waiting.emplace_back(records.begin(), records.end());
            state.bytes += bytes;
            state.is_dropping = false;
            state.changed.notify_all();
            return;
        }
        if (!std::exchange(state.is_dropping, true) && state.log != nullptr)
            state.log->error("audit rows are not copied: too many wait");
    } catch (const std::exception&) {
        // No memory: dropped like the rest.
    }
    state.stats.dropped += records.size();
}

void AuditCopy::start() {
    std::lock_guard lock(state_->mutex);
    state_->is_started = true;
    state_->changed.notify_all();
}

void AuditCopy::reopen() {
    std::lock_guard lock(state_->mutex);
    state_->wants_reopen = true;
    state_->changed.notify_all();
}

void AuditCopy::stop() {
    if (std::exchange(is_stopped_, true)) return;
    State& state = *state_;
    std::unique_lock lock(state.mutex);
    state.is_started = true;
    state.is_stopping = true;
    state.deadline = Clock::now() + state.limits.stop_timeout;
    state.changed.notify_all();
    // Some more than the deadline, for the thread to see it.
    const auto patience = state.limits.stop_timeout + std::chrono::milliseconds(5 * poll_milliseconds);
    if (state.changed.wait_for(lock, patience, [&state] { return state.is_ended; })) {
        lock.unlock();
        state.thread.join();
        return;
    }
    if (state.log != nullptr) state.log->error("the copy of the audit log hangs: what waited is not copied");
    state.log = nullptr;
    state.thread.detach();
}

Metrics::AuditCopyStats AuditCopy::stats() const {
    std::lock_guard lock(state_->mutex);
    Metrics::AuditCopyStats stats = state_->stats;
    stats.bytes_waiting = state_->bytes;
    return stats;
}

}  // namespace kvd
