#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "kv/clock.h"
#include "kv/result.h"
#include "kvd/auth/grants.h"
#include "kvd/auth/jwks.h"
#include "kvd/auth/tokens.h"

namespace kvd {

// What a JWT must say, and where it says what was granted.
struct JwtRules {
    std::string issuer;
    std::string audience;
    std::string permissions_claim = "permissions";
    std::string grants_claim = "kv_grants";
    std::string application_claim = "application_id";
    std::chrono::seconds leeway{60};  // between its clock and ours
};

struct JwtClaims {
    std::string user_id;         // sub
    std::string application_id;  // empty: none, and then nothing is granted
    std::string credential_id;   // "jwt:" and the first 12 hex digits of the token's hash
    kv::Time expires_at;         // exp and the leeway
    std::shared_ptr<const Grants> grants;  // limited to the application
    bool says_grants = false;    // there is a claim for them
    std::uint64_t generation = 0;  // of the key set that proved it
};

// Verifies a JWT in compact form (RFC 7519, with the advice of RFC 8725). Of its header it takes `alg`, `kid` and `typ`; one that
// brings its own key, names where to fetch one, or has critical members is refused. `exp`, `nbf`, `iss`, `aud` and `sub` are
// required. Errc::unauthenticated in words that hold nothing of the token.
kv::Result<JwtClaims> verify_jwt(std::string_view token, const Jwks& keys, const JwtRules& rules, kv::Time now);

// JwtVerifier verifies tokens with the key set of the moment and remembers, by their hash, those that were good until they expire or
// the set is replaced.
//
// Threads: any.
class JwtVerifier {
public:
    explicit JwtVerifier(JwtRules rules) : rules_(std::move(rules)) {}

    // Whether a token looks like one: two dots, and a header that begins as JSON does.
    static bool is_jwt(std::string_view token) noexcept;
    // Errc::unavailable while there is no key set.
    kv::Result<std::shared_ptr<const JwtClaims>> verify(std::string_view token, const TokenHash& hash, kv::Time now);
    // The same of one that was verified; null: it is not remembered (any more).
    std::shared_ptr<const JwtClaims> find(const TokenHash& hash, kv::Time now) const;
    // Whether what was verified once is good still: it has not expired, and the key set is the same.
    bool holds(const JwtClaims& claims, kv::Time now) const noexcept {
        return now < claims.expires_at && claims.generation == generation_.load(std::memory_order_acquire);
    }
    // Forgets what it remembered: a key may be gone.
    void replace(std::shared_ptr<const Jwks> keys);
    bool has_keys() const;
    // Grows with each token that no key of the set fits: the set may have been replaced where it comes from.
    std::uint64_t unknown_keys() const noexcept { return unknown_keys_.load(std::memory_order_relaxed); }

private:
    static constexpr std::size_t shard_count = 16;
    static constexpr std::size_t tokens_max = 16'384;  // remembered
    struct Shard {
        mutable std::mutex mutex;
        std::unordered_map<TokenHash, std::shared_ptr<const JwtClaims>, HashOfHash> tokens;
    };
    Shard& shard_of(const TokenHash& hash) const { return shards_[hash[0] % shard_count]; }
    void remember(const TokenHash& hash, std::shared_ptr<const JwtClaims> claims, kv::Time now);

    const JwtRules rules_;
    mutable std::mutex mutex_;
    std::shared_ptr<const Jwks> keys_;
    std::atomic<std::uint64_t> generation_{0};
    std::atomic<std::uint64_t> unknown_keys_{0};
    mutable std::array<Shard, shard_count> shards_;
};

}  // namespace kvd
