#pragma once
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kv/storage.h"
#include "storage/guard.h"
#include "storage/postgres_params.h"

struct pg_result;

namespace kv::postgres {

using SteadyTime = std::chrono::steady_clock::time_point;

// What the server refused, or that it is gone. Thrown inside the backend only, see guard(). Of what the server says only the
// five characters of its state and the name of a constraint are kept: the rest may quote rows.
struct Failure {
    std::array<char, 6> state{};
    bool is_taken_name = false;    // a unique index refused the name of a namespace
    const char* words = nullptr;   // of ours, where the state says less

    explicit Failure(std::string_view code, const char* said = nullptr) : words(said) {
        std::memcpy(state.data(), code.data(), std::min(code.size(), state.size() - 1));
    }
    std::string_view code() const { return state.data(); }
    bool has_class(std::string_view prefix) const { return code().starts_with(prefix); }
};

// States of our own choosing where the server had no chance to say one.
inline constexpr std::string_view state_connection_lost = "08006";
inline constexpr std::string_view state_no_connection = "08001";
inline constexpr std::string_view state_in_use = "55006";
// What the conditions of Statement fail with: a division by zero, and a logarithm of zero. No other statement has either.
inline constexpr std::string_view state_head_moved = "22012";
inline constexpr std::string_view state_nothing_to_archive = "2201E";

// The one place where what PostgreSQL says becomes what we say.
Error translate(const Failure& failure) noexcept;
Error translate_current_exception() noexcept;
bool is_lost_race(const Failure& failure);     // the same again may succeed
bool ends_connection(const Failure& failure);  // nothing more is to be had from this connection

// Runs f and turns what it throws into an error.
using rows::ResultOf;
template <class F>
auto guard(F&& f) noexcept {
    return rows::guard(f, &translate_current_exception);
}

// The rows of one answer. next() comes to each in turn, and its columns are read in order.
class Rows {
public:
    explicit Rows(pg_result* result);
    ~Rows();
    Rows(Rows&& other) noexcept
        : result_(std::exchange(other.result_, nullptr)), row_(other.row_), column_(other.column_) {}
    Rows& operator=(Rows&&) = delete;

    std::size_t size() const;
    bool next();
    template <class... T>
    void read(T&&... fields) {
        (read_one(fields), ...);
    }
    void skip(int columns) { column_ += columns; }
    bool is_null() const;  // the next column
    std::int64_t next_integer();
    std::string_view next_bytes();

private:
    // Bytes of another length than the column has by our schema read as zeros, which stand for nothing: no MAC matches
    // them. So they spoil their own row alone: whoever opens it judges it.
    void next_bytes(std::uint8_t* data, std::size_t size);

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
    void read_one(std::string& text) { text = next_bytes(); }
    void read_one(Time& time) { time = time_of(next_integer()); }
    void read_one(Uuid& id) { next_bytes(id.bytes.data(), id.bytes.size()); }
    template <std::size_t N>
    void read_one(std::array<std::uint8_t, N>& bytes) {
        next_bytes(bytes.data(), N);
    }
    template <class String>
    void read_one(const Blob<String>& blob) {
        blob.bytes = next_bytes();
    }
    template <class T>
    void read_one(std::optional<T>& value) {
        if (is_null()) {
            value.reset();
            ++column_;
        } else {
            read_one(value.emplace());
        }
    }

    pg_result* result_;
    int row_ = -1;
    int column_ = 0;
};

// A statement with its parameters. `sql` must live as long as the connection: a statement is known by where its text lies.
struct Asked {
    const char* sql;
    Params params;
};

struct ConnectionSettings {
    std::string conninfo;
    std::chrono::milliseconds patience{7000};  // with an answer, beyond what the server allows a statement itself
};

// One connection, opened by SOCI, with the statements that were prepared on it: they live and die with it. What SOCI cannot
// exchange (bytea, arrays, 64 bits without a sign) goes through libpq's own handle, and no call waits longer than it is told to.
//
// Threads: one at a time.
class Connection {
public:
    explicit Connection(const ConnectionSettings& settings);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    Rows run(const Asked& asked);
    Rows run(const char* sql) { return run(Asked{sql, Params()}); }
    Rows run(const char* sql, Params params) { return run(Asked{sql, std::move(params)}); }
    // Several in one round trip, each by what was committed when it began. Where one fails those behind it do not happen.
    std::vector<Rows> run_all(std::span<const Asked> asked);
    // In the same round trip as what comes next, which may be the commit: it then happens only if this did not fail. What it
    // answers is lost, so it has to fail by itself where it does not find what it should.
    void put_off(Asked asked);
    // Many statements without parameters, nothing asked.
    void execute(const char* sql, std::chrono::milliseconds patience);

    // Begins a transaction with the next statement, in the same round trip: `preamble` is asked in between, and what it
    // answers given to `hear`.
    void begin(const char* begin_sql, const char* preamble, std::function<void(Rows)> hear);
    bool has_begun() const;  // at the server
    enum class Commit { committed, unknown };
    // What the server refused is thrown, and did not happen.
    Commit commit(std::chrono::milliseconds patience);
    void roll_back() noexcept;

    // After "listen": waits until something comes in, `wake` can be read, or it is time. Throws Failure where the connection is
    // lost.
    void wait_for_notifications(int wake, SteadyTime until);
    // The payloads of what others notified meanwhile, in their order. Does not wait.
    std::vector<std::string> take_notifications();

    // Whether the next to use it finds it as it was when new.
    bool is_sound() const;
    void poison() { is_poisoned_ = true; }
    int server_process() const;
    std::uint64_t round_trips() const;

    SteadyTime opened = std::chrono::steady_clock::now();
    SteadyTime used = opened;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    bool is_poisoned_ = false;
};

}  // namespace kv::postgres
