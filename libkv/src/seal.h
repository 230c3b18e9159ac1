#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "crypto/aes_gcm.h"
#include "kv/storage.h"

namespace kv {

// What a sealed value is bound to, taken from the row that is asked for, never from the record.
struct SealContext {
    std::uint32_t generation = 0;
    NamespaceId ns;
    EntryId entry_id;
    std::string_view key_path;
    std::uint64_t version = 0;
    ValueType value_type = ValueType::string;
};

// Sealed record: 'K' | format 1 | algorithm 1 | generation u32 BE | nonce 12 | ciphertext | tag 16.
inline constexpr std::size_t sealed_overhead_bytes = 1 + 1 + 1 + 4 + 12 + 16;

// Draws a nonce and seals.
Result<std::string> seal_value(const crypto::AesGcm& key, const SealContext& context, std::string_view plaintext);
// The same with a given nonce: for frozen test vectors only.
Result<std::string> seal_value_with_nonce(const crypto::AesGcm& key, const SealContext& context, std::string_view plaintext,
                                          const crypto::Nonce& nonce);
// Errc::integrity if the record is malformed, names another generation, or does not open.
Result<SecretBytes> open_value(const crypto::AesGcm& key, const SealContext& context, std::string_view record);

}  // namespace kv
