#pragma once
#include <cstddef>
#include <memory>
#include <string>

#include "kv/storage.h"

namespace kv {

struct SqliteOptions {
    std::string path;
    std::size_t readers = 4;    // read connections
    std::string vfs = {};       // SQLite VFS to open through; empty: the default
};

// Opens or creates a SQLite database (through SOCI), schema included. One process per file: it holds a lock on `PATH.lock`; a second
// opener gets Errc::locked naming the process id of the first. A database of a newer schema: Errc::newer_schema.
// `clock` is borrowed and must outlive the storage.
KV_EXPORT Result<std::unique_ptr<Storage>> open_sqlite_storage(const SqliteOptions& options, Clock& clock);

}  // namespace kv
