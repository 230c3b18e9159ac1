#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kv/result.h"
#include "kv/secret.h"

namespace kvd {

// The whole of a file of at most `bytes_max` bytes. Errors name the path.
kv::Result<kv::SecretBytes> read_file(const std::string& path, std::size_t bytes_max);
// Makes a file that only its owner may read. Refuses to replace one.
kv::Result<void> write_secret_file(const std::string& path, std::string_view bytes);
// Gives `from` the name `to`, which must be free, for good: file and folder are on the disk then.
kv::Result<void> publish_file(const std::string& from, const std::string& to);
// Who besides the owner may read or write a file; one that is not there is private.
enum class Exposure : std::uint8_t { to_nobody, to_group, to_everybody };
Exposure exposure_of(const std::string& path);

// A file that is there under its name only once it is whole: until then it is called NAME.partial, which nobody but its
// owner may read and which goes if it is not finished.
class NewFile {
public:
    static kv::Result<NewFile> create(const std::string& path);
    ~NewFile();
    NewFile(NewFile&& other) noexcept;
    NewFile& operator=(NewFile&&) = delete;

    kv::Result<void> write(std::string_view bytes);
    kv::Result<void> finish();

private:
    NewFile(std::string path, int number) : path_(std::move(path)), number_(number) {}
    std::string partial() const { return path_ + ".partial"; }
    std::string path_;
    int number_ = -1;
};

}  // namespace kvd
