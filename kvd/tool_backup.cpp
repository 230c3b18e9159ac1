#include "kvd/tool_backup.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "kv/admin.h"
#include "kv/store.h"
#include "kvd/commands.h"
#include "kvd/files.h"
#include "kvd/tool.h"

namespace kvd {
namespace {

constexpr std::string_view sqlite_scheme = "sqlite:";
constexpr std::size_t piece_bytes = 256u << 10;

ExitCode exit_code_of(kv::Errc code) {
    switch (code) {
        case kv::Errc::integrity: return exit_not_good;
        case kv::Errc::internal:
        case kv::Errc::unavailable:
        case kv::Errc::storage_full:
        case kv::Errc::outcome_unknown: return exit_internal;
        default: return exit_config;
    }
}

int fail(const kv::Error& error) {
    std::fprintf(stderr, "kvd: %s\n", error.message.c_str());
    return exit_code_of(error.code);
}

kv::Error refusal(std::string message) { return {kv::Errc::invalid_request, std::move(message)}; }

// What failed, where.
template <class T>
kv::Result<T> at(const std::string& place, kv::Result<T> result) {
    if (!result) result.error().message = place + ": " + result.error().message;
    return result;
}

bool exists(const std::string& path) {
    struct stat info {};
    return ::lstat(path.c_str(), &info) == 0;
}

void print(std::FILE* out, const kv::BackupInfo& info) {
    std::string key_ids;
    for (const std::string& id : info.key_ids) key_ids += (key_ids.empty() ? "" : ", ") + id;
    const auto count = [&](const char* name, std::uint64_t value) {
        std::fprintf(out, "%-18s%llu\n", name, static_cast<unsigned long long>(value));
    };
    std::fprintf(out, "%-18s%s\n", "taken at:", kv::format_time(info.taken_at).c_str());
    std::fprintf(out, "%-18s%s\n", "epoch:", info.epoch.c_str());
    std::fprintf(out, "%-18s%s\n", "master key id:", key_ids.c_str());
    count("namespaces:", info.namespaces);
    count("entries:", info.entries);
    count("older versions:", info.versions);
    count("audit rows:", info.audit_rows);
    count("bytes:", info.bytes);
}

void warn_of_plain(const kv::BackupInfo& info) {
    if (info.plain_namespaces == 0) return;
    std::fprintf(stderr, "kvd: keep the file private: the values of %llu namespaces that are not secret are in it in the clear\n",
                 static_cast<unsigned long long>(info.plain_namespaces));
}

// ---- backup ----

// Where the pieces go.
class Destination {
public:
    static kv::Result<Destination> open(const std::string& path) {
        Destination destination;
        if (path == "-") return destination;
        KV_TRY(NewFile file, NewFile::create(path));
        destination.file_.emplace(std::move(file));
        return destination;
    }
    bool is_stdout() const { return !file_; }
    kv::Result<void> write(std::string_view bytes) {
        if (file_) return file_->write(bytes);
        if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size()) return {};
        return kv::Error{kv::Errc::unavailable, "cannot write to stdout"};
    }
    kv::Result<void> finish() {
        if (file_) return file_->finish();
        if (std::fflush(stdout) == 0) return {};
        return kv::Error{kv::Errc::unavailable, "cannot write to stdout"};
    }

private:
    std::optional<NewFile> file_;
};

kv::Result<kv::BackupInfo> copy(kv::BackupReader& reader, Destination& destination) {
    std::string piece;
    for (bool more = true; more;) {
        piece.clear();
        KV_TRY(more, reader.next(piece));
        KV_CHECK(destination.write(piece));
    }
    KV_CHECK(destination.finish());
    return reader.info();
}

kv::Result<kv::BackupInfo> back_up(const Command& command, kv::KeyProvider& keys, Destination& destination) {
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, at(shown_storage(command.storage), kv::open_storage(command.storage, kv::Access::read_only, *clock)));
    KV_TRY(const auto reader, at(shown_storage(command.storage), kv::open_backup(*storage, keys)));
    return copy(*reader, destination);
}

// ---- restore ----

// The database in the making, beside the one it shall become. What is left of it goes with this.
class Building {
public:
    static kv::Result<Building> begin(const std::string& uri) {
        if (!uri.starts_with(sqlite_scheme) || uri.size() == sqlite_scheme.size())
            return refusal("a restore makes a new file, --storage sqlite:PATH, or fills an empty database, --storage postgresql://HOST/DATABASE");
        Building building(uri.substr(sqlite_scheme.size()));
        if (exists(building.target_)) return taken(building.target_);
        // A log that lies there would be taken for the new file's.
        for (const char* suffix : {"-wal", "-journal"})
            if (is_filled(building.target_ + suffix)) return taken(building.target_ + suffix);
        if (is_locked(building.path_ + ".lock")) return refusal(building.path_ + " is being written by another process");
        building.remove();
        building.is_mine_ = true;
        return building;
    }
    ~Building() {
        if (is_mine_) remove();
    }
    Building(Building&& other) noexcept
        : target_(std::move(other.target_)), path_(std::move(other.path_)), is_mine_(std::exchange(other.is_mine_, false)) {}
    Building& operator=(Building&&) = delete;

