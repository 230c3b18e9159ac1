#include "kv/sqlite.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "out_of_memory.h"
#include "storage/answers.h"
#include "storage/sqlite_changes.h"
#include "storage/sqlite_connection.h"
#include "storage/sqlite_file.h"
#include "storage/sqlite_questions.h"
#include "storage/sqlite_readers.h"
#include "storage/sqlite_reserve.h"
#include "storage/sqlite_schema.h"

namespace kv::sqlite {
namespace {

// In pages of 4 KiB. Beyond the first the writer checkpoints as far as readers let it; beyond the second it also tries to
// start the file anew, which needs a moment without readers. Where room is short it does both early.
constexpr std::size_t wal_pages_checkpoint = 1024;
constexpr std::size_t wal_pages_truncate = 16 * 1024;
constexpr std::chrono::milliseconds truncate_patience{100};
constexpr std::size_t wal_pages_short_of_room = 64;
constexpr std::chrono::milliseconds begin_patience_after_refusal{50};

// The checkpoint needs room in the database for what the WAL holds. On a small disk there is none for much of it.
std::size_t pages_until_checkpoint(const Storage::Stats& stats) {
    constexpr std::uint64_t page_bytes = 4096;
    if (!stats.disk_bytes) return wal_pages_checkpoint;
    const std::uint64_t share = *stats.disk_bytes / 64 / page_bytes;
    return static_cast<std::size_t>(std::clamp<std::uint64_t>(share, wal_pages_short_of_room, wal_pages_checkpoint));
}

class Writer final : public rows::Answers<StorageWriter, Writer> {
public:
    Writer(Connection& connection, Clock& clock) : connection_(connection), questions_(connection, known_, &row_ids_), clock_(clock) {}

    template <class F>
    auto answer_with(F&& question) {
        return note(guard([&] { return question(questions_); }));
    }

    Result<Time> now() override { return clock_.now(); }
    // BEGIN IMMEDIATE holds the whole database already.
    Result<std::vector<std::shared_ptr<const NamespaceRow>>> lock(std::span<const NamespaceRef> refs) override {
        return answer_with([&](Questions& questions) {
            std::vector<std::shared_ptr<const NamespaceRow>> rows;
            for (const NamespaceRef& ref : refs) rows.push_back(questions.find_namespace(ref));
            return rows;
        });
    }
    Result<std::optional<SinkRow>> lock_sink(std::string_view name) override {
        return answer_with([&](Questions& questions) { return questions.find_sink(name); });
    }
    Result<void> apply(const Changeset& changes) override {
        questions_.forget();
        return note(guard([&] { return sqlite::apply(connection_, changes, row_ids_); }));
    }

    // Of the first statement that failed: the transaction is spoilt.
    const std::optional<Error>& failure() const { return failure_; }

private:
    template <class T>
    Result<T> note(Result<T> result) {
        if (!result && !failure_) failure_ = copy_of(result.error());
        return result;
    }

    Connection& connection_;
    KnownNamespaces known_;  // for one transaction
    RowIds row_ids_;
    Questions questions_;
    Clock& clock_;
    std::optional<Error> failure_;
};

class SqliteStorage final : public rows::Answers<Storage, SqliteStorage> {
public:
    SqliteStorage(File file, const SqliteOptions& options, Clock& clock)
        : file_(std::move(file)),
          reserve_(file_.path() + ".reserve"),
          clock_(clock),
          wal_pages_checkpoint_(pages_until_checkpoint(file_.stats())),
          source_{file_.path(), options.vfs, Role::reader},
          readers_(source_, options.readers) {}
    ~SqliteStorage() override { readers_.close(); }  // before the writer, whose closing empties the WAL

    Result<void> open() {
        std::lock_guard one_at_a_time(write_mutex_);
        return open_writer();
    }

    Result<Time> now() override { return clock_.now(); }
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override;
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override;
    void idle() override;
    Result<std::unique_ptr<StorageReader>> snapshot() override;
    bool hold_back(std::uint64_t bytes) override { return reserve_.hold(bytes); }
    Stats stats() override {
        Stats stats = file_.stats();
        stats.reusable_bytes = reusable_bytes_;
        return stats;
    }

    template <class F>
    auto answer_with(F&& question) -> Result<decltype(question(std::declval<Questions&>()))>;

private:
    Result<void> open_writer();
    Result<void> ensure_open();
    Result<std::unique_ptr<ReadConnection>> take_reader();
    Result<void> run_body(const std::function<Result<void>(StorageWriter&)>& body);
    Result<void> begin();
    Result<void> commit();
    void roll_back();
    void close_all();
    void checkpoint_if_due();
    bool checkpoint(std::size_t pages);
    void vacuum();
    void note_reusable();

