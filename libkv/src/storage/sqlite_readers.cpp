#include "storage/sqlite_readers.h"

#include "storage/answers.h"
#include "storage/sqlite_questions.h"
#include "storage/sqlite_schema.h"

namespace kv::sqlite {

// ---- Readers ----

// Where no further connection can be opened, for want of file descriptors perhaps, those that are open have to do.
std::unique_ptr<ReadConnection> Readers::take() {
    bool may_open = true;
    while (true) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] {
            return is_closed_ || !free_.empty() || open_ == 0 || (may_open && open_ < limit_);
        });
        if (is_closed_) return nullptr;
        if (!free_.empty()) {
            auto reader = std::move(free_.back());
            free_.pop_back();
            return reader;
        }
        ++open_;
        lock.unlock();
        try {
            return std::make_unique<ReadConnection>(source_);
        } catch (...) {
            give_back(nullptr);
            if (!has_open()) throw;
            may_open = false;
        }
    }
}

bool Readers::has_open() {
    std::lock_guard lock(mutex_);
    return open_ > 0;
}

void Readers::give_back(std::unique_ptr<ReadConnection> reader) noexcept {
    if (reader && !reader->connection.is_idle()) reader.reset();
    std::lock_guard lock(mutex_);
    if (reader) {
        free_.push_back(std::move(reader));  // cannot throw: it has room for as many as there may be
    } else {
        --open_;
    }
    changed_.notify_all();
}

bool Readers::is_closed() {
    std::lock_guard lock(mutex_);
    return is_closed_;
}

void Readers::close() {
    std::unique_lock lock(mutex_);
    is_closed_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return free_.size() == open_; });
    free_.clear();
    open_ = 0;
}

void Readers::reopen() {
    std::lock_guard lock(mutex_);
    is_closed_ = false;
}

// ---- snapshots ----

namespace {

class Snapshot final : public rows::Answers<StorageReader, Snapshot> {
public:
    Snapshot(const ReadSource& source, Clock& clock)
        : reader_(source), transaction_(reader_.connection), clock_(clock) {
        Questions(reader_.connection, reader_.known).begin();
    }

    Result<Time> now() override { return clock_.now(); }

    template <class F>
    auto answer_with(F&& question) {
        return guard([&] {
            Questions questions(reader_.connection, reader_.known);
            return question(questions);
        });
    }

private:
    ReadConnection reader_;
    ReadTransaction transaction_;
    Clock& clock_;
};

}  // namespace

Result<std::unique_ptr<StorageReader>> make_snapshot(const ReadSource& source, Clock& clock) {
    return guard([&]() -> std::unique_ptr<StorageReader> {
        return std::make_unique<Snapshot>(source, clock);
    });
}

// ---- reading alone ----

namespace {

class ReadOnlyStorage final : public rows::Answers<Storage, ReadOnlyStorage> {
public:
    ReadOnlyStorage(File file, const std::string& vfs, std::size_t readers, Clock& clock)
        : file_(std::move(file)),
          clock_(clock),
          source_{file_.path(), vfs, Role::read_only},
          readers_(source_, readers) {}

    Result<void> open() {
        KV_TRY(auto reader, guard([&] { return readers_.take(); }));
        auto checked = guard([&] { return check_schema(reader->connection); });
        readers_.give_back(std::move(reader));
        return checked;
    }

    Result<Time> now() override { return clock_.now(); }
    Result<void> write(const std::function<Result<void>(StorageWriter&)>&) override {
        return Error{Errc::unsupported, "the storage was opened for reading alone"};
    }
    Result<std::unique_ptr<StorageReader>> snapshot() override { return make_snapshot(source_, clock_); }
    bool is_shared() const override { return true; }
    Stats stats() override { return file_.stats(); }

    template <class F>
    auto answer_with(F&& question) -> Result<decltype(question(std::declval<Questions&>()))> {
        KV_TRY(auto reader, guard([&] { return readers_.take(); }));
        return answer_once(readers_, std::move(reader), question);
    }

private:
    const File file_;
    Clock& clock_;
    const ReadSource source_;
    Readers readers_;
};

}  // namespace

Result<std::unique_ptr<Storage>> open_read_only(File file, const std::string& vfs, std::size_t readers, Clock& clock) {
    const bool is_fixed = file.lies_in_fixed_folder();
    auto storage = std::make_unique<ReadOnlyStorage>(std::move(file), vfs, readers, clock);
    Result<void> opened = storage->open();
    if (opened) return std::unique_ptr<Storage>(std::move(storage));
    if (is_fixed && opened == Errc::unavailable) {
        return Error{Errc::unavailable,
                     "the folder of the database may not be written, and reading it needs its -shm file there: "
                     "read a copy in another folder",
                     opened.error().message};
    }
    return std::move(opened).error();
}

}  // namespace kv::sqlite
