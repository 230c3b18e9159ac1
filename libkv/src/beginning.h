#pragma once
#include <memory>

#include "crypto/keyring.h"
#include "epoch.h"
#include "kv/options.h"
#include "kv/storage.h"

namespace kv {

// Errc::invalid_request for what no store can be opened with.
Result<void> check_options(const Options& options);

// What a store begins with: its keys and its epoch, drawn and written down where the storage is new.
struct Beginning {
    std::unique_ptr<crypto::Keyring> keys;
    StoreMeta meta;
};
Result<Beginning> begin(Storage& storage, const SecretBytes& master_key, CryptoBackend backend, const SecretBytes* previous);

}  // namespace kv
