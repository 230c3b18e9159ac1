#include "storage/postgres_connection.h"

#include <poll.h>
#include <soci/postgresql/soci-postgresql.h>
#include <soci/soci.h>

#include <algorithm>
#include <array>
#include <new>
#include <unordered_map>
#include <vector>

#include "out_of_memory.h"

namespace kv::postgres {
namespace {

constexpr int binary_format = 1;
constexpr std::string_view live_names_index = "namespaces_live";
constexpr const char* commit_sql = "commit";
// What was put off has this much longer. Together with what it takes to find out about an unknown commit that is no more
// than a statement has.
constexpr std::chrono::milliseconds put_off_patience{1000};

// A server before 13 cannot say how a transaction ended.
constexpr int server_version_min = 130000;

struct Cleared {
    void operator()(PGresult* result) const { PQclear(result); }
    void operator()(PGnotify* notification) const { PQfreemem(notification); }
};
using ResultPtr = std::unique_ptr<PGresult, Cleared>;

// SOCI's library does not export the type information that a sanitizer would check this cast against.
__attribute__((no_sanitize("vptr"))) PGconn* handle_of(soci::session& session) {
    return static_cast<soci::postgresql_session_backend*>(session.get_backend())->conn_;
}

// What libpq says of a connection that did not come about has no state, only words, in the server's language: where we do not
// know them, nobody answered.
Failure failure_to_connect(std::string_view said) {
    const auto says = [&](std::string_view words) { return said.find(words) != std::string_view::npos; };
    if (says("authentication failed") || says("no password supplied")) {
        return Failure("28P01", "the database refused the role or its password");
    }
    if (says("role \"") || says("database \"")) return Failure("28000", "there is no such database or role, or it may not be used");
    if (says("too many")) return Failure("53300", "the database takes no more connections");
    if (says("starting up") || says("shutting down") || says("recovery mode")) {
        return Failure("57P03", "the database is starting or stopping");
    }
    if (says("read-only") || says("hot standby")) return Failure("25006", "no database server was found that takes writes");
    if (says("SSL") || says("certificate")) return Failure(state_no_connection, "the connection could not be secured as was asked for");
    if (says("translate host name")) return Failure(state_no_connection, "the name of the database's host is not known");
    if (says("timeout expired")) return Failure(state_no_connection, "the database's address does not answer");
    return Failure(state_no_connection, "the database cannot be reached");
}

// SOCI's exceptions quote what the server says: only a state leaves this function.
soci::session open_session(const std::string& conninfo) {
    try {
        return soci::session(soci::postgresql, conninfo);
    } catch (const soci::soci_error& error) {
        throw failure_to_connect(error.what());
    }
}

struct Words {
    std::string_view state;  // or how it begins
    Errc code;
    const char* words;
};
// The first that fits.
constexpr Words translations[] = {
    {"53100", Errc::storage_full, "the database's disk is full"},
    {"53300", Errc::unavailable, "the database takes no more connections"},
    {"53", Errc::unavailable, "the database is short of resources"},
    {"08", Errc::unavailable, "the connection to the database was lost"},
    {"57014", Errc::unavailable, "the database took too long"},
    {"57", Errc::unavailable, "the database is stopping"},
    {"58", Errc::unavailable, "the database could not read or write its files"},
    {"25006", Errc::unavailable, "the database takes no writes"},
    {"25P03", Errc::unavailable, "the database ended a transaction that took too long"},
    {"26000", Errc::unavailable, "the connection to the database was lost"},
    {"28", Errc::unavailable, "the database refused the role"},
    {"40", Errc::unavailable, "other writes were in the way"},
    {"55P03", Errc::unavailable, "other writes were in the way"},
    {state_in_use, Errc::locked, "the database is in use"},
    {"XX001", Errc::integrity, "the database is damaged"},
    {"XX002", Errc::integrity, "the database is damaged"},
    {"42501", Errc::internal, "the database role lacks a right that this needs"},
    {"23", Errc::internal, "the database refused a row"},
    {state_head_moved, Errc::invalid_state, "the audit stream has moved on"},
    {state_nothing_to_archive, Errc::internal, "there is no entry to archive"},
    {"54", Errc::internal, "a row is too large for the database"},
    {"22", Errc::internal, "the database refused a value"},
    {"", Errc::internal, "a database statement failed"},
};

const Words& translation_of(const Failure& failure) {
    for (const Words& words : translations) {
        if (failure.has_class(words.state)) return words;
    }
    return translations[std::size(translations) - 1];
}

}  // namespace

Error translate(const Failure& failure) noexcept {
    if (failure.is_taken_name) return make_error(Errc::namespace_exists, "a live namespace of that name exists");
    const Words& words = translation_of(failure);
    const char* text = failure.words ? failure.words : words.words;
    try {
        return {words.code, std::string(text) + " (postgresql " + failure.state.data() + ")"};
    } catch (const std::bad_alloc&) {
        return make_error(words.code, text);
    }
}

Error translate_current_exception() noexcept {
    try {
        throw;
    } catch (const Failure& failure) {
        return translate(failure);
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (...) {
        return make_error(Errc::internal, "the storage met an unexpected exception");
    }
}

bool is_lost_race(const Failure& failure) {
    return failure.code() == "40001" || failure.code() == "40P01" || failure.code() == "55P03";
}

bool ends_connection(const Failure& failure) {
    return failure.has_class("08") || failure.has_class("57P") || failure.code() == "25006" || failure.code() == "25P03" ||
           failure.code() == "26000";
}

// ---- Rows ----

Rows::Rows(pg_result* result) : result_(result) {}
Rows::~Rows() { PQclear(result_); }
std::size_t Rows::size() const { return static_cast<std::size_t>(PQntuples(result_)); }

bool Rows::next() {
    column_ = 0;
    return ++row_ < PQntuples(result_);
}

bool Rows::is_null() const { return PQgetisnull(result_, row_, column_) != 0; }

std::string_view Rows::next_bytes() {
    const int column = column_++;
    return {PQgetvalue(result_, row_, column), static_cast<std::size_t>(PQgetlength(result_, row_, column))};
}

// Of any width, big end first. Nothing is zero.
std::int64_t Rows::next_integer() {
    const std::string_view bytes = next_bytes();
    if (bytes.empty() || bytes.size() > sizeof(std::int64_t)) return 0;
    auto value = static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<signed char>(bytes.front())));
    for (const char byte : bytes.substr(1)) value = (value << 8) | static_cast<unsigned char>(byte);
    return static_cast<std::int64_t>(value);
}

