#include "kv/keys.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "crypto/hash.h"
#include "crypto/random.h"
#include "text.h"

namespace kv {
namespace {

constexpr std::size_t base64_characters = 44;
constexpr std::size_t hex_characters = 64;
constexpr std::size_t key_file_bytes_max = 4096;

class FixedKey final : public KeyProvider {
public:
    explicit FixedKey(SecretBytes key) : key_(std::move(key)) {}
    Result<SecretBytes> master_key() override {
        if (key_.size() != master_key_bytes) {
            return Error{Errc::invalid_request, "a master key has 32 bytes, not " + std::to_string(key_.size()), {}};
        }
        return key_;
    }

private:
    SecretBytes key_;
};

std::string_view trim(std::string_view text) {
    constexpr std::string_view white_space = " \t\r\n\v\f";
    const std::size_t first = text.find_first_not_of(white_space);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(white_space) - first + 1);
}

class File {
public:
    explicit File(const std::string& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
    ~File() {
        if (is_open()) ::close(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    bool is_open() const { return descriptor_ >= 0; }

    // As many bytes as there are, up to `size`; -1 with errno set.
    ssize_t read(char* out, std::size_t size) {
        std::size_t count = 0;
        while (count < size) {
            const ssize_t got = ::read(descriptor_, out + count, size - count);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return -1;
            if (got == 0) break;
            count += static_cast<std::size_t>(got);
        }
        return static_cast<ssize_t>(count);
    }

private:
    int descriptor_;
};

Error cannot_read(const std::string& path, int error) {
    return Error{Errc::unavailable, "cannot read the master key file " + path + ": " + std::generic_category().message(error), {}};
}

// Past the streams, whose buffers would keep a copy of the key.
Result<SecretBytes> read_small_file(const std::string& path) {
    File file(path);
    if (!file.is_open()) return cannot_read(path, errno);
    SecretBytes bytes = SecretBytes::of_size(key_file_bytes_max);
    const ssize_t size = file.read(bytes.mutable_data(), bytes.size());
    if (size < 0) return cannot_read(path, errno);
    bytes.truncate(static_cast<std::size_t>(size));
    return bytes;
}

}  // namespace

KeyProvider::~KeyProvider() = default;

std::shared_ptr<KeyProvider> make_fixed_key(SecretBytes key) { return std::make_shared<FixedKey>(std::move(key)); }

Result<SecretBytes> parse_master_key(std::string_view text) {
    text = trim(text);
    std::optional<SecretBytes> key;
    if (text.size() == base64_characters) key = base64_decode(text);
    if (text.size() == hex_characters) key = hex_decode(text);
    if (!key || key->size() != master_key_bytes) {
        return Error{Errc::invalid_request, "a master key is 32 bytes, written as 44 characters of base64 or 64 of hex", {}};
    }
    return *std::move(key);
}

Result<SecretBytes> read_master_key_file(const std::string& path) {
    KV_TRY(SecretBytes bytes, read_small_file(path));
    if (bytes.size() == master_key_bytes) return bytes;
    auto key = parse_master_key(bytes.reveal());
    if (!key) key.error().message = "the file " + path + " holds no master key: " + key.error().message;
    return key;
}

SecretBytes generate_master_key() {
    SecretBytes key = SecretBytes::of_size(master_key_bytes);
    crypto::random_bytes(key.mutable_data(), key.size());
    return key;
}

std::string master_key_id(const SecretBytes& key) {
    const Mac hash = crypto::blake2b_named("libkv master key id 1", key.reveal());
    return hex_encode({reinterpret_cast<const char*>(hash.data()), 8});
}

}  // namespace kv
