#include "kvd/files.h"

#include <fcntl.h>
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
    return {kv::Errc::invalid_request, path + ": " + std::generic_category().message(error)};
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
    while (!bytes.empty()) {
        const ssize_t written = ::write(file.number(), bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return failed(path, errno);
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    if (::fsync(file.number()) != 0) return failed(path, errno);
    return {};
}

bool is_open_to_others(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0;
}

}  // namespace kvd