    File file_;  // its lock goes last
    Reserve reserve_;
    Clock& clock_;
    const std::size_t wal_pages_checkpoint_;
    const ReadSource source_;
    Readers readers_;
    std::mutex write_mutex_;
    std::unique_ptr<Connection> writer_;  // null after a failure that only a new connection gets over
    bool was_refused_ = false;  // the last transaction could not begin
    std::size_t pages_left_ = 0;  // in the WAL, when a checkpoint could not take them all
    std::atomic<std::uint64_t> reusable_bytes_ = 0;
};

// ---- opening, and opening again ----

// After a failed commit the WAL may hold a transaction that only a crash would bring to light. Closing every connection
// and opening anew lets SQLite's recovery decide now, and the checkpoint puts on disk what it decided.
//
// A snapshot, or another process that reads the file, may keep its connection meanwhile: then there is no recovery, the
// transaction stays out, and the WAL cannot start anew. So a commit is written over what the failed one left.
Result<void> SqliteStorage::open_writer() {
    auto opened = guard([&] {
        auto writer = std::make_unique<Connection>(source_.path, source_.vfs, Role::writer);
        Result<void> prepared = prepare_schema(*writer, source_.path);
        if (prepared) {
            writer->allow_checkpoint_on_close();
            writer_ = std::move(writer);
        }
        return prepared;
    });
    KV_CHECK(opened);
    auto settled = guard([&] {
        if (!writer_->checkpoint_truncate()) rewrite_schema_version(*writer_);
    });
    if (!settled && settled.error().code != Errc::storage_full) {
        close_all();
        return std::move(settled).error();
    }
    pages_left_ = 0;
    note_reusable();
    readers_.reopen();
    return {};
}

void SqliteStorage::close_all() {
    readers_.close();
    writer_.reset();
}

Result<void> SqliteStorage::ensure_open() {
    if (writer_) return {};
    return open_writer();
}

// ---- reading ----

Result<std::unique_ptr<ReadConnection>> SqliteStorage::take_reader() {
    for (int attempt = 0; attempt < 3; ++attempt) {
        KV_TRY(auto reader, guard([&] { return readers_.take(); }));
        if (reader) return reader;
        std::lock_guard one_at_a_time(write_mutex_);
        KV_CHECK(ensure_open());
    }
    return Error{Errc::unavailable, "the database is being opened again"};
}

Result<std::unique_ptr<StorageReader>> SqliteStorage::snapshot() {
    if (readers_.is_closed()) {
        std::lock_guard one_at_a_time(write_mutex_);
        KV_CHECK(ensure_open());
    }
    return make_snapshot(source_, clock_);
}

template <class F>
auto SqliteStorage::answer_with(F&& question) -> Result<decltype(question(std::declval<Questions&>()))> {
    KV_TRY(auto reader, take_reader());
    return answer_once(readers_, std::move(reader), question);
}

Result<std::vector<Found>> SqliteStorage::find(std::span<const EntryRef> refs, Want want) {
    if (refs.size() != 1) return Answers::find(refs, want);
    KV_TRY(auto reader, take_reader());
    return find_once(readers_, std::move(reader), refs.front(), want);
}

// ---- writing ----

Result<void> SqliteStorage::write(const std::function<Result<void>(StorageWriter&)>& body) {
    std::lock_guard one_at_a_time(write_mutex_);
    KV_CHECK(ensure_open());
    checkpoint_if_due();
    if (auto begun = begin(); !begun) {
        roll_back();
        return begun;
    }
    Result<void> done = run_body(body);
    if (!done) {
        roll_back();
        return done;
    }
    return commit();
}

// Immediate, because a transaction that begins by reading cannot always become a writing one. When one waited in vain those
// after it hardly wait: what is queued would otherwise be refused at the rate of one in five seconds.
Result<void> SqliteStorage::begin() {
    Result<void> begun = guard([&] {
        if (was_refused_) writer_->wait_for_locks(begin_patience_after_refusal);
        writer_->execute("begin immediate");
        if (was_refused_) writer_->wait_for_locks(lock_patience);
    });
    was_refused_ = !begun;
    return begun;
}

Result<void> SqliteStorage::run_body(const std::function<Result<void>(StorageWriter&)>& body) {
    Writer writer(*writer_, clock_);
    try {
        KV_CHECK(body(writer));
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (const std::exception&) {
        return make_error(Errc::internal, "the write was ended by an exception");
    }
    // A body that goes on after a failure would commit a part. SQLite may even have rolled back on its own, and what
    // followed would have committed by itself.
    if (writer.failure()) return copy_of(*writer.failure());
    if (!writer_->in_transaction()) return make_error(Errc::internal, "the transaction ended by itself");
    return {};
}

// The frame that makes a transaction valid is written during COMMIT. A disk that is full refuses it whole; after any
// other failure nobody knows.
Result<void> SqliteStorage::commit() {
    try {
        writer_->execute("commit");
        return {};
    } catch (const Failure& failure) {
        if (is_disk_full(failure.code)) {
            roll_back();
            return translate(failure.code);
        }
        close_all();
        (void)ensure_open();  // if it fails, the next call tries again
        Error unknown = make_error(Errc::outcome_unknown, "the commit may have happened");
        attempt([&] {
            Error cause = translate(failure.code);
            unknown.message += ": " + cause.message;
            unknown.detail = std::move(cause.detail);
        });
        return unknown;
    } catch (const std::bad_alloc&) {
        // There was no memory for the statement, so it did not run.
        roll_back();
        return out_of_memory();
    }
}

void SqliteStorage::roll_back() {
    auto rolled_back = guard([&] {
        if (writer_->in_transaction()) writer_->execute("rollback");
    });
    if (!rolled_back || !writer_->is_idle()) close_all();
}

// ---- housekeeping ----

// Between transactions, by the connection that writes: two of them at it is what SQLite before 3.51.3 cannot stand.
// A failure here fails nothing else: the WAL only goes on growing.
void SqliteStorage::checkpoint_if_due() {
    const std::size_t step = reserve_.is_let_go() ? wal_pages_short_of_room : wal_pages_checkpoint_;
    const std::size_t pages = writer_->wal_pages();
    if (pages < pages_left_) pages_left_ = 0;  // the file has started anew
    if (pages < pages_left_ + step) return;
    const auto is_complete = guard([&] { return checkpoint(pages); });
    pages_left_ = is_complete && *is_complete ? 0 : pages;
    note_reusable();
}

bool SqliteStorage::checkpoint(std::size_t pages) {
    // One reader after the other would keep the file from starting anew, and there is no room for it to grow.
    if (reserve_.is_let_go()) return writer_->checkpoint_truncate(truncate_patience);
    const bool is_complete = writer_->checkpoint_passive();
    return pages >= wal_pages_truncate ? writer_->checkpoint_truncate() : is_complete;
}

// By steps, and smaller ones where what a step writes may not find room.
void SqliteStorage::vacuum() {
    if (writer_->ask_integer("pragma freelist_count") == 0) return;
    writer_->execute(reserve_.is_let_go() ? "pragma incremental_vacuum(16)" : "pragma incremental_vacuum(256)");
}

void SqliteStorage::note_reusable() {
    const auto bytes = guard([&] {
        return writer_->ask_integer("pragma freelist_count") * writer_->ask_integer("pragma page_size");
    });
    if (bytes) reusable_bytes_ = static_cast<std::uint64_t>(*bytes);
}

// A disk that is full may refuse the one and let the other, which makes room, go on.
void SqliteStorage::idle() {
    std::lock_guard one_at_a_time(write_mutex_);
    if (!writer_) return;
    if (!guard([&] { vacuum(); })) {
        roll_back();
        if (!writer_) return;
    }
    const auto is_emptied = guard([&] { return file_.stats().wal_bytes > 0 && writer_->checkpoint_truncate(); });
    if (is_emptied && *is_emptied) pages_left_ = 0;
    note_reusable();
}

}  // namespace
}  // namespace kv::sqlite

namespace kv {

Result<std::unique_ptr<Storage>> open_sqlite_storage(const SqliteOptions& options, Clock& clock) {
    return contain([&]() -> Result<std::unique_ptr<Storage>> {
        KV_CHECK(sqlite::check_library());
        if (options.read_only) {
            KV_TRY(sqlite::File found, sqlite::File::find(options.path));
            return sqlite::open_read_only(std::move(found), options.vfs, options.readers, clock);
        }
        KV_TRY(sqlite::File file, sqlite::File::open(options.path));
        auto storage = std::make_unique<sqlite::SqliteStorage>(std::move(file), options, clock);
        KV_CHECK(storage->open());
        return std::unique_ptr<Storage>(std::move(storage));
    });
}

}  // namespace kv
