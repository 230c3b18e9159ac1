#pragma once
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "crypto/aes_gcm.h"
#include "crypto/hash.h"
#include "kv/keys.h"
#include "kv/storage.h"

namespace kv::crypto {

// BLAKE2b-256 keyed by the audit key over the stream id: the key of one audit stream.
Key audit_stream_key(std::span<const std::uint8_t, key_bytes> audit_key, const StreamId& stream);

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
    // `previous` is the master key before, while it is being changed (the same key twice is one key): it opens what the
    // current one does not, and what is made anew is wrapped by both as long as it opens the canary. Internal rows that
    // lack a wrap by the current key are wrapped anew, and must be written as those of a new store.
    static Result<std::unique_ptr<Keyring>> open(const SecretBytes& master_key, CryptoBackend backend, std::vector<KeyRow> stored,
                                                 Time now, const SecretBytes* previous = nullptr);
    ~Keyring();

    std::vector<KeyRow> take_new_rows();
    const std::string& key_id() const noexcept;
    std::string previous_key_id() const;  // empty: there is none
    // Whether new rows are wrapped by the previous key too. Once it is forgotten it must not come back.
    bool wraps_by_previous() const noexcept;
    void stop_wrapping_by_previous() noexcept;
    CryptoBackend backend() const noexcept;

    // Draws and wraps a data key; use it after its row is committed (adopt() or load).
    Result<KeyRow> make_data_key(const NamespaceId& ns, const std::string& application_id, std::uint32_t generation, Time now) const;

    // The cached data key, or null if its row must be loaded and adopted first.
    // Shared because sealing may go on while the cache forgets a purged namespace.
    std::shared_ptr<const AesGcm> data_key(const NamespaceId& ns, std::uint32_t generation) const;
    // Unwraps a data key row and caches it. Errc::integrity if it does not open or was made for another namespace.
    Result<std::shared_ptr<const AesGcm>> adopt(const KeyRow& row);
    void forget(const NamespaceId& ns);
    void forget(const NamespaceId& ns, std::uint32_t generation);

    // The row with a wrap by the current key beside the one that opened it; as it is if it has one. A wrap by any other key
    // gives way. Errc::wrong_key if neither of our keys is named by it, Errc::integrity if it does not open.
    Result<KeyRow> rewrap(const KeyRow& row) const;
    // Whether the current key opens the row; Errc::integrity if not.
    Result<void> check(const KeyRow& row) const;

    // MACs with the internal keys.
    Mac row_mac(std::string_view canonical) const;
    Mac cursor_mac(std::string_view canonical) const;
    // For a purpose of its own, named by `context`: derived from the row MAC key, whose messages begin otherwise.
    Key derived_key(std::string_view context) const;
    // The key of one audit stream.
    Key audit_stream_key(const StreamId& stream) const;

private:
    struct State;
    explicit Keyring(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace kv::crypto
