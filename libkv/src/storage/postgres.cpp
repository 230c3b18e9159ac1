#include "kv/postgres.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "out_of_memory.h"
#include "storage/answers.h"
#include "storage/postgres_changes.h"
#include "storage/postgres_conninfo.h"
#include "storage/postgres_doubts.h"
#include "storage/postgres_hints.h"
#include "storage/postgres_pool.h"
#include "storage/postgres_presence.h"
#include "storage/postgres_questions.h"
#include "storage/postgres_schema.h"
#include "storage/postgres_tail.h"

namespace kv::postgres {
namespace {

constexpr std::size_t lanes_max = 4;  // half of the connections at most, so that reads find one
constexpr std::chrono::milliseconds answer_margin{2000};  // beyond what the server allows itself
constexpr std::chrono::seconds races_patience{5};         // with races that are lost
// A commit that takes longer is unknown at first. Who wants to know asks for its audit head, and waits there for its end.
constexpr std::chrono::milliseconds commit_patience{1000};
constexpr std::chrono::seconds commit_patience_alone{60};  // who is alone keeps nobody waiting
constexpr std::chrono::seconds between_times{1};
constexpr std::chrono::minutes between_sizes{1};
constexpr std::chrono::hours between_extensions{1};
constexpr std::chrono::minutes snapshot_patience{2};

constexpr const char* begin_sql = "begin isolation level read committed read write";
// The transaction has a number before it takes positions in the log, and by that number it can be asked for later.
const std::string preamble_sql =
    std::string("select clock_timestamp(), pg_current_xact_id(), ") + AuditTail::lock_call;

// Whether something that is not to be done more often may be done now.
bool is_time(std::mutex& mutex, std::optional<SteadyTime>& last, std::chrono::steady_clock::duration between) {
    std::lock_guard lock(mutex);
    const SteadyTime now = std::chrono::steady_clock::now();
    if (last && now - *last < between) return false;
    last = now;
    return true;
}

// ---- one write ----

class Writer final : public rows::Answers<StorageWriter, Writer> {
public:
    Writer(Connection& connection, DatabaseClock& clock) : connection_(connection), questions_(connection, clock), clock_(clock) {
        connection_.begin(begin_sql, preamble_sql.c_str(), [this](Rows rows) { hear(std::move(rows)); });
    }

    template <class F>
    auto answer_with(F&& question) {
        return note(guard([&] {
            try {
                return question(questions_);
            } catch (const Failure& refused) {
                if (!refused_) refused_ = refused;
                throw;
            }
        }));
    }

    Result<Time> now() override {
        const std::optional<Time>& heard = questions_.heard() ? questions_.heard() : begun_;
        return heard ? clock_.at_least(*heard) : clock_.now();
    }
    Result<std::vector<std::shared_ptr<const NamespaceRow>>> lock(std::span<const NamespaceRef> refs) override {
        return answer_with([&](Questions& questions) { return questions.lock(refs); });
    }
    Result<std::optional<SinkRow>> lock_sink(std::string_view name) override {
        return answer_with([&](Questions& questions) { return questions.lock_sink(name); });
    }
    Result<LockedAndFound> lock_and_find(std::span<const NamespaceRef> locked, std::span<const EntryRef> refs, Want want) override {
        return answer_with([&](Questions& questions) { return questions.lock_and_find(locked, refs, want); });
    }
    Result<void> apply(const Changeset& changes) override {
        has_changes_ = has_changes_ || !changes.empty();
        return answer_with([&](Questions&) { postgres::apply(connection_, changes); });
    }

    // Of the first statement that failed: the transaction is spoilt.
    const std::optional<Error>& failure() const { return failure_; }
    const std::optional<Failure>& refused() const { return refused_; }
    bool has_changes() const { return has_changes_; }
    std::uint64_t transaction() const { return transaction_; }

private:
    void hear(Rows rows) {
        if (!rows.next()) return;
        rows.read(begun_, transaction_);
        clock_.hear(*begun_);
    }
    template <class T>
    Result<T> note(Result<T> result) {
        if (!result && !failure_) failure_ = copy_of(result.error());
        return result;
    }

