#pragma once
#include <string>

#include "kv/result.h"

namespace kv::sqlite {

// The database file: found or created, and held against every other opener for as long as this lives.
class File {
public:
    static Result<File> open(const std::string& path);
    ~File();
    File(File&& other) noexcept;
    File& operator=(File&&) = delete;

    const std::string& path() const noexcept { return path_; }  // absolute, without symbolic links

private:
    File(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

    std::string path_;
    int lock_ = -1;
};

}  // namespace kv::sqlite
