#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "kv/result.h"
#include "kv/secret.h"

namespace kvd {

// The whole of a file of at most `bytes_max` bytes. Errors name the path.
kv::Result<kv::SecretBytes> read_file(const std::string& path, std::size_t bytes_max);
// Makes a file that only its owner may read. Refuses to replace one.
kv::Result<void> write_secret_file(const std::string& path, std::string_view bytes);
// True if the group or everybody may read or write it.
bool is_open_to_others(const std::string& path);

}  // namespace kvd
