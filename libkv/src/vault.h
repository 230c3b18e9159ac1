#pragma once
#include <string_view>

#include "crypto/keyring.h"
#include "kv/storage.h"
#include "seal.h"

namespace kv {

// Vault is where keys meet rows: it seals and opens values, and vouches for rows of namespaces and tokens. What a value is bound to
// always comes from the row that was asked for.
//
// Threads: any.
class Vault {
public:
    // NIST SP 800-38D, 8.3: with random nonces one key seals no more than this.
    static constexpr std::uint64_t seals_per_key_max = std::uint64_t{1} << 32;

    explicit Vault(crypto::Keyring& keys) : keys_(keys) {}

    Mac namespace_mac(const NamespaceRow& row) const;
    bool is_intact(const NamespaceRow& row) const;

    Mac token_mac(const TokenRow& row) const;
    // Its MAC is right, and its id is that of its hash.
    bool is_intact(const TokenRow& row) const;

    // Puts `plaintext` into the row, sealed if the namespace is secret. `reader` serves the data key if it is not cached.
    // Errc::overloaded once the data key may seal no more, Errc::wrong_key if our master keys do not open it.
    Result<void> seal(StorageReader& reader, NamespaceRow& ns, EntryRow& row, std::string_view plaintext) const;

    // Errc::integrity if it does not open, or if a secret namespace holds an unsealed value or a plain one a sealed one;
    // Errc::wrong_key if our master keys do not open its data key.
    Result<SecretBytes> open(StorageReader& reader, const NamespaceRow& ns, const EntryRow& row) const;
    Result<SecretBytes> open(StorageReader& reader, const NamespaceRow& ns, std::string_view key_path,
                             const VersionRow& row) const;

    // The sealed form of an older value under the namespace's present data key.
    Result<Reseal> reseal(StorageReader& reader, NamespaceRow& ns, const EntryRow& row) const;
    Result<Reseal> reseal(StorageReader& reader, NamespaceRow& ns, const VersionRow& row) const;

    crypto::Keyring& keys() const { return keys_; }

private:
    Result<std::shared_ptr<const crypto::AesGcm>> key_for(StorageReader& reader, const NamespaceId& ns,
                                                          std::uint32_t generation) const;
    Result<void> judge_generation(StorageReader& reader, const NamespaceRow& ns, std::uint32_t generation,
                                  std::string_view key_path) const;
    Result<std::string> seal_with(StorageReader& reader, NamespaceRow& ns, const SealContext& context,
                                  std::string_view plaintext) const;
    crypto::Keyring& keys_;
};

}  // namespace kv
