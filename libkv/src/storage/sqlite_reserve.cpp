#include "storage/sqlite_reserve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "storage/sqlite_file.h"

namespace kv::sqlite {
namespace {

constexpr std::uint64_t block_bytes = 512;  // what st_blocks counts in

bool has_blocks_for(const struct stat& status, std::uint64_t bytes) {
    return static_cast<std::uint64_t>(status.st_blocks) * block_bytes >= bytes;
}

// Blocks that the file system really gave away: a file with holes in it would hold nothing back.
bool allocate(int file, const struct stat& before, std::uint64_t bytes) {
    const auto size = static_cast<off_t>(bytes);
    if (size < 0) return false;
    if (before.st_size > size && ::ftruncate(file, size) != 0) return false;
    if (before.st_size >= size && has_blocks_for(before, bytes)) return true;
    int code = EINTR;
    while (code == EINTR) code = ::posix_fallocate(file, 0, size);
    return code == 0 && ::fsync(file) == 0;
}

// False: it is as it was, or not there if it was not there.
bool resize(const std::string& path, std::uint64_t bytes) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return false;
    struct stat before {};
    const bool is_known = ::fstat(file, &before) == 0;
    const bool is_done = is_known && allocate(file, before, bytes);
    if (!is_done && is_known && before.st_size > 0) (void)!::ftruncate(file, before.st_size);
    ::close(file);
    if (!is_done && before.st_size == 0) remove_file(path);
    return is_done;
}

}  // namespace

bool Reserve::hold(std::uint64_t bytes) {
    std::lock_guard one_at_a_time(mutex_);
    if (bytes == 0) {
        remove_file(path_);
        is_let_go_ = true;
        return true;
    }
    const bool is_held = resize(path_, bytes);
    if (is_held) is_let_go_ = false;
    return is_held;
}

}  // namespace kv::sqlite
