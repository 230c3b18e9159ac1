#pragma once
#include <string>

#include "kv/result.h"
#include "kv/storage.h"

namespace kv::sqlite {

// The database file, found or created.
class File {
public:
    // Holds it against every other opener for as long as this lives.
    static Result<File> open(const std::string& path);
    // An existing one, to be read next to whoever holds it.
    static Result<File> find(const std::string& path);
    ~File();
    File(File&& other) noexcept;
    File& operator=(File&&) = delete;

    const std::string& path() const noexcept { return path_; }  // absolute, without symbolic links
    bool lies_in_fixed_folder() const;                          // one that this process may not change
    Storage::Stats stats() const;                               // what the file system knows

private:
    File(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

    std::string path_;
    int lock_ = -1;
};

// An empty file, the owner's alone, instead of whatever had that name.
Result<void> make_empty_file(const std::string& path);
// Sees to it that a finished file is on the disk, and gives it its name there.
Result<void> put_in_place(const std::string& file, const std::string& name);
void remove_file(const std::string& path);

}  // namespace kv::sqlite