void Rows::next_bytes(std::uint8_t* data, std::size_t size) {
    const std::string_view bytes = next_bytes();
    if (bytes.size() == size) {
        std::memcpy(data, bytes.data(), size);
    } else {
        std::memset(data, 0, size);
    }
}

// ---- Connection ----

struct Connection::Impl {
    explicit Impl(const ConnectionSettings& settings)
        : patience(settings.patience), session(open_session(settings.conninfo)), handle(handle_of(session)) {}

    // What goes with the next statement.
    struct Pending {
        const char* begin = nullptr;
        const char* preamble = nullptr;
        std::function<void(Rows)> hear;
        std::optional<Asked> put_off;

        bool is_empty() const { return begin == nullptr && !put_off; }
    };

    void check(bool is_sent) {
        if (!is_sent) lose("the connection to the database was lost");
    }
    [[noreturn]] void lose(const char* words) {
        is_lost = true;
        throw Failure(state_connection_lost, words);
    }
    void wait(SteadyTime deadline);
    ResultPtr take(SteadyTime deadline);
    std::size_t queue(const char* sql, const Params& params);
    void send(const char* sql, const Params& params);
    std::vector<ResultPtr> fly(std::span<const Asked> asked, SteadyTime deadline);
    ResultPtr send_commit(std::chrono::milliseconds commit_patience);
    ResultPtr answer(SteadyTime deadline);
    std::vector<ResultPtr> finish_pipeline(SteadyTime deadline);
    [[noreturn]] void fail(const PGresult* result);

