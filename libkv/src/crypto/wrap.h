#pragma once
#include <memory>
#include <span>
#include <string>

#include "crypto/aes_gcm.h"
#include "kv/keys.h"
#include "kv/storage.h"

namespace kv::crypto {

// WrapKey is derived from a master key, and is all that is: it wraps the keys of a store and opens what it wrapped. The
// associated data binds a wrap to purpose, namespace, application and generation of its row, the commitment to one key.
//
// Threads: any, at the same time.
class WrapKey {
public:
    // `master_key` has master_key_bytes bytes; `backend` is what select_backend() gave.
    WrapKey(const SecretBytes& master_key, CryptoBackend backend);

    // master_key_id() of its master key.
    const std::string& id() const noexcept { return id_; }
    // Whether a wrap of the row names it.
    bool is_named_by(const KeyRow& row) const;
    // The key in the wrap that names it. Errc::integrity if there is none, or if the row was changed.
    Result<SecretBytes> open(const KeyRow& row) const;
    // A new wrap of `key` for the row.
    Result<std::string> wrap(const KeyRow& row, const SecretBytes& key) const;

private:
    std::string id_;
    std::unique_ptr<AesGcm> key_;
};

std::span<const std::uint8_t, key_bytes> as_key(const SecretBytes& key);
// Hash of a key, by which its row vouches for it.
Mac commitment_of(const SecretBytes& key);
// "data key of namespace N, generation 2".
std::string describe(const KeyRow& row);
// The key row cannot be what we wrote.
Error damaged(const KeyRow& row);

}  // namespace kv::crypto
