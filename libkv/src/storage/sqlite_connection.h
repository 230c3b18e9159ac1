#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "kv/storage.h"
#include "storage/guard.h"
#include "storage/rows.h"

namespace sqlite_api {
struct sqlite3;
struct sqlite3_stmt;
}  // namespace sqlite_api

namespace kv::sqlite {

// A call that SQLite answered with an (extended) result code. Thrown inside the backend only, see guard().
struct Failure {
    int code;
};

// The one place where what SQLite says becomes what we say. Neither text of the error is SQLite's message: it may
// quote what was bound.
Error translate(int code) noexcept;
// Whether the SQLite library we run with can do what we ask of it.
Result<void> check_library();
Error translate_current_exception() noexcept;
bool is_disk_full(int code);
bool is_taken_name(int code);  // a unique index refused the row

// Runs f and turns what it throws into an error.
using rows::ResultOf;
template <class F>
auto guard(F&& f) noexcept {
    return rows::guard(f, &translate_current_exception);
}

// One run of a prepared statement: parameters are bound and columns read in order. Resets the statement when it dies,
// because one left after its first row keeps its snapshot, and with it the WAL, for ever.
class Run {
public:
    explicit Run(sqlite_api::sqlite3_stmt* statement) : statement_(statement) {}
    ~Run() { reset(); }
    Run(Run&& other) noexcept : statement_(std::exchange(other.statement_, nullptr)), index_(other.index_) {}
    Run& operator=(Run&&) = delete;

    // The arguments must outlive the run: nothing is copied.
    template <class... T>
    void bind(const T&... values) {
        (bind_one(values), ...);
    }
    // False: no more rows.
    bool next();
    void finish() {
        while (next()) {
        }
    }
    // Reads the next columns of the row that next() came to.
    template <class... T>
    void read(T&&... fields) {
        (read_one(fields), ...);
    }
    std::int64_t integer(int column) const;
    std::string_view text(int column) const;

private:
    void reset() noexcept;
    void bind_null();
    void bind_integer(std::int64_t value);
    void bind_text(std::string_view text);
    void bind_blob(const void* data, std::size_t size);
    bool is_null() const;
    std::int64_t next_integer();
    std::string_view next_text();
    std::string_view next_blob();
    // Bytes of another length than the column has by our schema read as zeros, which stand for nothing: no id is made of
    // them, and no MAC matches them. So they spoil their own row alone: whoever opens it judges it.
    void next_bytes(std::uint8_t* data, std::size_t size);

    template <class T>
        requires std::is_integral_v<T> || std::is_enum_v<T>
    void bind_one(T value) {
        bind_integer(static_cast<std::int64_t>(value));
    }
    void bind_one(std::string_view text) { bind_text(text); }
    void bind_one(const std::string& text) { bind_text(text); }
    void bind_one(Time time) { bind_integer(time.time_since_epoch().count()); }
    void bind_one(const Uuid& id) { bind_blob(id.bytes.data(), id.bytes.size()); }
    void bind_one(std::nullopt_t) { bind_null(); }
    template <std::size_t N>
    void bind_one(const std::array<std::uint8_t, N>& bytes) {
        bind_blob(bytes.data(), N);
    }
    template <class String>
    void bind_one(const Blob<String>& blob) {
        bind_blob(blob.bytes.data(), blob.bytes.size());
    }
    template <class T>
    void bind_one(const std::optional<T>& value) {
        if (value) {
            bind_one(*value);
        } else {
            bind_null();
        }
    }

    template <class T>
        requires std::is_integral_v<T>
    void read_one(T& value) {
        const std::int64_t number = next_integer();
        if constexpr (sizeof(T) < sizeof number && !std::is_same_v<T, bool>) {
            value = std::in_range<T>(number) ? static_cast<T>(number) : T{0};
        } else {
            value = static_cast<T>(number);
        }
    }
    template <class T>
        requires std::is_enum_v<T>
    void read_one(T& value) {
        // A number without a name reads as zero, which spoils its own row alone: whoever opens it judges it.
        const std::int64_t number = next_integer();
        value = static_cast<T>(number >= 1 && number <= last_of<T> ? number : 0);
    }
    void read_one(std::string& text) { text = next_text(); }
    void read_one(Time& time) { time = Time(Time::duration(next_integer())); }
    void read_one(Uuid& id) { next_bytes(id.bytes.data(), id.bytes.size()); }
    template <std::size_t N>
    void read_one(std::array<std::uint8_t, N>& bytes) {
        next_bytes(bytes.data(), N);
    }
    template <class String>
    void read_one(const Blob<String>& blob) {
        blob.bytes = next_blob();
    }
    template <class T>
    void read_one(std::optional<T>& value) {
        if (is_null()) {
            value.reset();
            ++index_;
        } else {
            read_one(value.emplace());
        }
    }

    sqlite_api::sqlite3_stmt* statement_;
    int index_ = 0;  // of parameters before the first step, then of columns
};

// A reader shares the file with the writer of this process; read_only opens it without the right to change it.
enum class Role { writer, reader, read_only };

// A foreign program that looks into the file (a backup, a shell) may hold a lock for a moment.
constexpr std::chrono::milliseconds lock_patience{5000};

// One SQLite connection, opened by SOCI, with the statements SOCI prepared on it. They are prepared once and kept. What
// SOCI cannot exchange (real BLOBs, views of bytes, 64 bits without a sign) goes through the statement's own handle.
//
// Threads: one at a time.
class Connection {
public:
    Connection(const std::string& path, const std::string& vfs, Role role);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // `sql` is a literal: a statement is known by where its text lies.
    template <class... T>
    Run run(const char* sql, const T&... parameters) {
        Run run(prepare(sql));
        run.bind(parameters...);
        return run;
    }
    void execute(const char* sql) { run(sql).finish(); }
    // The first column of the first row.
    std::string ask(const char* sql);
    std::int64_t ask_integer(const char* sql);
    // Many statements, nothing asked.
    void execute_script(const char* sql);

    // Another one when what the last statement saw is another state than the one before saw.
    std::uint32_t data_version() const;
    int changes() const;  // rows the last insert, update or delete touched
    bool in_transaction() const;
    bool is_idle() const;  // no transaction, not even one that a forgotten statement holds

    // How long a statement waits for the locks of others. lock_patience until it is told otherwise.
    void wait_for_locks(std::chrono::milliseconds patience);
    // Pages in the WAL after the last commit of this connection.
    std::size_t wal_pages() const;
    // Both return true if the whole WAL is in the database now. The first never waits for readers, the second as long as
    // it is told to.
    bool checkpoint_passive();
    bool checkpoint_truncate(std::chrono::milliseconds patience = {});
    // What closing the last connection does otherwise, and only the writer may.
    void allow_checkpoint_on_close();

private:
    struct Impl;
    sqlite_api::sqlite3_stmt* prepare(const char* sql);
    std::unique_ptr<Impl> impl_;
};

// A snapshot while it lives.
class ReadTransaction {
public:
    explicit ReadTransaction(Connection& connection) : connection_(connection) { connection_.execute("begin"); }
    ~ReadTransaction();
    ReadTransaction(const ReadTransaction&) = delete;
    ReadTransaction& operator=(const ReadTransaction&) = delete;

private:
    Connection& connection_;
};

}  // namespace kv::sqlite
