#include "crypto/hash.h"

#include <sodium.h>

#include <algorithm>
#include <cassert>

#include "crypto/key_memory.h"

namespace kv::crypto {
namespace {

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

// The calls fail for sizes outside the algorithm only, and ours are fixed.

Mac blake2b(std::string_view data) {
    require_sodium();
    Mac mac;
    crypto_generichash(mac.data(), mac.size(), bytes_of(data), data.size(), nullptr, 0);
    return mac;
}

Mac sha256(std::string_view data) {
    Mac hash;
    static_assert(std::tuple_size_v<Mac> == crypto_hash_sha256_BYTES);
    crypto_hash_sha256(hash.data(), reinterpret_cast<const unsigned char*>(data.data()), data.size());
    return hash;
}

Mac blake2b_keyed(std::span<const std::uint8_t, 32> key, std::initializer_list<std::string_view> parts) {
    require_sodium();
    crypto_generichash_state state;
    crypto_generichash_init(&state, key.data(), key.size(), std::tuple_size_v<Mac>);
    for (std::string_view part : parts) crypto_generichash_update(&state, bytes_of(part), part.size());
    Mac mac;
    crypto_generichash_final(&state, mac.data(), mac.size());
    secure_wipe(&state, sizeof state);
    return mac;
}

Mac blake2b_named(std::string_view name, std::string_view data) {
    assert(!name.empty() && name.size() <= Key{}.size());
    Key key{};
    std::copy(name.begin(), name.end(), key.begin());
    return blake2b_keyed(key, {data});
}

struct KeyedHash::State {
    crypto_generichash_state hash;
};

KeyedHash::KeyedHash(std::span<const std::uint8_t, 32> key) : state_(std::make_unique<State>()) {
    require_sodium();
    crypto_generichash_init(&state_->hash, key.data(), key.size(), std::tuple_size_v<Mac>);
}

KeyedHash::~KeyedHash() { secure_wipe(state_.get(), sizeof *state_); }

void KeyedHash::update(std::string_view part) {
    crypto_generichash_update(&state_->hash, bytes_of(part), part.size());
}

Mac KeyedHash::finish() {
    Mac mac;
    crypto_generichash_final(&state_->hash, mac.data(), mac.size());
    return mac;
}

bool equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
    return a.size() == b.size() && (a.empty() || sodium_memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace kv::crypto
