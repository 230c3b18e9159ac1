#pragma once
#include <cassert>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kv/export.h"

namespace kv {

// Errc is the one list of failures: the same numbers in C++, C and every binding, the same names (with hyphens)
// as the `code` of an HTTP problem. Numbers are never reused.
enum class Errc : std::int32_t {
    // The request is wrong.
    invalid_request = 1,
    invalid_key = 2,
    reserved_key_segment = 3,
    invalid_value = 4,
    read_only_field = 5,
    invalid_cursor = 6,
    malformed_body = 7,

    // Who asks.
    unauthenticated = 20,
    permission_denied = 21,
    not_found = 22,

    // The transport (kvd only).
    method_not_allowed = 30,
    request_timeout = 31,
    length_required = 32,
    too_large = 33,
    target_too_long = 34,
    unsupported_media_type = 35,
    expectation_failed = 36,
    rate_limited = 37,
    headers_too_large = 38,

    // The state is not what the request needs.
    version_conflict = 50,
    namespace_exists = 51,
    history_disabled = 52,
    history_required = 53,
    immutable = 54,
    deletion_protected = 55,
    current_version = 56,
    name_conflict = 57,
    bulk_failed = 58,
    precondition_failed = 59,

    // The store cannot.
    internal = 70,
    integrity = 71,
    outcome_unknown = 72,  // the change may or may not have happened: look before repeating it
    storage_full = 73,
    unavailable = 74,
    overloaded = 75,
    audit_unavailable = 76,
    shutting_down = 77,
    clock_unsound = 78,  // Store::ready() alone: the clock jumped, so nothing is expired or destroyed

    // Only a host program meets these.
    locked = 90,           // another process holds the database file
    invalid_state = 91,    // called after fork, or waiting inside a completion callback
    wrong_key = 92,        // the master key does not open this store
    newer_schema = 93,     // the database was written by a newer libkv
    unsupported = 94,      // this build or machine cannot do what the options ask
};

// "version_conflict" -> "version-conflict".
KV_EXPORT std::string_view code_name(Errc code) noexcept;

// Error says what went wrong. `message` and the members below are made of our words, key paths and numbers, never of
// a value, and are safe for callers and logs. `detail` is a driver's words, may quote user data: debug log only.
struct Error {
    Errc code = Errc::internal;
    std::string message;
    std::string detail = {};

    std::string field = {};     // the member, query parameter or header at fault
    std::string key_path = {};  // the key at fault
    std::optional<std::uint64_t> limit = {};
    std::optional<std::uint64_t> current_version = {};
    std::vector<Error> items = {};  // one per offending item of a bulk operation

    friend bool operator==(const Error& error, Errc expected) noexcept { return error.code == expected; }
};

// Thrown by Result::value() alone, for hosts that prefer exceptions.
class KV_EXPORT Exception : public std::exception {
public:
    explicit Exception(Error error);
    ~Exception() override;
    const char* what() const noexcept override;
    const Error& error() const noexcept { return error_; }

private:
    Error error_;
};

[[noreturn]] KV_EXPORT void throw_exception(Error error);

// Result is a value or an Error, shaped like std::expected.
template <class T>
class [[nodiscard]] Result {
public:
    using value_type = T;

    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    // Throws Exception if there is no value.
    T& value() & {
        require();
        return std::get<0>(state_);
    }
    const T& value() const& {
        require();
        return std::get<0>(state_);
    }
    T value() && {  // by value, so that a loop over the value of a temporary result is safe
        require();
        return std::get<0>(std::move(state_));
    }
    template <class U>
    T value_or(U&& fallback) && {
        return has_value() ? std::get<0>(std::move(state_)) : static_cast<T>(std::forward<U>(fallback));
    }
    template <class U>
    T value_or(U&& fallback) const& {
        return has_value() ? std::get<0>(state_) : static_cast<T>(std::forward<U>(fallback));
    }

    // Without a check: has_value() must be true.
    T& operator*() & noexcept { return *std::get_if<0>(&state_); }
    const T& operator*() const& noexcept { return *std::get_if<0>(&state_); }
    T&& operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
    T* operator->() noexcept { return std::get_if<0>(&state_); }
    const T* operator->() const noexcept { return std::get_if<0>(&state_); }

    // has_value() must be false.
    Error& error() & noexcept { return *std::get_if<1>(&state_); }
    const Error& error() const& noexcept { return *std::get_if<1>(&state_); }
    Error&& error() && noexcept { return std::move(*std::get_if<1>(&state_)); }

    friend bool operator==(const Result& result, Errc wanted) noexcept {
        return !result.has_value() && result.error().code == wanted;
    }

private:
    void require() const {
        if (!has_value()) throw_exception(std::get<1>(state_));
    }
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    using value_type = void;

    Result() noexcept {}  // not defaulted: `return {};` would then zero the room for an error first
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const noexcept { return !error_.has_value(); }
    explicit operator bool() const noexcept { return has_value(); }
    void value() const {
        if (error_) throw_exception(*error_);
    }
    Error& error() & noexcept { return *error_; }
    const Error& error() const& noexcept { return *error_; }
    Error&& error() && noexcept { return std::move(*error_); }

    friend bool operator==(const Result& result, Errc wanted) noexcept {
        return !result.has_value() && result.error().code == wanted;
    }

private:
    std::optional<Error> error_;
};

// KV_TRY(auto row, find_row(id)): declares `row` from the value, or returns the error from the enclosing function.
// KV_CHECK(step()): the same for Result<void>.
#define KV_CONCAT_(a, b) a##b
#define KV_CONCAT(a, b) KV_CONCAT_(a, b)
#define KV_TRY(declaration, expression) KV_TRY_(declaration, expression, KV_CONCAT(kv_result_, __LINE__))
#define KV_TRY_(declaration, expression, name)         \
    auto name = (expression);                          \
    if (!name) return std::move(name).error();         \
    declaration = *std::move(name)
#define KV_CHECK(expression)                                                            \
    do {                                                                                \
        if (auto kv_checked = (expression); !kv_checked) return std::move(kv_checked).error(); \
    } while (false)

}  // namespace kv