    std::string uri() const { return std::string(sqlite_scheme) + path_; }
    // After the storage was closed, which puts everything into the one file.
    kv::Result<void> finish() {
        if (is_filled(path_ + "-wal"))
            return kv::Error{kv::Errc::internal, path_ + ": the database could not be closed"};
        return publish_file(path_, target_);
    }

private:
    explicit Building(std::string target) : target_(std::move(target)), path_(target_ + ".restoring") {}

    static kv::Error taken(const std::string& path) {
        return refusal(path + " exists: a restore makes a new storage, move the old one away first");
    }
    static bool is_filled(const std::string& path) {
        struct stat info {};
        return ::stat(path.c_str(), &info) == 0 && info.st_size > 0;
    }
    static bool is_locked(const std::string& path) {
        const int lock = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (lock < 0) return false;
        const bool is_free = ::flock(lock, LOCK_EX | LOCK_NB) == 0;
        ::close(lock);
        return !is_free;
    }
    void remove() const {
        for (const char* suffix : {"", "-wal", "-shm", "-journal", ".lock"}) ::unlink((path_ + suffix).c_str());
    }

    std::string target_;
    std::string path_;
    bool is_mine_ = false;
};

class Source {
public:
    explicit Source(const std::string& path) : path_(path) {}
    ~Source() {
        if (file_ > STDIN_FILENO) ::close(file_);
    }
    Source(const Source&) = delete;

    kv::Result<void> open() {
        file_ = path_ == "-" ? STDIN_FILENO : ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        return file_ >= 0 ? kv::Result<void>{} : refusal(path_ + ": " + std::strerror(errno));
    }
    kv::Result<std::string> next() const {
        std::string piece(piece_bytes, '\0');
        ssize_t size = 0;
        do size = ::read(file_, piece.data(), piece.size());
        while (size < 0 && errno == EINTR);
        if (size < 0) return kv::Error{kv::Errc::unavailable, path_ + ": " + std::strerror(errno)};
        piece.resize(static_cast<std::size_t>(size));
        return piece;
    }

private:
    const std::string path_;
    int file_ = -1;
};

std::string epoch_of(kv::Storage& storage) {
    if (const auto rows = storage.get_meta())
        for (const kv::MetaRow& row : *rows)
            if (row.name == "epoch") return row.value;
    return {};
}

struct Restored {
    kv::BackupInfo backup;
    std::string epoch;
};

// What is wrong with the backup, or with the storage.
const std::string& culprit(kv::Errc code, const std::string& backup, const std::string& storage) {
    const bool is_of_backup = code == kv::Errc::integrity || code == kv::Errc::newer_schema || code == kv::Errc::wrong_key;
    return is_of_backup ? backup : storage;
}

kv::Result<Restored> fill(const Source& source, const std::string& file, const std::string& uri, kv::KeyProvider& keys) {
    const auto clock = kv::make_system_clock();
    const std::string shown = shown_storage(uri);
    KV_TRY(const auto storage, at(shown, kv::open_storage(uri, kv::Access::alone, *clock)));
    auto backup = kv::restore_backup([&] { return source.next(); }, *storage, keys);
    if (!backup) return at(culprit(backup.error().code, file, shown), kv::Result<Restored>(std::move(backup).error()));
    return Restored{*std::move(backup), epoch_of(*storage)};
}

// A file is made beside the one it shall become. A database is filled where it is: see kv::restore_backup() for what is left
// where that does not come to its end.
kv::Result<Restored> restore(const Command& command, kv::KeyProvider& keys) {
    Source source(command.file);
    KV_CHECK(source.open());
    if (is_postgres(command.storage)) return fill(source, command.file, command.storage, keys);
    KV_TRY(Building building, Building::begin(command.storage));
    KV_TRY(Restored restored, fill(source, command.file, building.uri(), keys));
    KV_CHECK(building.finish());
    return restored;
}

kv::Result<std::string> begin_epoch(const Command& command, kv::KeyProvider& keys) {
    KV_CHECK(at(shown_storage(command.storage), must_exist(command.storage)));
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, at(shown_storage(command.storage), kv::open_storage(command.storage, kv::Access::alone, *clock)));
    return at(shown_storage(command.storage), kv::begin_epoch(*storage, keys));
}

}  // namespace

int run_backup(const Command& command, SecretVariables secrets) {
    const auto keys = load_master_key(secrets);
    if (!keys) return fail(keys.error());
    auto destination = Destination::open(command.file);
    if (!destination) return fail(destination.error());
    const auto info = back_up(command, **keys, *destination);
    if (!info) return fail(info.error());
    print(destination->is_stdout() ? stderr : stdout, *info);
    warn_of_plain(*info);
    return exit_ok;
}

int run_restore(const Command& command, SecretVariables secrets) {
    const auto keys = load_master_key(secrets);
    if (!keys) return fail(keys.error());
    const auto restored = restore(command, **keys);
    if (!restored) return fail(restored.error());
    print(stdout, restored->backup);
    std::fprintf(stdout, "%-18s%s\n", "new epoch:", restored->epoch.c_str());
    return exit_ok;
}

int run_new_epoch(const Command& command, SecretVariables secrets) {
    const auto keys = load_master_key(secrets);
    if (!keys) return fail(keys.error());
    const auto epoch = begin_epoch(command, **keys);
    if (!epoch) return fail(epoch.error());
    std::fprintf(stdout, "%-18s%s\n", "new epoch:", epoch->c_str());
    return exit_ok;
}

}  // namespace kvd
