#include "storage/postgres_params.h"

#include <stdexcept>
#include <utility>

namespace kv::postgres {
namespace {

constexpr std::int64_t since_1970_to_2000 = 946'684'800'000'000;
constexpr std::int64_t before_all = std::numeric_limits<std::int64_t>::min();  // -infinity
constexpr std::int64_t after_all = std::numeric_limits<std::int64_t>::max();   // infinity
// What timestamptz holds, by its documentation: from 4714 BC on, and up to 294277.
constexpr std::int64_t first_time = -211'813'488'000'000'000;
constexpr std::int64_t end_of_time = 9'223'371'331'200'000'000;

}  // namespace

std::int64_t server_time(Time time) {
    const std::int64_t micros = time.time_since_epoch().count();
    if (micros < first_time + since_1970_to_2000) return before_all;
    const std::int64_t shifted = micros - since_1970_to_2000;
    return shifted < end_of_time ? shifted : after_all;
}

Time time_of(std::int64_t server_time) {
    if (server_time == before_all) return Time::min();
    if (server_time > after_all - since_1970_to_2000) return Time::max();
    return Time(Time::duration(server_time + since_1970_to_2000));
}

// ---- arrays ----

namespace {

constexpr std::int32_t null_length = -1;

// Dimensions, whether there are nulls, the type, how many elements, the index of the first.
constexpr std::size_t head_numbers = 5;
constexpr std::size_t dimensions_at = 0;
constexpr std::size_t has_null_at = 4;
constexpr std::size_t count_at = 12;
constexpr std::size_t head_of_none = 12;  // one without elements ends behind its type

void write_number(std::string& out, std::size_t at, std::int32_t value) {
    const auto bits = static_cast<std::uint32_t>(value);
    for (std::size_t i = 0; i < sizeof bits; ++i) out[at + i] = static_cast<char>(bits >> (8 * (sizeof bits - 1 - i)));
}

// The server takes no more in one message.
std::int32_t checked_length(std::size_t length) {
    if (length > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) throw std::length_error("a parameter");
    return static_cast<std::int32_t>(length);
}

}  // namespace

Array::Array(Type type) {
    bytes_.reserve(head_numbers * sizeof(std::int32_t));
    for (const std::uint32_t number : {1u, 0u, static_cast<std::uint32_t>(type), 0u, 1u}) put_number(bytes_, number);
}

void Array::set_length(std::size_t at) {
    write_number(bytes_, at, checked_length(bytes_.size() - at - sizeof(std::int32_t)));
}

void Array::push_null() {
    put_number(bytes_, null_length);
    has_null_ = true;
    ++count_;
}

std::string Array::take() {
    write_number(bytes_, dimensions_at, count_ > 0 ? 1 : 0);
    write_number(bytes_, has_null_at, has_null_ ? 1 : 0);
    write_number(bytes_, count_at, count_);
    if (count_ == 0) bytes_.resize(head_of_none);
    count_ = 0;
    return std::move(bytes_);
}

void Params::add_null() { values_.emplace_back().is_null = true; }
int Params::length(std::size_t i) const { return checked_length(values_[i].bytes.size()); }

std::size_t Params::bytes() const {
    std::size_t sum = 0;
    for (const Value& value : values_) sum += value.bytes.size();
    return sum;
}

// ---- bounds ----

namespace {

constexpr char32_t first_character = 1;
constexpr char32_t last_character = 0x10ffff;
constexpr char32_t first_surrogate = 0xd800;
constexpr char32_t last_surrogate = 0xdfff;

std::string encoded(char32_t c) {
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3f)); };
    if (c < 0x80) return {static_cast<char>(c)};
    if (c < 0x800) return {static_cast<char>(0xc0 | (c >> 6)), tail(0)};
    if (c < 0x10000) return {static_cast<char>(0xe0 | (c >> 12)), tail(6), tail(0)};
    return {static_cast<char>(0xf0 | (c >> 18)), tail(12), tail(6), tail(0)};
}

// UTF-8 sorts as the characters do.
char32_t first_not_less(std::string_view bytes) {
    char32_t low = first_character;
    char32_t high = last_character + 1;
    while (low < high) {
        const char32_t middle = low + (high - low) / 2;
        const char32_t tried = middle >= first_surrogate && middle <= last_surrogate ? last_surrogate + 1 : middle;
        if (std::string_view(encoded(tried)) < bytes) {
            low = tried + 1;
        } else {
            high = middle;
        }
    }
    return low >= first_surrogate && low <= last_surrogate ? last_surrogate + 1 : low;
}

std::size_t character_bytes(std::string_view bytes) {
    const auto lead = static_cast<unsigned char>(bytes.front());
    const std::size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return size <= bytes.size() ? size : 0;
}

// How many bytes at the start are text that the server takes.
std::size_t text_prefix(std::string_view bytes) {
    std::size_t at = 0;
    while (at < bytes.size()) {
        const std::string_view rest = bytes.substr(at);
        const std::size_t size = character_bytes(rest);
        if (size == 0) return at;
        const char32_t c = first_not_less(rest.substr(0, size));
        if (c > last_character || encoded(c) != rest.substr(0, size)) return at;
        at += size;
    }
    return at;
}

}  // namespace

std::optional<std::string> text_from(std::string_view bytes) {
    std::size_t good = text_prefix(bytes);
    if (good == bytes.size()) return std::string(bytes);
    std::string text(bytes.substr(0, good));
    char32_t next = first_not_less(bytes.substr(good));
    // Behind the last character there is none: then the character before it has to move on.
    while (next > last_character) {
        if (text.empty()) return std::nullopt;
        std::size_t start = text.size() - 1;
        while ((static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) --start;
        next = first_not_less(text.substr(start)) + 1;
        if (next == first_surrogate) next = last_surrogate + 1;
        text.resize(start);
    }
    return text + encoded(next);
}

}  // namespace kv::postgres
