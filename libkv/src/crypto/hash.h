#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

#include "kv/storage.h"

namespace kv::crypto {

using Key = std::array<std::uint8_t, 32>;

// BLAKE2b-256 (RFC 7693), unkeyed.
Mac blake2b(std::string_view data);
// FIPS 180-4.
Mac sha256(std::string_view data);
// Keyed BLAKE2b-256 over the parts one after the other.
Mac blake2b_keyed(std::span<const std::uint8_t, 32> key, std::initializer_list<std::string_view> parts);
// BLAKE2b-256 of `data` keyed by a public name of 1 to 32 characters, so that equal data hashed for another purpose gives
// another hash.
Mac blake2b_named(std::string_view name, std::string_view data);
// Keyed BLAKE2b-256 over parts that come one after the other.
class KeyedHash {
public:
    explicit KeyedHash(std::span<const std::uint8_t, 32> key);
    ~KeyedHash();
    KeyedHash(const KeyedHash&) = delete;
    void update(std::string_view part);
    Mac finish();  // once, and nothing after it

private:
    struct State;
    std::unique_ptr<State> state_;
};
// In constant time.
bool equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b);

}  // namespace kv::crypto