    const std::chrono::milliseconds patience;
    soci::session session;
    PGconn* handle;
    std::unordered_map<const char*, std::string> statements;  // by the place of their text
    std::size_t named = 0;
    Pending pending;
    struct Prepared {
        const char* sql;
        std::size_t command;
    };
    std::vector<Prepared> prepared;  // by the pipeline that is being filled
    std::size_t queued = 0;          // commands of it
    std::size_t succeeded = 0;       // of those, in their order
    bool was_warned = false;  // since the last statement began
    bool is_lost = false;
    std::uint64_t round_trips = 0;
};

namespace {

// Notices carry no severity that is free of the server's language, but a mere notice has this state and a warning has not.
void note_warning(void* was_warned, const PGresult* result) {
    const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    if (state && std::string_view(state) != "00000") *static_cast<bool*>(was_warned) = true;
}

bool is_refusal(const PGresult* result) {
    const ExecStatusType status = PQresultStatus(result);
    return status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_PIPELINE_SYNC;
}

}  // namespace

void Connection::Impl::fail(const PGresult* result) {
    const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    if (!state || PQstatus(handle) != CONNECTION_OK) is_lost = true;
    if (!state) throw Failure(state_connection_lost);
    Failure failure{std::string_view(state)};
    const char* constraint = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
    failure.is_taken_name = failure.code() == "23505" && constraint && constraint == live_names_index;
    throw failure;
}

// Until there is an answer to take, or nobody can hope for one any more.
void Connection::Impl::wait(SteadyTime deadline) {
    for (;;) {
        const int flushed = PQflush(handle);
        check(flushed >= 0);
        if (flushed == 0 && PQisBusy(handle) == 0) return;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0) lose("the database does not answer");
        pollfd socket{PQsocket(handle), static_cast<short>(flushed == 0 ? POLLIN : POLLIN | POLLOUT), 0};
        ::poll(&socket, 1, static_cast<int>(left.count()));
        if ((socket.revents & ~POLLOUT) != 0) check(PQconsumeInput(handle) == 1);
    }
}

ResultPtr Connection::Impl::take(SteadyTime deadline) {
    wait(deadline);
    return ResultPtr(PQgetResult(handle));
}

// The one answer to the one statement that was sent outside a pipeline.
ResultPtr Connection::Impl::answer(SteadyTime deadline) {
    ++round_trips;
    ResultPtr first = take(deadline);
    while (take(deadline)) {
    }
    if (!first) lose("the connection to the database was lost");
    if (is_refusal(first.get())) fail(first.get());
    return first;
}

void Connection::Impl::send(const char* sql, const Params& params) {
    std::vector<const char*> data;
    std::vector<int> lengths;
    for (std::size_t i = 0; i < params.size(); ++i) {
        data.push_back(params.data(i));
        lengths.push_back(params.length(i));
    }
    const std::vector<int> formats(params.size(), binary_format);
    check(PQsendQueryPrepared(handle, statements.at(sql).c_str(), static_cast<int>(params.size()), data.data(), lengths.data(),
                              formats.data(), binary_format) == 1);
}

// In a pipeline: prepares the statement as well where it is new. Which of the answers is that to it.
std::size_t Connection::Impl::queue(const char* sql, const Params& params) {
    const auto [known, is_new] = statements.try_emplace(sql);
    if (is_new) {
        prepared.push_back({sql, queued++});
        known->second = "kv" + std::to_string(++named);
        check(PQsendPrepare(handle, known->second.c_str(), sql, 0, nullptr) == 1);
    }
    send(sql, params);
    return queued++;
}