    Connection& connection_;
    Questions questions_;
    DatabaseClock& clock_;
    std::optional<Time> begun_;
    std::uint64_t transaction_ = 0;
    bool has_changes_ = false;
    std::optional<Error> failure_;
    std::optional<Failure> refused_;
};

// ---- a snapshot ----

class Snapshot final : public rows::Answers<StorageReader, Snapshot> {
public:
    Snapshot(std::unique_ptr<Connection> connection, DatabaseClock& clock)
        : connection_(std::move(connection)), questions_(*connection_, clock), clock_(clock) {
        // The first statement fixes what is seen. Who reads it may take his time between two questions.
        connection_->execute(
            "begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = 0;"
            " set local statement_timeout = 60000; select 1",
            snapshot_patience);
    }
    Result<Time> now() override { return clock_.now(); }
    template <class F>
    auto answer_with(F&& question) {
        return guard([&] { return question(questions_); });
    }

private:
    std::unique_ptr<Connection> connection_;
    Questions questions_;
    DatabaseClock& clock_;
};

// ---- the storage ----

class PostgresStorage final : public rows::Answers<Storage, PostgresStorage> {
public:
    PostgresStorage(std::string conninfo, const PostgresOptions& options)
        : is_read_only_(options.read_only),
          is_alone_(options.alone),
          writes_at_once_(std::clamp<std::size_t>(options.connections / 2, 1, lanes_max)),
          clock_(options.clock),
          tail_(options.lock_timeout),
          hints_(conninfo),
          pool_({{std::move(conninfo), options.statement_timeout + answer_margin}, options.connections, entrance()}) {}

    Result<void> open() {
        return guard([&]() -> Result<void> {
            if (is_alone_) KV_CHECK(presence_.claim(pool_.open()));
            Pool::Lease connection = pool_.take();
            KV_CHECK(is_read_only_ ? check_schema(*connection) : prepare_schema(*connection));
            if (!is_read_only_) presence_.settle(*connection);
            Questions(*connection, clock_).find(std::vector<EntryRef>(1), {});  // tells the time
            return {};
        });
    }

    Result<Time> now() override;
    Result<AuditPage> scan_audit(const AuditRange& range) override;
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override;
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override;
    void idle() override;
    Result<std::unique_ptr<StorageReader>> snapshot() override;
    std::size_t writes_at_once() const override { return writes_at_once_; }
    bool is_shared() const override { return true; }
    void announce(std::span<const Hint> committed) noexcept override { hints_.announce(committed); }
    void listen(std::function<void(std::span<const Hint>)> heard) override { hints_.listen(std::move(heard)); }
    Result<bool> may_erase_audit() override;
    Stats stats() override;

    template <class F>
    auto answer_with(F&& question) {
        return on_connection([&](Connection& connection) {
            Questions questions(connection, clock_);
            return question(questions);
        });
    }

private:
    // How one attempt at a write went.
    struct Attempt {
        Result<void> result;
        bool may_repeat = false;  // nothing happened, and the same may succeed
        bool lost_connection = false;
    };
    Attempt attempt_write(Connection& connection, const std::function<Result<void>(StorageWriter&)>& body);
    Attempt commit(Connection& connection, const Writer& writer);
    static Attempt attempt_of(const Failure& failure, Result<void> result);

    std::function<void(Connection&)> entrance() {
        if (is_read_only_ || is_alone_) return {};
        return [this](Connection& connection) { presence_.enter(connection); };
    }
    template <class F>
    auto on_connection(F&& f) -> typename ResultOf<decltype(f(std::declval<Connection&>()))>::type;

