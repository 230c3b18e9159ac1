#include "kv/secret.h"

#include <cassert>
#include <cstring>
#include <new>

namespace kv {

void secure_wipe(void* data, std::size_t size) noexcept {
    if (size != 0) explicit_bzero(data, size);
}

SecretBytes::SecretBytes(std::string_view bytes) {
    if (bytes.empty()) return;
    data_ = static_cast<char*>(::operator new(bytes.size()));
    size_ = bytes.size();
    std::memcpy(data_, bytes.data(), bytes.size());
}

SecretBytes SecretBytes::of_size(std::size_t size) {
    SecretBytes bytes;
    if (size == 0) return bytes;
    bytes.data_ = static_cast<char*>(::operator new(size));
    bytes.size_ = size;
    std::memset(bytes.data_, 0, size);
    return bytes;
}

void SecretBytes::truncate(std::size_t size) noexcept {
    assert(size <= size_);
    if (size == 0) {
        reset();
        return;
    }
    secure_wipe(data_ + size, size_ - size);
    size_ = size;
}

void SecretBytes::reset() noexcept {
    if (data_ == nullptr) return;
    secure_wipe(data_, size_);
    ::operator delete(data_);
    data_ = nullptr;
    size_ = 0;
}

}  // namespace kv
