#pragma once
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "storage/rows.h"

// What goes to PostgreSQL and comes back, in its binary formats: nothing is escaped, and no zero byte cuts a value.
namespace kv::postgres {

// The server's numbers of the types we use (pg_type.oid), which never change.
enum class Type : std::uint32_t { boolean = 16, bytea = 17, int8 = 20, int2 = 21, text = 25, timestamptz = 1184, uuid = 2950 };

template <class T>
struct TypeOf {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    static constexpr Type value = std::is_enum_v<T> ? Type::int2 : Type::int8;
};
template <>
struct TypeOf<bool> { static constexpr Type value = Type::boolean; };
template <>
struct TypeOf<std::string> { static constexpr Type value = Type::text; };
template <>
struct TypeOf<std::string_view> { static constexpr Type value = Type::text; };
template <>
struct TypeOf<Time> { static constexpr Type value = Type::timestamptz; };
template <>
struct TypeOf<Uuid> { static constexpr Type value = Type::uuid; };
template <std::size_t N>
struct TypeOf<std::array<std::uint8_t, N>> { static constexpr Type value = Type::bytea; };
template <class String>
struct TypeOf<Blob<String>> { static constexpr Type value = Type::bytea; };
template <class T>
struct TypeOf<std::optional<T>> : TypeOf<T> {};
template <class T>
inline constexpr Type type_of = TypeOf<std::remove_cvref_t<T>>::value;

template <class Integer>
void put_number(std::string& out, Integer value) {
    const auto bits = static_cast<std::make_unsigned_t<Integer>>(value);
    std::array<char, sizeof bits> bytes;
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(bits >> (8 * (bytes.size() - 1 - i)));
    out.append(bytes.data(), bytes.size());
}

// Microseconds since 2000, as the server counts. Its infinities stand for what lies beyond the times it knows.
std::int64_t server_time(Time time);
Time time_of(std::int64_t server_time);

// ---- one value ----

template <class T>
    requires std::is_integral_v<T> || std::is_enum_v<T>
void put_value(std::string& out, T value) {
    if constexpr (std::is_same_v<T, bool>) {
        out.push_back(value ? '\1' : '\0');
    } else if constexpr (std::is_enum_v<T>) {
        put_number(out, static_cast<std::int16_t>(value));
    } else {
        put_number(out, static_cast<std::int64_t>(value));  // 64 bits without a sign keep their bits
    }
}
inline void put_value(std::string& out, std::string_view text) { out += text; }
inline void put_value(std::string& out, const std::string& text) { out += text; }
inline void put_value(std::string& out, Time time) { put_number(out, server_time(time)); }
inline void put_value(std::string& out, const Uuid& id) {
    out.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
}
template <std::size_t N>
void put_value(std::string& out, const std::array<std::uint8_t, N>& bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), N);
}
template <class String>
void put_value(std::string& out, const Blob<String>& blob) {
    out += blob.bytes;
}

// ---- arrays ----

// One dimension, of elements of one type, any of which may be null.
class Array {
public:
    explicit Array(Type type);

    template <class T>
    void push(const T& value) {
        const std::size_t length_at = bytes_.size();
        put_number(bytes_, std::int32_t{0});
        put_value(bytes_, value);
        set_length(length_at);
        ++count_;
    }
    template <class T>
    void push(const std::optional<T>& value) {
        if (value) {
            push(*value);
        } else {
            push_null();
        }
    }
    void push_null();
    // The whole, as the server reads it. Leaves nothing here.
    std::string take();

private:
    void set_length(std::size_t at);

    std::int32_t count_ = 0;
    bool has_null_ = false;
    std::string bytes_;  // a head, and the elements behind it
};

// ---- the parameters of one statement ----

class Params {
public:
    template <class... T>
    explicit Params(const T&... values) {
        (add(values), ...);
    }

    template <class T>
    void add(const T& value) {
        put_value(next(), value);
    }
    template <class T>
    void add(const std::optional<T>& value) {
        if (value) {
            add(*value);
        } else {
            add_null();
        }
    }
    void add(Array array) { next() = array.take(); }
    void add_null();

    // An array of what `field` gives of each item.
    template <class Items, class Field>
    void add_array(const Items& items, Field&& field) {
        using T = std::remove_cvref_t<decltype(field(*std::begin(items)))>;
        Array array(type_of<T>);
        for (const auto& item : items) array.push(field(item));
        add(std::move(array));
    }
    // One array for each column that `exchange` names: the rows as columns, as unnest() takes them.
    template <class Row, class Exchange>
    void add_columns(const std::vector<Row>& rows, Exchange&& exchange) {
        std::vector<Array> columns;
        const Row none;
        exchange(none, [&](const auto&... fields) { (columns.emplace_back(type_of<decltype(fields)>), ...); });
        for (const Row& row : rows) {
            std::size_t column = 0;
            exchange(row, [&](const auto&... fields) { (columns[column++].push(fields), ...); });
        }
        for (Array& column : columns) add(std::move(column));
    }

    std::size_t size() const { return values_.size(); }
    const char* data(std::size_t i) const { return values_[i].is_null ? nullptr : values_[i].bytes.data(); }
    int length(std::size_t i) const;
    std::size_t bytes() const;  // of all

private:
    struct Value {
        std::string bytes;
        bool is_null = false;
    };
    std::string& next() { return values_.emplace_back().bytes; }
    std::vector<Value> values_;
};

// The smallest text, as the server takes it (UTF-8 without zero bytes), that is no less than `bytes`: among such texts it
// cuts a range where `bytes` would. Empty: every text is less.
std::optional<std::string> text_from(std::string_view bytes);

}  // namespace kv::postgres
