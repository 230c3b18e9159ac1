#pragma once
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kv/storage.h"
#include "storage/sqlite_connection.h"
#include "storage/sqlite_file.h"
#include "storage/sqlite_questions.h"

namespace kv::sqlite {

// How to open connections that only read.
struct ReadSource {
    std::string path;
    std::string vfs;
    Role role = Role::reader;
};

// A read connection, and what it knows.
struct ReadConnection {
    explicit ReadConnection(const ReadSource& source) : connection(source.path, source.vfs, source.role) {}

    Connection connection;
    KnownNamespaces known;
};

// Read connections, opened when they are needed and as many as allowed.
//
// Threads: any.
class Readers {
public:
    Readers(ReadSource source, std::size_t limit) : source_(std::move(source)), limit_(limit == 0 ? 1 : limit) {
        free_.reserve(limit_);
    }

    // Waits for a connection. Null: closed. Throws Failure if none is open and none can be.
    std::unique_ptr<ReadConnection> take();
    // One that could not end its transaction is not used again.
    void give_back(std::unique_ptr<ReadConnection> reader) noexcept;
    bool is_closed();
    // Waits until all are back.
    void close();
    void reopen();

private:
    bool has_open();

    const ReadSource source_;
    const std::size_t limit_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::unique_ptr<ReadConnection>> free_;
    std::size_t open_ = 0;  // free or taken
    bool is_closed_ = false;
};

// Asks one question in a transaction of its own, and gives the connection back.
template <class F>
auto answer_once(Readers& readers, std::unique_ptr<ReadConnection> reader, F&& question) {
    auto answered = guard([&] {
        ReadTransaction snapshot(reader->connection);
        Questions questions(reader->connection, reader->known);
        questions.begin();
        return question(questions);
    });
    readers.give_back(std::move(reader));
    return answered;
}

// The same for a single entry, where one statement may do.
inline Result<std::vector<Found>> find_once(Readers& readers, std::unique_ptr<ReadConnection> reader, const EntryRef& ref, Want want) {
    auto found = guard([&] { return Questions(reader->connection, reader->known).find_by_one_statement(ref, want); });
    if (found && !*found) {
        return answer_once(readers, std::move(reader), [&](Questions& questions) { return questions.find(std::span(&ref, 1), want); });
    }
    readers.give_back(std::move(reader));
    if (!found) return std::move(found).error();
    return **std::move(found);
}

// A transaction on a connection of its own, which answers from what was committed when it was made.
Result<std::unique_ptr<StorageReader>> make_snapshot(const ReadSource& source, Clock& clock);

// Reads a file that somebody else may be serving.
Result<std::unique_ptr<Storage>> open_read_only(File file, const std::string& vfs, std::size_t readers, Clock& clock);

}  // namespace kv::sqlite
