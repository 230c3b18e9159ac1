#include "storage/sqlite_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

namespace kv::sqlite {
namespace {

Error system_error(const std::string& what, int number) {
    const Errc code = number == ENOSPC || number == EDQUOT ? Errc::storage_full : Errc::unavailable;
    return {code, what + ": " + std::strerror(number)};
}

std::string real_path(const std::string& path) {
    std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
    return real ? std::string(real.get()) : std::string();
}

// Two names of one file must come to one lock.
Result<std::string> resolve(const std::string& path) {
    if (std::string real = real_path(path); !real.empty()) return real;
    struct stat status {};
    if (errno != ENOENT || ::lstat(path.c_str(), &status) == 0) {
        return system_error("the database path cannot be used", errno != 0 ? errno : ENOENT);
    }
    const std::size_t slash = path.rfind('/');
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    if (name.empty()) return Error{Errc::unavailable, "the database path names no file"};
    const std::string folder = real_path(slash == std::string::npos ? "." : path.substr(0, slash + 1));
    if (folder.empty()) return system_error("the folder of the database cannot be used", errno);
    return folder == "/" ? folder + name : folder + "/" + name;
}

// In a path these are mistakes more often than meant.
Result<void> check_path(const std::string& path) {
    for (const char c : path) {
        if (c == '"' || static_cast<unsigned char>(c) < 0x20) {
            return Error{Errc::unsupported, "a database path may not hold a double quote or a control character"};
        }
    }
    if (path.empty()) return Error{Errc::unsupported, "the database path is empty"};
    return {};
}

// WAL needs memory shared by all who open the file, which a network does not offer.
bool is_network_file_system(const std::string& folder) {
    struct statfs status {};
    if (::statfs(folder.c_str(), &status) != 0) return false;
    switch (static_cast<std::uint32_t>(status.f_type)) {
        case 0x6969:        // NFS
        case 0x517B:        // SMB
        case 0xFF534D42:    // CIFS
        case 0xFE534D42:    // SMB2
        case 0x5346414F:    // AFS
            return true;
        default: return false;
    }
}

// A process that just took the lock may not have written its id yet.
Error locked(int lock) {
    char text[32] = {};
    const ssize_t size = ::pread(lock, text, sizeof text - 1, 0);
    const long pid = size > 0 ? std::strtol(text, nullptr, 10) : 0;
    return {Errc::locked, "the database is in use by " + (pid > 0 ? "process " + std::to_string(pid) : "another process")};
}

// The lock holds without it, and a full disk is no reason not to read: a failure leaves the file empty.
void write_pid(int lock) {
    const std::string text = std::to_string(::getpid()) + "\n";
    if (::ftruncate(lock, 0) != 0) return;
    if (::pwrite(lock, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) (void)!::ftruncate(lock, 0);
}

Result<int> take_lock(const std::string& path) {
    struct Descriptor {
        int number;
        ~Descriptor() {
            if (number >= 0) ::close(number);
        }
    } lock{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (lock.number < 0) return system_error("the lock file cannot be opened", errno);
    if (::flock(lock.number, LOCK_EX | LOCK_NB) == 0) {
        write_pid(lock.number);
        return std::exchange(lock.number, -1);
    }
    return errno == EWOULDBLOCK ? locked(lock.number) : system_error("the lock file cannot be locked", errno);
}

// True if it is on the disk.
bool sync_path(const std::string& path, int flags) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    if (file < 0) return false;
    const bool is_synced = ::fsync(file) == 0;
    const int number = errno;
    ::close(file);
    errno = number;
    return is_synced;
}

// SQLite would create the file with the rights that umask leaves. An existing file is never opened here: closing any
// descriptor of it drops the locks that SQLite connections of this process hold on it.
Result<void> create(const std::string& path, const std::string& folder) {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) return {};
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return system_error("the database file cannot be created", errno);
    ::close(file);
    (void)sync_path(folder, O_DIRECTORY);
    return {};
}

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

// `path` is absolute. What is not there yet is fine.
Result<void> check_place(const std::string& path) {
    KV_CHECK(check_path(path));
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
        return Error{Errc::unavailable, "the database path is not a file"};
    }
    if (is_network_file_system(folder_of(path))) {
        return Error{Errc::unsupported, "a database cannot lie on a network file system"};
    }
    return {};
}

std::uint64_t file_size(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

}  // namespace

Result<File> File::open(const std::string& path) {
    KV_CHECK(check_path(path));
    KV_TRY(std::string real, resolve(path));
    KV_CHECK(check_place(real));
    KV_TRY(const int lock, take_lock(real + ".lock"));
    File file(std::move(real), lock);
    KV_CHECK(create(file.path_, folder_of(file.path_)));
    return file;
}

Result<File> File::find(const std::string& path) {
    KV_CHECK(check_path(path));
    std::string real = real_path(path);
    if (real.empty()) {
        if (errno == ENOENT) return Error{Errc::not_found, "there is no database at that path"};
        return system_error("the database path cannot be used", errno);
    }
    KV_CHECK(check_place(real));
    return File(std::move(real), -1);
}

bool File::lies_in_fixed_folder() const { return ::faccessat(AT_FDCWD, folder_of(path_).c_str(), W_OK, AT_EACCESS) != 0; }

Storage::Stats File::stats() const {
    Storage::Stats stats;
    stats.wal_bytes = file_size(path_ + "-wal");
    stats.database_bytes = file_size(path_);
    struct statvfs disk {};
    if (::statvfs(folder_of(path_).c_str(), &disk) == 0) {
        stats.disk_free_bytes = static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize;
        stats.disk_bytes = static_cast<std::uint64_t>(disk.f_blocks) * disk.f_frsize;
    }
    return stats;
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

File::~File() {
    if (lock_ >= 0) ::close(lock_);
}

// ---- files beside it ----

Result<void> make_empty_file(const std::string& path) {
    remove_file(path);
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return system_error("a file beside the database cannot be made", errno);
    ::close(file);
    return {};
}

Result<void> put_in_place(const std::string& file, const std::string& name) {
    if (!sync_path(file, 0) || ::rename(file.c_str(), name.c_str()) != 0 || !sync_path(folder_of(name), O_DIRECTORY)) {
        return system_error("a file beside the database cannot be written", errno);
    }
    return {};
}

void remove_file(const std::string& path) { (void)::unlink(path.c_str()); }

}  // namespace kv::sqlite
