#pragma once
#include <sqlite3.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kv/sqlite.h"

// A folder with a database in it, and rows to put there.
namespace kv::sqlite_fixture {

namespace fs = std::filesystem;

class FixedClock final : public Clock {
public:
    Time now() override { return Time(std::chrono::seconds(1'700'000'000)); }
};

struct Folder {
    Folder() {
        std::string name = (fs::temp_directory_path() / "kv-sqlite-XXXXXX").string();
        path = ::mkdtemp(name.data());
        database = path / "kv.db";
    }
    ~Folder() { fs::remove_all(path); }

    Result<std::unique_ptr<Storage>> try_open(const fs::path& file, std::string vfs = {}) {
        return open_sqlite_storage({.path = file.string(), .vfs = std::move(vfs)}, clock);
    }
    std::unique_ptr<Storage> open(std::string vfs = {}) { return try_open(database, std::move(vfs)).value(); }
    std::string bytes() const {
        std::ifstream file(database, std::ios::binary);
        std::ostringstream all;
        all << file.rdbuf();
        return all.str();
    }

    FixedClock clock;
    fs::path path;
    fs::path database;
};

// Looks into the file past the library, as an operator with a shell would.
struct Shell {
    explicit Shell(const fs::path& file) { sqlite3_open(file.c_str(), &handle); }
    ~Shell() { sqlite3_close(handle); }
    std::string run(const std::string& sql) {
        std::string text;
        const auto collect = [](void* out, int count, char** values, char**) {
            for (int i = 0; i < count; ++i) *static_cast<std::string*>(out) += (values[i] ? values[i] : "null") + std::string(" ");
            return 0;
        };
        if (sqlite3_exec(handle, sql.c_str(), collect, &text, nullptr) != SQLITE_OK) return sqlite3_errmsg(handle);
        return text;
    }
    sqlite3* handle = nullptr;
};

inline NamespaceId ns() {
    NamespaceId id;
    id.bytes[0] = 1;
    return id;
}

inline EntryRow entry(int number, std::string key, std::string value) {
    EntryRow row;
    row.id.bytes[14] = static_cast<std::uint8_t>(number >> 8);
    row.id.bytes[15] = static_cast<std::uint8_t>(number);
    row.ns = ns();
    row.key_path = std::move(key);
    row.value = std::move(value);
    row.version = 1;
    return row;
}

inline Result<void> put(Storage& storage, std::vector<EntryRow> rows) {
    return storage.write([&](StorageWriter& writer) {
        Changeset changes;
        changes.namespaces.resize(1);
        changes.namespaces[0].id = ns();
        changes.entries = rows;
        return writer.apply(changes);
    });
}

// Of the entry at "key"; "none" without one, "failed" if it cannot be read.
inline std::string value(StorageReader& storage, const std::string& key = "key") {
    const EntryRef ref{ns(), key};
    const auto found = storage.find({&ref, 1}, {.value = true});
    if (!found) return "failed";
    return found->at(0).entry ? found->at(0).entry->value : "none";
}

}  // namespace kv::sqlite_fixture
