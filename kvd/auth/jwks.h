#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/result.h"
#include "kv/secret.h"

namespace kvd {

// Jwks holds the keys that JWTs may be signed with (RFC 7517): each for algorithms that its kind allows, and no other. Signatures
// are checked by libcjose, which knows no EdDSA.
//
// Threads: any. Immutable; shared because tokens are verified while it is replaced.
class Jwks {
public:
    enum class Algorithm : std::uint8_t { rs256, ps256, es256, hs256 };
    class Key;
    static constexpr std::size_t set_bytes_max = 256u << 10;

    // {"keys": [...]}. Keys that are of no use here are passed over: other kinds, for encryption, for other algorithms, symmetric
    // ones. Errc::invalid_request naming the place for what is malformed, weak (RSA below 2048 bits), private, or there twice;
    // and if nothing is left.
    static kv::Result<std::shared_ptr<const Jwks>> parse(std::string_view json);
    // HS256 alone, with a secret of 32 bytes at least.
    static kv::Result<std::shared_ptr<const Jwks>> of_secret(const kv::SecretBytes& secret);

    ~Jwks();
    Jwks(const Jwks&) = delete;
    Jwks& operator=(const Jwks&) = delete;

    // The key for a token's header; null if there is none, or without a `kid` more than one.
    const Key* find(Algorithm algorithm, const std::optional<std::string>& kid) const;
    // Whether the key made the signature of a token in compact form (RFC 7515), whose header says `algorithm` and whose signature
    // is `signature_bytes` long.
    static bool verify(const Key& key, Algorithm algorithm, std::string_view token, std::size_t signature_bytes);
    std::size_t size() const noexcept { return keys_.size(); }

    static std::optional<Algorithm> parse_algorithm(std::string_view name);  // "RS256"...

private:
    Jwks();
    std::vector<std::unique_ptr<Key>> keys_;
};

}  // namespace kvd
