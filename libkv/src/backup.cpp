#include "kv/admin.h"

namespace kv {

BackupReader::~BackupReader() = default;
Result<std::unique_ptr<BackupReader>> open_backup(Storage&, KeyProvider&) { return Error{Errc::unsupported, ""}; }
Result<BackupInfo> restore_backup(const BackupSource&, Storage&, KeyProvider&) { return Error{Errc::unsupported, ""}; }
Result<std::string> begin_epoch(Storage&, KeyProvider&) { return Error{Errc::unsupported, ""}; }

}  // namespace kv
