#pragma once
#include <algorithm>
#include <filesystem>
#include <string>

#include "fixture.h"
#include "kv/admin.h"

namespace kv::test {

inline std::shared_ptr<KeyProvider> right_key() { return make_fixed_key(fixed_key()); }

// ---- taking and restoring ----

inline std::string drain(BackupReader& reader) {
    std::string bytes;
    while (true) {
        const auto more = reader.next(bytes);
        REQUIRE_MESSAGE(more, more.error().message);
        if (!*more) return bytes;
    }
}

inline std::string take_backup(Storage& storage) {
    auto reader = open_backup(storage, *right_key());
    REQUIRE_MESSAGE(reader, reader.error().message);
    return drain(**reader);
}

inline BackupSource source_of(const std::string& bytes, std::size_t piece) {
    return [&bytes, piece, at = std::size_t{0}]() mutable -> Result<std::string> {
        std::string part = bytes.substr(std::min(at, bytes.size()), piece);
        at += part.size();
        return part;
    };
}

inline Result<BackupInfo> restore(const std::string& bytes, Storage& target, std::size_t piece = 1000) {
    return restore_backup(source_of(bytes, piece), target, *right_key());
}

// What verification finds, one to a line.
inline std::string findings(Storage& storage) {
    const auto report = verify(storage, *right_key(), {});
    REQUIRE_MESSAGE(report, report.error().message);
    std::string text;
    for (const Finding& finding : report->findings) text += finding.kind + ": " + finding.message + "\n";
    return text;
}

// A store over somebody else's storage, with the requests and the views of the fixture.
class Reopened : public Fixture {
public:
    Reopened(const Fixture& before, Time now, const std::string& backup) : Fixture(Kind::plain) {
        clock.set(now);
        close();
        storage = make_memory_storage(clock);
        const auto restored = restore(backup, *storage);
        REQUIRE_MESSAGE(restored, restored.error().message);
        info = *restored;
        open();
        ns = before.ns;
        new_audit();
    }
    BackupInfo info;
};

struct Folder {
    std::string path;
    Folder() {
        path = (std::filesystem::temp_directory_path() / "kv-backup-XXXXXX").string();
        REQUIRE(::mkdtemp(path.data()) != nullptr);
    }
    ~Folder() { std::filesystem::remove_all(path); }
};

inline std::unique_ptr<Storage> make_sqlite(const std::string& path, Clock& clock) {
    SqliteOptions options;
    options.path = path;
    auto storage = open_sqlite_storage(options, clock);
    REQUIRE_MESSAGE(storage, storage.error().message);
    return *std::move(storage);
}

}  // namespace kv::test
