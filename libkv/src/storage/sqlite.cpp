#include "kv/sqlite.h"

#include <sys/stat.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "storage/sqlite_changes.h"
#include "storage/sqlite_connection.h"
#include "storage/sqlite_file.h"
#include "storage/sqlite_questions.h"
#include "storage/sqlite_schema.h"

namespace kv::sqlite {
namespace {

// In pages of 4 KiB. Beyond the first the writer checkpoints as far as readers let it; beyond the second it also tries to
// start the file anew, which needs a moment without readers.
constexpr std::size_t wal_pages_checkpoint = 1024;
constexpr std::size_t wal_pages_truncate = 16 * 1024;

// Answers every question through Self::answer(f), which calls f with the Questions of a connection.
template <class Base, class Self>
class Answers : public Base {
public:
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override {
        return answer([&](Questions& questions) { return questions.find(refs, want); });
    }
    Result<std::vector<NamespaceRow>> scan_namespaces(const NamespaceRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_namespaces(range); });
    }
    Result<EntryPage> scan_entries(const EntryRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_entries(range); });
    }
    Result<std::vector<VersionRow>> scan_versions(const VersionRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_versions(range); });
    }
    Result<AuditPage> scan_audit(const AuditRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_audit(range); });
    }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_events(range); });
    }
    Result<std::vector<EntryRow>> scan_due(const DueRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_due(range); });
    }
    Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) override {
        return answer([&](Questions& questions) { return questions.scan_due_versions(range); });
    }
    Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) override {
        return answer([&](Questions& questions) { return questions.get_keys(refs); });
    }
    Result<std::vector<KeyRow>> internal_keys() override {
        return answer([](Questions& questions) { return questions.internal_keys(); });
    }
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override {
        return answer([&](Questions& questions) { return questions.get_audit_heads(streams); });
    }
    Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) override {
        return answer([&](Questions& questions) { return questions.unwitnessed_audit_heads(limit); });
    }
    Result<std::vector<EntryRow>> walk_entries(const EntryWalk& walk) override {
        return answer([&](Questions& questions) { return questions.walk_entries(walk); });
    }
    Result<std::vector<VersionRow>> walk_versions(const VersionWalk& walk) override {
        return answer([&](Questions& questions) { return questions.walk_versions(walk); });
    }
    Result<std::vector<EventRow>> walk_events(const EventWalk& walk) override {
        return answer([&](Questions& questions) { return questions.walk_events(walk); });
    }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override {
        return answer([&](Questions& questions) { return questions.walk_audit_heads(walk); });
    }
    Result<std::vector<KeyRow>> walk_keys(const KeyWalk& walk) override {
        return answer([&](Questions& questions) { return questions.walk_keys(walk); });
    }
    Result<std::vector<MetaRow>> get_meta() override {
        return answer([](Questions& questions) { return questions.get_meta(); });
    }

private:
    template <class F>
    auto answer(F&& question) {
        return static_cast<Self*>(this)->answer_with(question);
    }
};

class Writer final : public Answers<StorageWriter, Writer> {
public:
    Writer(Connection& connection, Clock& clock) : connection_(connection), questions_(connection), clock_(clock) {}

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
    Result<void> apply(const Changeset& changes) override {
        questions_.forget();
        return note(guard([&] { return sqlite::apply(connection_, changes); }));
    }

    // Of the first statement that failed: the transaction is spoilt.
    const std::optional<Error>& failure() const { return failure_; }

private:
    template <class T>
    Result<T> note(Result<T> result) {
        if (!result && !failure_) failure_ = result.error();
        return result;
    }

    Connection& connection_;
    Questions questions_;
    Clock& clock_;
    std::optional<Error> failure_;
};

// Read connections, opened when they are needed and as many as allowed.
class Readers {
public:
    Readers(const std::string& path, const std::string& vfs, std::size_t limit)
        : path_(path), vfs_(vfs), limit_(limit == 0 ? 1 : limit) {}

    // Waits for a connection. Null: closed. Throws Failure.
    std::unique_ptr<Connection> take() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return is_closed_ || !free_.empty() || open_ < limit_; });
        if (is_closed_) return nullptr;
        if (!free_.empty()) {
            auto connection = std::move(free_.back());
            free_.pop_back();
            return connection;
        }
        ++open_;
        lock.unlock();
        try {
            return std::make_unique<Connection>(path_, vfs_, Role::reader);
        } catch (...) {
            give_back(nullptr);
            throw;
        }
    }
    // One that could not end its transaction is not used again.
    void give_back(std::unique_ptr<Connection> connection) {
        if (connection && !connection->is_idle()) connection.reset();
        std::lock_guard lock(mutex_);
        if (connection) {
            free_.push_back(std::move(connection));
        } else {
            --open_;
        }
        changed_.notify_all();
    }
    // Waits until all are back.
    void close() {
        std::unique_lock lock(mutex_);
        is_closed_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return free_.size() == open_; });
        free_.clear();
        open_ = 0;
    }
    void reopen() {
        std::lock_guard lock(mutex_);
        is_closed_ = false;
    }

private:
    const std::string path_;
    const std::string vfs_;
    const std::size_t limit_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::unique_ptr<Connection>> free_;
    std::size_t open_ = 0;  // free or taken
    bool is_closed_ = false;
};

class SqliteStorage final : public Answers<Storage, SqliteStorage> {
public:
    SqliteStorage(File file, const SqliteOptions& options, Clock& clock)
        : file_(std::move(file)),
          vfs_(options.vfs),
          clock_(clock),
          readers_(file_.path(), options.vfs, options.readers) {}
    ~SqliteStorage() override { readers_.close(); }  // before the writer, whose closing empties the WAL

