#pragma once
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "crypto/aes_gcm.h"
#include "crypto/hash.h"
#include "kv/keys.h"
#include "kv/storage.h"

namespace kv::crypto {

// Keyring holds the store's keys while it is open. Only the wrap key is derived from the master key; every other key is
// random and stored wrapped (associated data: purpose, namespace id, application, generation) with a commitment hash.
// All key bytes live in guarded memory.
//
// Threads: any, at the same time.
class Keyring {
public:
    // `stored` is every internal key row of the storage; none means a new store: then the internal keys and the canary
    // are drawn and must be written (new_rows()) before anything else is. Errc::wrong_key naming both key ids if the
    // master key does not open the canary or a wrap; Errc::integrity if a row was tampered with.
    static Result<std::unique_ptr<Keyring>> open(const SecretBytes& master_key, CryptoBackend backend,
                                                 std::vector<KeyRow> stored, Time now);
    ~Keyring();

    std::vector<KeyRow> take_new_rows();
    const std::string& key_id() const noexcept;
    CryptoBackend backend() const noexcept;

    // Draws and wraps a data key; use it after its row is committed (adopt() or load).
    Result<KeyRow> make_data_key(const NamespaceId& ns, const std::string& application_id, std::uint32_t generation, Time now) const;

    // The cached data key, or null if its row must be loaded and adopted first.
    // Shared because sealing may go on while the cache forgets a purged namespace.
    std::shared_ptr<const AesGcm> data_key(const NamespaceId& ns, std::uint32_t generation) const;
    // Unwraps a data key row and caches it. Errc::integrity if it does not open or was made for another namespace.
    Result<std::shared_ptr<const AesGcm>> adopt(const KeyRow& row);
    void forget(const NamespaceId& ns);

    // MACs with the internal keys.
    Mac row_mac(std::string_view canonical) const;
    Mac cursor_mac(std::string_view canonical) const;
    // For a purpose of its own, named by `context`: derived from the row MAC key, whose messages begin otherwise.
    Key derived_key(std::string_view context) const;
    // BLAKE2b-256 keyed by the audit key over the stream id: the key of one audit stream.
    Key audit_stream_key(const StreamId& stream) const;

private:
    struct State;
    explicit Keyring(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace kv::crypto
