#pragma once
#include <functional>
#include <memory>
#include <string>

#include "kv/result.h"
#include "kv/secret.h"

namespace kv {

inline constexpr std::size_t master_key_bytes = 32;

// KeyProvider supplies the master key, from which only the key that wraps the store's data keys is derived.
// Threads: called from the thread that opens the store, never later.
class KV_EXPORT KeyProvider {
public:
    virtual ~KeyProvider();
    // Exactly master_key_bytes bytes.
    virtual Result<SecretBytes> master_key() = 0;
};

// A key the host already has: exactly 32 bytes.
KV_EXPORT std::shared_ptr<KeyProvider> make_fixed_key(SecretBytes key);
// A key as text: 44 characters of base64 (padded) or 64 of hex, surrounding white space ignored.
KV_EXPORT Result<SecretBytes> parse_master_key(std::string_view text);
// A file that holds the key as text, or as its 32 raw bytes.
KV_EXPORT Result<SecretBytes> read_master_key_file(const std::string& path);
// 32 random bytes.
KV_EXPORT SecretBytes generate_master_key();
// Names a key without telling it: the first 16 hex digits of a BLAKE2b-256 of it with a domain of its own.
KV_EXPORT std::string master_key_id(const SecretBytes& key);

}  // namespace kv