    Result<void> open() {
        std::lock_guard one_at_a_time(write_mutex_);
        return open_writer();
    }

    Result<Time> now() override { return clock_.now(); }
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override;
    void idle() override;
    Result<std::unique_ptr<StorageReader>> snapshot() override {
        return Error{Errc::unsupported, "this storage gives no snapshots"};
    }
    Stats stats() override {
        Stats stats;
        stats.wal_bytes = file_size(file_.path() + "-wal");
        stats.database_bytes = file_size(file_.path());
        return stats;
    }

    template <class F>
    auto answer_with(F&& question) -> Result<decltype(question(std::declval<Questions&>()))>;

private:
    static std::uint64_t file_size(const std::string& path) {
        struct stat status {};
        return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
    }
    Result<void> open_writer();
    Result<void> ensure_open();
    Result<std::unique_ptr<Connection>> take_reader();
    Result<void> run_body(const std::function<Result<void>(StorageWriter&)>& body);
    Result<void> commit();
    void roll_back();
    void close_all();
    void checkpoint_if_due();

    File file_;  // its lock goes last
    const std::string vfs_;
    Clock& clock_;
    Readers readers_;
    std::mutex write_mutex_;
    std::unique_ptr<Connection> writer_;  // null after a failure that only a new connection gets over
    std::size_t checkpoint_at_ = wal_pages_checkpoint;
};

// ---- opening, and opening again ----

// After a failed commit the WAL may hold a transaction that only a crash would bring to light. Closing every connection
// and opening anew lets SQLite's recovery decide now, and the checkpoint puts on disk what it decided.
Result<void> SqliteStorage::open_writer() {
    auto opened = guard([&] {
        auto writer = std::make_unique<Connection>(file_.path(), vfs_, Role::writer);
        Result<void> prepared = prepare_schema(*writer);
        if (prepared) {
            writer->allow_checkpoint_on_close();
            writer_ = std::move(writer);
        }
        return prepared;
    });
    KV_CHECK(opened);
    auto checkpointed = guard([&] { return writer_->checkpoint_truncate(); });
    if (!checkpointed && checkpointed.error().code != Errc::storage_full) {
        close_all();
        return std::move(checkpointed).error();
    }
    checkpoint_at_ = wal_pages_checkpoint;
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

Result<std::unique_ptr<Connection>> SqliteStorage::take_reader() {
    for (int attempt = 0; attempt < 3; ++attempt) {
        KV_TRY(auto reader, guard([&] { return readers_.take(); }));
        if (reader) return reader;
        std::lock_guard one_at_a_time(write_mutex_);
        KV_CHECK(ensure_open());
    }
    return Error{Errc::unavailable, "the database is being opened again"};
}

template <class F>
auto SqliteStorage::answer_with(F&& question) -> Result<decltype(question(std::declval<Questions&>()))> {
    KV_TRY(auto reader, take_reader());
    auto answered = guard([&] {
        ReadTransaction snapshot(*reader);
        Questions questions(*reader);
        return question(questions);
    });
    readers_.give_back(std::move(reader));
    return answered;
}

// ---- writing ----

Result<void> SqliteStorage::write(const std::function<Result<void>(StorageWriter&)>& body) {
    std::lock_guard one_at_a_time(write_mutex_);
    KV_CHECK(ensure_open());
    checkpoint_if_due();
    // Immediate, because a transaction that begins by reading cannot always become a writing one.
    if (auto begun = guard([&] { writer_->execute("begin immediate"); }); !begun) {
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

Result<void> SqliteStorage::run_body(const std::function<Result<void>(StorageWriter&)>& body) {
    Writer writer(*writer_, clock_);
    try {
        KV_CHECK(body(writer));
    } catch (const std::exception&) {
        return Error{Errc::internal, "the write was ended by an exception"};
    }
    // A body that goes on after a failure would commit a part. SQLite may even have rolled back on its own, and what
    // followed would have committed by itself.
    if (writer.failure()) return *writer.failure();
    if (!writer_->in_transaction()) return Error{Errc::internal, "the transaction ended by itself"};
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
        Error cause = translate(failure.code);
        close_all();
        (void)ensure_open();  // if it fails, the next call tries again
        return Error{Errc::outcome_unknown, "the commit may have happened: " + cause.message, cause.detail};
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
    const std::size_t pages = writer_->wal_pages();
    if (pages < checkpoint_at_) return;
    auto done = guard([&] {
        const bool is_complete = writer_->checkpoint_passive();
        if (pages >= wal_pages_truncate) return writer_->checkpoint_truncate();
        return is_complete;
    });
    checkpoint_at_ = done && *done ? wal_pages_checkpoint : pages + wal_pages_checkpoint;
}

void SqliteStorage::idle() {
    std::lock_guard one_at_a_time(write_mutex_);
    if (!writer_) return;
    auto done = guard([&] {
        if (writer_->ask_integer("pragma freelist_count") > 0) writer_->execute("pragma incremental_vacuum(256)");
        if (writer_->wal_pages() > 0 && writer_->checkpoint_truncate()) checkpoint_at_ = wal_pages_checkpoint;
    });
    if (!done) roll_back();
}

}  // namespace
}  // namespace kv::sqlite

namespace kv {

Result<std::unique_ptr<Storage>> open_sqlite_storage(const SqliteOptions& options, Clock& clock) {
    KV_CHECK(sqlite::check_library());
    KV_TRY(sqlite::File file, sqlite::File::open(options.path));
    auto storage = std::make_unique<sqlite::SqliteStorage>(std::move(file), options, clock);
    KV_CHECK(storage->open());
    return std::unique_ptr<Storage>(std::move(storage));
}

}  // namespace kv
