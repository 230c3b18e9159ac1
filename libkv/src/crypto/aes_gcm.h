#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "kv/options.h"
#include "kv/result.h"
#include "kv/secret.h"

namespace kv::crypto {

inline constexpr std::size_t key_bytes = 32;
inline constexpr std::size_t nonce_bytes = 12;
inline constexpr std::size_t tag_bytes = 16;

using Nonce = std::array<std::uint8_t, nonce_bytes>;

// Picks the library and runs the self-test (a published vector on the chosen backend). Errc::unsupported if a forced
// backend cannot run on this CPU, or if the self-test fails. Call before any AesGcm is made.
Result<CryptoBackend> select_backend(CryptoBackend wanted);

// AES-256-GCM (NIST SP 800-38D) with one key, expanded once. The key lives in guarded, locked memory left out of core
// dumps; OpenSSL alone keeps its expanded form on the heap, and wipes it. Nonces are the caller's: random, 96 bits,
// never twice.
//
// Threads: any, at the same time.
class AesGcm {
public:
    // `backend` is what select_backend() gave.
    static std::unique_ptr<AesGcm> create(std::span<const std::uint8_t, key_bytes> key, CryptoBackend backend);
    virtual ~AesGcm() = default;

    // Writes ciphertext and tag: `out` has plaintext.size() + tag_bytes bytes.
    virtual Result<void> seal(const Nonce& nonce, std::string_view associated, std::string_view plaintext, char* out) const = 0;
    // `sealed` is ciphertext and tag. False, and `out` zeroed, if it was not sealed like this. `out` has
    // sealed.size() - tag_bytes bytes.
    [[nodiscard]] virtual bool open(const Nonce& nonce, std::string_view associated, std::string_view sealed, char* out) const = 0;
};

}  // namespace kv::crypto
