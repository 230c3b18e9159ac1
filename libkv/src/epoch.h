#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/keyring.h"
#include "kv/storage.h"

namespace kv {

// ---- what a store knows about itself: rows of the meta table ----

inline constexpr std::string_view meta_epoch = "epoch";
inline constexpr std::string_view meta_version_base = "version_base";  // of namespaces to come
inline constexpr std::string_view meta_last_backup = "backup.last";    // the time that the last whole backup shows
inline constexpr std::string_view meta_restoring = "restoring";        // stands only while a restore goes on
inline constexpr std::string_view meta_of_storage = "storage.";        // so begins what a backend keeps for itself

struct StoreMeta {
    std::string epoch;  // empty: there is no store yet
    std::uint64_t version_base = 0;
    std::optional<Time> last_backup;
};
// Errc::invalid_state if a restore into this storage did not come to its end, Errc::integrity for what cannot be read.
Result<StoreMeta> read_store_meta(StorageReader& storage);

// ETags and cursors carry it; 64 bits are enough for a number that is drawn a few times in a store's life.
std::string draw_epoch();

// The keys of the store in `storage`. Errc::not_found if there is no store in it.
Result<std::unique_ptr<crypto::Keyring>> open_keyring(StorageReader& storage, KeyProvider& keys);

// What versions begin with in a new epoch, whose highest version so far is `highest`: a multiple of version_base_step.
std::uint64_t next_version_base(std::uint64_t highest, Time now);

// What else becomes true together with a new epoch.
struct EpochChanges {
    std::vector<MetaRow> meta;
    std::vector<std::string> erase_meta;
};
// As begin_epoch() in kv/admin.h, of a storage that only the caller writes. Running it again after it was interrupted is
// all there is to do.
Result<std::string> begin_epoch(Storage& storage, crypto::Keyring& keys, const EpochChanges& changes);

}  // namespace kv
