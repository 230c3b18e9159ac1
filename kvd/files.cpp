#include "kvd/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace kvd {
namespace {

class FileDescriptor {
public:
    explicit FileDescriptor(int number) : number_(number) {}
    ~FileDescriptor() {
        if (number_ >= 0) ::close(number_);
    }
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;
    int number() const noexcept { return number_; }

private:
    int number_;
};

kv::Error failed(const std::string& path, int error) {
    const kv::Errc code = error == ENOSPC || error == EDQUOT || error == EIO ? kv::Errc::unavailable : kv::Errc::invalid_request;
    return {code, path + ": " + std::generic_category().message(error)};
}

kv::Result<void> write_all(int file, const std::string& path, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(file, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return failed(path, errno);
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

kv::Result<void> sync_path(const std::string& path, int flags) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
    if (file.number() < 0 || ::fsync(file.number()) != 0) return failed(path, errno);
    return {};
}

std::string folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

kv::Result<kv::SecretBytes> read_file(const std::string& path, std::size_t bytes_max) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.number() < 0) return failed(path, errno);
    kv::SecretBytes bytes = kv::SecretBytes::of_size(4096);
    std::size_t size = 0;
    for (;;) {
        if (size == bytes.size()) {
            if (size > bytes_max) return kv::Error{kv::Errc::invalid_request, path + ": the file is too large"};
            kv::SecretBytes larger = kv::SecretBytes::of_size(size * 2);
            bytes.reveal().copy(larger.mutable_data(), size);
            bytes = std::move(larger);
        }
        const ssize_t got = ::read(file.number(), bytes.mutable_data() + size, bytes.size() - size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed(path, errno);
        if (got == 0) break;
        size += static_cast<std::size_t>(got);
    }
    bytes.truncate(size);
    return bytes;
}

kv::Result<void> write_secret_file(const std::string& path, std::string_view bytes) {
    const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR));
    if (file.number() < 0) return failed(path, errno);
    KV_CHECK(write_all(file.number(), path, bytes));
    if (::fsync(file.number()) != 0) return failed(path, errno);
    return {};
}

kv::Result<void> publish_file(const std::string& from, const std::string& to) {
    KV_CHECK(sync_path(from, 0));
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
        // Some file systems cannot do it in one step.
        if (errno != EINVAL && errno != ENOSYS) return failed(to, errno);
        if (::access(to.c_str(), F_OK) == 0) return failed(to, EEXIST);
        if (::rename(from.c_str(), to.c_str()) != 0) return failed(to, errno);
    }
    return sync_path(folder_of(to), O_DIRECTORY);
}

kv::Result<NewFile> NewFile::create(const std::string& path) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) == 0) return failed(path, EEXIST);
    NewFile file(path, -1);
    const std::string partial = file.partial();
    // What a run that was interrupted left behind goes; what another run is writing does not.
    if (const FileDescriptor left(::open(partial.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)); left.number() >= 0) {
        if (::flock(left.number(), LOCK_EX | LOCK_NB) != 0) return failed(partial, errno);
    }
    ::unlink(partial.c_str());
    file.number_ = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file.number_ < 0) return failed(partial, errno);
    if (::flock(file.number_, LOCK_EX | LOCK_NB) != 0) return failed(partial, errno);
    return file;
}

NewFile::NewFile(NewFile&& other) noexcept : path_(std::move(other.path_)), number_(std::exchange(other.number_, -1)) {}

NewFile::~NewFile() {
    if (number_ < 0) return;
    ::close(number_);
    ::unlink(partial().c_str());
}

kv::Result<void> NewFile::write(std::string_view bytes) { return write_all(number_, partial(), bytes); }

kv::Result<void> NewFile::finish() {
    KV_CHECK(publish_file(partial(), path_));
    ::close(std::exchange(number_, -1));
    return {};
}

Exposure exposure_of(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return Exposure::to_nobody;
    if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0) return Exposure::to_everybody;
    return (info.st_mode & (S_IRGRP | S_IWGRP)) != 0 ? Exposure::to_group : Exposure::to_nobody;
}

}  // namespace kvd