// Reads to the end whatever failed, for the connection is of no use before.
std::vector<ResultPtr> Connection::Impl::finish_pipeline(SteadyTime deadline) {
    ++round_trips;
    succeeded = 0;
    check(PQpipelineSync(handle) == 1);
    std::vector<ResultPtr> answers;
    ResultPtr refusal;
    for (std::size_t i = 0; i < queued; ++i) {
        ResultPtr first = take(deadline);
        while (take(deadline)) {
        }
        if (!first) lose("the connection to the database was lost");
        if (refusal) continue;
        if (is_refusal(first.get())) {
            refusal = std::move(first);
            if (PQstatus(handle) != CONNECTION_OK) break;
        } else {
            ++succeeded;
            answers.push_back(std::move(first));
        }
    }
    if (PQstatus(handle) == CONNECTION_OK) {
        take(deadline);  // the end of the pipeline
        check(PQexitPipelineMode(handle) == 1);
    }
    if (refusal) fail(refusal.get());
    return answers;
}

// In one round trip: what is pending, and what is asked. Gives the answers to the latter.
std::vector<ResultPtr> Connection::Impl::fly(std::span<const Asked> asked, SteadyTime deadline) {
    check(PQenterPipelineMode(handle) == 1);
    const Pending first = std::exchange(pending, {});
    prepared.clear();
    queued = succeeded = 0;
    try {
        if (first.begin) queue(first.begin, Params());
        const std::size_t heard_at = first.preamble ? queue(first.preamble, Params()) : 0;
        if (first.put_off) queue(first.put_off->sql, first.put_off->params);
        std::vector<std::size_t> places;
        for (const Asked& one : asked) places.push_back(queue(one.sql, one.params));
        std::vector<ResultPtr> all = finish_pipeline(deadline);
        if (first.preamble) first.hear(Rows(all.at(heard_at).release()));
        std::vector<ResultPtr> answers;
        for (const std::size_t place : places) answers.push_back(std::move(all.at(place)));
        return answers;
    } catch (...) {
        for (const Prepared& one : prepared) {
            if (one.command >= succeeded) statements.erase(one.sql);
        }
        throw;
    }
}

// With what was put off, or by itself. Throws what the server refused; none: there was no answer.
ResultPtr Connection::Impl::send_commit(std::chrono::milliseconds commit_patience) {
    const SteadyTime now = std::chrono::steady_clock::now();
    try {
        if (pending.put_off) {
            const Asked commit{commit_sql, Params()};
            return std::move(fly(std::span(&commit, 1), now + commit_patience + put_off_patience).front());
        }
        ++round_trips;
        check(PQsendQuery(handle, commit_sql) == 1);
        ResultPtr result = take(now + commit_patience);
        while (take(now + commit_patience)) {
        }
        return result;
    } catch (const Failure&) {
        if (!is_lost) throw;
    } catch (const std::bad_alloc&) {
        is_lost = true;  // what was sent may have been done
    }
    return nullptr;
}

Connection::Connection(const ConnectionSettings& settings) : impl_(std::make_unique<Impl>(settings)) {
    PGconn* handle = impl_->handle;
    PQsetNoticeReceiver(handle, note_warning, &impl_->was_warned);
    impl_->check(PQsetnonblocking(handle, 1) == 0);
    if (PQserverVersion(handle) < server_version_min) throw Failure("0A000", "PostgreSQL must be 13 or newer");
    const char* encoding = PQparameterStatus(handle, "server_encoding");
    if (!encoding || std::string_view(encoding) != "UTF8") throw Failure("0A000", "the database's encoding must be UTF8");
    // A commit that is answered must be on disk, whatever the server or the role was set to.
    execute("select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off';"
            // Every statement has its index, and is planned once: not by what tables held that were empty then, nor for
            // each size of an array.
            " set enable_seqscan = off; set enable_bitmapscan = off; set plan_cache_mode = force_generic_plan; set jit = off",
            settings.patience);
}

Connection::~Connection() = default;

Rows Connection::run(const Asked& asked) {
    Impl& impl = *impl_;
    const SteadyTime deadline = std::chrono::steady_clock::now() + impl.patience;
    impl.was_warned = false;
    if (impl.pending.is_empty() && impl.statements.contains(asked.sql)) {
        impl.send(asked.sql, asked.params);
        return Rows(impl.answer(deadline).release());
    }
    return Rows(impl.fly(std::span(&asked, 1), deadline).front().release());
}

