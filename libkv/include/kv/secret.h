#pragma once
#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>

#include "kv/export.h"

namespace kv {

// Overwrites memory in a way the compiler may not remove.
KV_EXPORT void secure_wipe(void* data, std::size_t size) noexcept;

// SecretBytes owns bytes that are overwritten when it dies. It never prints itself; reveal() is the only way to the
// bytes, so that a search for it finds every place that looks at a secret. Every value libkv holds is one of these.
//
// Threads: like std::string. Copying copies the bytes.
class KV_EXPORT SecretBytes {
public:
    SecretBytes() noexcept = default;
    explicit SecretBytes(std::string_view bytes);
    ~SecretBytes() { reset(); }
    SecretBytes(const SecretBytes& other) : SecretBytes(other.reveal()) {}
    SecretBytes(SecretBytes&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    SecretBytes& operator=(SecretBytes other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    // `size` bytes of zeros, to be filled through mutable_data().
    static SecretBytes of_size(std::size_t size);

    std::string_view reveal() const noexcept { return {data_ ? data_ : "", size_}; }
    char* mutable_data() noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }

    // Wipes what lies beyond `size` and forgets it; `size` must not exceed size().
    void truncate(std::size_t size) noexcept;
    void reset() noexcept;

private:
    char* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace kv
