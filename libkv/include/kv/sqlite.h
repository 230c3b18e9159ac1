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
    // Reads a database that another process may be serving: takes no lock, changes nothing, and every write is
    // Errc::unsupported. The file must exist (Errc::not_found), its schema must be the present one (older:
    // Errc::unsupported). SQLite keeps its -wal and -shm files beside it meanwhile, and leaves them there: where that folder
    // may not be written and nobody serves the database, Errc::unavailable.
    bool read_only = false;
};

// Opens or creates a SQLite database (through SOCI), schema included. One process per file: it holds a lock on
// `PATH.lock`; a second opener gets Errc::locked naming the process id of the first. A database of a newer schema:
// Errc::newer_schema. An older one is copied to `PATH.schema-N` and then migrated in one transaction; without room for the
// copy it stays as it is (Errc::storage_full). What hold_back() holds back is `PATH.reserve`. `clock` is borrowed and must
// outlive the storage.
KV_EXPORT Result<std::unique_ptr<Storage>> open_sqlite_storage(const SqliteOptions& options, Clock& clock);

// For a program whose only SQLite is ours: leaves out the counters of its memory, whose one lock every allocation of every
// connection takes, and lets each connection take memory for its pages by the hundred (2 MiB). Holds for the whole process;
// false, and nothing changed, once SQLite was used. Not thread-safe: before the first storage is opened.
KV_EXPORT bool configure_sqlite();

}  // namespace kv
