#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kv/types.h"

namespace kv {

// Builds length-prefixed binary: every number big-endian, every string with a u32 length before it. What is hashed,
// MACed or used as associated data is written with this, so that no two different inputs give the same bytes.
class BytesWriter {
public:
    void u8(std::uint8_t value) { out_.push_back(static_cast<char>(value)); }
    void u32(std::uint32_t value) { big_endian(value, 4); }
    void u64(std::uint64_t value) { big_endian(value, 8); }
    void i64(std::int64_t value) { u64(static_cast<std::uint64_t>(value)); }
    void raw(std::string_view bytes) { out_.append(bytes); }
    void string(std::string_view text) {
        u32(static_cast<std::uint32_t>(text.size()));
        out_.append(text);
    }
    void uuid(const Uuid& id) { out_.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()); }
    void time(Time time) { i64(time.time_since_epoch().count()); }
    template <class T, class F>
    void optional(const std::optional<T>& value, F&& write) {
        u8(value ? 1 : 0);
        if (value) write(*value);
    }

    const std::string& str() const noexcept { return out_; }
    std::string take() { return std::move(out_); }
    void clear() { out_.clear(); }
    void reserve(std::size_t size) { out_.reserve(size); }

private:
    void big_endian(std::uint64_t value, int bytes) {
        for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) out_.push_back(static_cast<char>(value >> shift & 0xff));
    }
    std::string out_;
};

// Reads what BytesWriter wrote. After the first read beyond the end ok() is false and everything reads as zero.
class BytesReader {
public:
    explicit BytesReader(std::string_view data) : data_(data) {}
    std::uint8_t u8() { return static_cast<std::uint8_t>(big_endian(1)); }
    std::uint32_t u32() { return static_cast<std::uint32_t>(big_endian(4)); }
    std::uint64_t u64() { return big_endian(8); }
    std::int64_t i64() { return static_cast<std::int64_t>(u64()); }
    std::string_view raw(std::size_t size) {
        if (size > data_.size()) {
            ok_ = false;
            data_ = {};
            return {};
        }
        std::string_view part = data_.substr(0, size);
        data_.remove_prefix(size);
        return part;
    }
    std::string_view string() { return raw(u32()); }
    Uuid uuid() {
        Uuid id;
        std::string_view bytes = raw(id.bytes.size());
        for (std::size_t i = 0; i < bytes.size(); ++i) id.bytes[i] = static_cast<std::uint8_t>(bytes[i]);
        return id;
    }
    Time time() { return Time(std::chrono::microseconds(i64())); }
    bool ok() const noexcept { return ok_; }
    bool at_end() const noexcept { return data_.empty(); }

private:
    std::uint64_t big_endian(std::size_t bytes) {
        std::uint64_t value = 0;
        for (char byte : raw(bytes)) value = value << 8 | static_cast<std::uint8_t>(byte);
        return value;
    }
    std::string_view data_;
    bool ok_ = true;
};

}  // namespace kv