std::vector<Rows> Connection::run_all(std::span<const Asked> asked) {
    const SteadyTime deadline = std::chrono::steady_clock::now() + impl_->patience;
    impl_->was_warned = false;
    std::vector<Rows> rows;
    for (ResultPtr& answer : impl_->fly(asked, deadline)) rows.emplace_back(answer.release());
    return rows;
}

void Connection::put_off(Asked asked) { impl_->pending.put_off = std::move(asked); }

void Connection::execute(const char* sql, std::chrono::milliseconds patience) {
    Impl& impl = *impl_;
    const SteadyTime deadline = std::chrono::steady_clock::now() + patience;
    impl.was_warned = false;
    ++impl.round_trips;
    impl.check(PQsendQuery(impl.handle, sql) == 1);
    ResultPtr refusal;
    while (ResultPtr result = impl.take(deadline)) {
        if (is_refusal(result.get()) && !refusal) refusal = std::move(result);
    }
    if (refusal) impl.fail(refusal.get());
}

void Connection::begin(const char* begin_sql, const char* preamble, std::function<void(Rows)> hear) {
    impl_->pending = {begin_sql, preamble, std::move(hear), std::nullopt};
}

bool Connection::has_begun() const { return !impl_->pending.begin && PQtransactionStatus(impl_->handle) != PQTRANS_IDLE; }

// The server answers the commit of a failed transaction with success, and rolls back: its command tag tells. A warning says
// that a synchronous standby has not confirmed it. And where there is no answer, nobody knows.
Connection::Commit Connection::commit(std::chrono::milliseconds patience) {
    Impl& impl = *impl_;
    if (PQtransactionStatus(impl.handle) != PQTRANS_INTRANS) throw Failure("25P02", "the transaction had failed");
    impl.was_warned = false;
    const ResultPtr result = impl.send_commit(patience);
    if (!result || PQstatus(impl.handle) != CONNECTION_OK) {
        impl.is_lost = true;
        return Commit::unknown;
    }
    if (is_refusal(result.get())) impl.fail(result.get());
    if (std::string_view(PQcmdStatus(result.get())) != "COMMIT") throw Failure("25P02", "the transaction had failed");
    return impl.was_warned ? Commit::unknown : Commit::committed;
}

void Connection::roll_back() noexcept {
    impl_->pending = {};
    if (impl_->is_lost || !is_sound()) {
        if (impl_->is_lost || PQtransactionStatus(impl_->handle) == PQTRANS_UNKNOWN) return;
        try {
            execute("rollback", impl_->patience);
        } catch (...) {
            poison();
        }
    }
}

void Connection::wait_for_notifications(int wake, SteadyTime until) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    pollfd both[] = {{PQsocket(impl_->handle), POLLIN, 0}, {wake, POLLIN, 0}};
    ::poll(both, 2, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (both[0].revents != 0) impl_->check(PQconsumeInput(impl_->handle) == 1);
}

std::vector<std::string> Connection::take_notifications() {
    std::vector<std::string> payloads;
    while (const std::unique_ptr<PGnotify, Cleared> notification{PQnotifies(impl_->handle)}) {
        if (notification->be_pid != server_process()) payloads.emplace_back(notification->extra);
    }
    return payloads;
}

bool Connection::is_sound() const {
    return !is_poisoned_ && !impl_->is_lost && impl_->pending.is_empty() && PQstatus(impl_->handle) == CONNECTION_OK &&
           PQtransactionStatus(impl_->handle) == PQTRANS_IDLE && PQpipelineStatus(impl_->handle) == PQ_PIPELINE_OFF;
}

int Connection::server_process() const { return PQbackendPID(impl_->handle); }
std::uint64_t Connection::round_trips() const { return impl_->round_trips; }

}  // namespace kv::postgres