    const bool is_read_only_;
    const bool is_alone_;
    const std::size_t writes_at_once_;
    DatabaseClock clock_;
    Doubts doubts_;
    AuditTail tail_;
    Hints hints_;
    Presence presence_;
    Pool pool_;
    std::mutex mutex_;
    std::optional<SteadyTime> sized_at_;
    std::optional<SteadyTime> asked_time_at_;
    std::optional<SteadyTime> extended_at_;
    std::uint64_t database_bytes_ = 0;
};

// A question changes nothing: where the connection turns out to be broken it is asked once more on a new one.
template <class F>
auto PostgresStorage::on_connection(F&& f) -> typename ResultOf<decltype(f(std::declval<Connection&>()))>::type {
    return guard([&] {
        {
            Pool::Lease connection = pool_.take();
            try {
                return f(*connection);
            } catch (const Failure& failure) {
                if (!ends_connection(failure)) throw;
                connection->poison();
            }
        }
        Pool::Lease connection = pool_.take();
        return f(*connection);
    });
}

// ---- writing ----

Result<void> PostgresStorage::write(const std::function<Result<void>(StorageWriter&)>& body) {
    if (is_read_only_) return Error{Errc::unsupported, "the database was opened for reading only"};
    const SteadyTime deadline = std::chrono::steady_clock::now() + races_patience;
    bool was_lost = false;
    for (;;) {
        Attempt attempt{{}};
        Result<void> taken = guard([&] {
            presence_.check();
            Pool::Lease connection = pool_.take();
            attempt = attempt_write(*connection, body);
        });
        KV_CHECK(std::move(taken));
        if (attempt.result || !attempt.may_repeat || std::chrono::steady_clock::now() >= deadline) return std::move(attempt.result);
        if (attempt.lost_connection && std::exchange(was_lost, true)) return std::move(attempt.result);
    }
}

PostgresStorage::Attempt PostgresStorage::attempt_of(const Failure& failure, Result<void> result) {
    const bool is_lost = ends_connection(failure);
    return {std::move(result), is_lost || is_lost_race(failure), is_lost};
}

PostgresStorage::Attempt PostgresStorage::attempt_write(Connection& connection, const std::function<Result<void>(StorageWriter&)>& body) {
    Writer writer(connection, clock_);
    Result<void> done = [&]() -> Result<void> {
        try {
            return body(writer);
        } catch (const std::bad_alloc&) {
            return out_of_memory();
        } catch (const std::exception&) {
            return make_error(Errc::internal, "the write was ended by an exception");
        }
    }();
    // A body that goes on after a failure would commit a part, were the server not to refuse it.
    if (done && writer.failure()) done = copy_of(*writer.failure());
    if (done && writer.has_changes()) return commit(connection, writer);
    if (writer.refused() && ends_connection(*writer.refused())) connection.poison();
    connection.roll_back();
    if (!done && writer.refused()) return attempt_of(*writer.refused(), std::move(done));
    return {std::move(done)};
}

PostgresStorage::Attempt PostgresStorage::commit(Connection& connection, const Writer& writer) {
    try {
        if (connection.commit(is_alone_ ? commit_patience_alone : commit_patience) == Connection::Commit::committed) return {{}};
    } catch (const Failure& failure) {
        connection.roll_back();
        return attempt_of(failure, translate(failure));
    }
    connection.poison();
    attempt([&] { doubts_.add(writer.transaction()); });
    return {make_error(Errc::outcome_unknown, "the commit may have happened: the database did not confirm it")};
}

// ---- reading ----

// Seldom a round trip: every question about entries and every write bring the time along. Without an answer the steady clock
// tells it.
Result<Time> PostgresStorage::now() {
    if (clock_.is_stale() && is_time(mutex_, asked_time_at_, between_times)) {
        (void)on_connection([&](Connection& connection) { Questions(connection, clock_).find(std::vector<EntryRef>(1), {}); });
    }
    return clock_.now();
}

Result<AuditPage> PostgresStorage::scan_audit(const AuditRange& range) {
    return on_connection([&](Connection& connection) {
        Questions questions(connection, clock_);
        if (!range.newest_first) tail_.settle(connection);
        return questions.scan_audit(range);
    });
}

Result<std::vector<AuditHead>> PostgresStorage::get_audit_heads(std::span<const StreamId> streams) {
    return on_connection([&](Connection& connection) {
        doubts_.settle(connection);
        return Questions(connection, clock_).get_audit_heads(streams);
    });
}

Result<bool> PostgresStorage::may_erase_audit() {
    return on_connection([&](Connection& connection) {
        Rows rows = connection.run("select has_table_privilege('audit', 'delete')");
        bool may = false;
        if (rows.next()) rows.read(may);
        return may;
    });
}

Result<std::unique_ptr<StorageReader>> PostgresStorage::snapshot() {
    return guard([&]() -> std::unique_ptr<StorageReader> { return std::make_unique<Snapshot>(pool_.open(), clock_); });
}

// ---- housekeeping ----

void PostgresStorage::idle() {
    if (is_read_only_ || !is_time(mutex_, extended_at_, between_extensions)) return;
    // Without the right to it the default partition takes what comes.
    (void)on_connection([&](Connection& connection) { extend_audit(connection); });
}

Storage::Stats PostgresStorage::stats() {
    if (is_time(mutex_, sized_at_, between_sizes)) {
        (void)on_connection([&](Connection& connection) {
            Rows rows = connection.run("select pg_database_size(current_database())");
            std::uint64_t bytes = 0;
            if (rows.next()) rows.read(bytes);
            std::lock_guard lock(mutex_);
            database_bytes_ = bytes;
        });
    }
    Stats stats;
    std::lock_guard lock(mutex_);
    stats.database_bytes = database_bytes_;
    return stats;
}

}  // namespace
}  // namespace kv::postgres

namespace kv {

Result<std::unique_ptr<Storage>> open_postgres_storage(const PostgresOptions& options) {
    return contain([&]() -> Result<std::unique_ptr<Storage>> {
        KV_TRY(std::string conninfo, postgres::make_conninfo(options));
        auto storage = std::make_unique<postgres::PostgresStorage>(std::move(conninfo), options);
        KV_CHECK(storage->open());
        return std::unique_ptr<Storage>(std::move(storage));
    });
}

Result<std::int64_t> migrate_postgres(const PostgresOptions& options) {
    return contain([&]() -> Result<std::int64_t> {
        KV_TRY(std::string conninfo, postgres::make_conninfo(options));
        return postgres::guard([&]() -> Result<std::int64_t> {
            postgres::Connection connection({std::move(conninfo)});
            return postgres::prepare_schema(connection);
        });
    });
}

std::string postgres_schema_sql(std::string_view role, AuditRemoval removal) { return postgres::schema_sql(role, removal); }

}  // namespace kv
