#include "crypto/aes_gcm.h"

#include <openssl/evp.h>
#include <sodium.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "crypto/key_memory.h"

namespace kv::crypto {
namespace {

// Far above any value, and below what OpenSSL counts in an int and libsodium would abort for.
constexpr std::size_t text_bytes_max = std::size_t{1} << 30;

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* bytes_of(char* text) { return reinterpret_cast<unsigned char*>(text); }

bool fits(std::string_view associated, std::string_view text) {
    return associated.size() <= text_bytes_max && text.size() <= text_bytes_max;
}

Error too_long() { return Error{Errc::too_large, "too many bytes to seal at once", {}}; }

// ---- libsodium ----

class SodiumAesGcm final : public AesGcm {
public:
    explicit SodiumAesGcm(std::span<const std::uint8_t, key_bytes> key) {
        static_assert(sizeof(crypto_aead_aes256gcm_state) <= key_slot_bytes);
        crypto_aead_aes256gcm_beforenm(schedule(), key.data());
    }

    Result<void> seal(const Nonce& nonce, std::string_view associated, std::string_view plaintext, char* out) const override {
        if (!fits(associated, plaintext)) return too_long();
        crypto_aead_aes256gcm_encrypt_afternm(bytes_of(out), nullptr, bytes_of(plaintext), plaintext.size(),
                                              bytes_of(associated), associated.size(), nullptr, nonce.data(), schedule());
        return {};
    }

    bool open(const Nonce& nonce, std::string_view associated, std::string_view sealed, char* out) const override {
        if (sealed.size() < tag_bytes || !fits(associated, sealed)) return false;
        if (crypto_aead_aes256gcm_decrypt_afternm(bytes_of(out), nullptr, nullptr, bytes_of(sealed), sealed.size(),
                                                  bytes_of(associated), associated.size(), nonce.data(), schedule()) == 0) {
            return true;
        }
        secure_wipe(out, sealed.size() - tag_bytes);
        return false;
    }

private:
    crypto_aead_aes256gcm_state* schedule() const { return reinterpret_cast<crypto_aead_aes256gcm_state*>(slot_.data()); }

    KeySlot slot_;
};

// ---- OpenSSL ----

// A context holds one expanded key and the state of one call, so each call borrows one, and there come to be as many as
// there were calls at the same time. OpenSSL keeps the expanded key in memory of its own, which it wipes when it frees it.
class OpenSslAesGcm final : public AesGcm {
public:
    explicit OpenSslAesGcm(std::span<const std::uint8_t, key_bytes> key) { std::copy(key.begin(), key.end(), slot_.data()); }

    Result<void> seal(const Nonce& nonce, std::string_view associated, std::string_view plaintext, char* out) const override {
        if (!fits(associated, plaintext)) return too_long();
        Context context = borrow();
        if (!seal_with(context.get(), nonce, associated, plaintext, bytes_of(out))) {
            return Error{Errc::internal, "OpenSSL could not seal", {}};
        }
        give_back(std::move(context));
        return {};
    }

    bool open(const Nonce& nonce, std::string_view associated, std::string_view sealed, char* out) const override {
        if (sealed.size() < tag_bytes || !fits(associated, sealed)) return false;
        Context context = borrow();
        const bool is_open = open_with(context.get(), nonce, associated, sealed, bytes_of(out));
        // OpenSSL writes the plaintext before it looks at the tag.
        if (!is_open) secure_wipe(out, sealed.size() - tag_bytes);
        give_back(std::move(context));
        return is_open;
    }

private:
    struct FreeContext {
        void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
    };
    using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

    static bool start(EVP_CIPHER_CTX* context, const Nonce& nonce, std::string_view associated, bool is_sealing) {
        int written = 0;
        return EVP_CipherInit_ex(context, nullptr, nullptr, nullptr, nonce.data(), is_sealing ? 1 : 0) == 1 &&
               (associated.empty() || EVP_CipherUpdate(context, nullptr, &written, bytes_of(associated),
                                                       static_cast<int>(associated.size())) == 1);
    }

    static bool update(EVP_CIPHER_CTX* context, std::string_view in, unsigned char* out) {
        int written = 0;
        return in.empty() || EVP_CipherUpdate(context, out, &written, bytes_of(in), static_cast<int>(in.size())) == 1;
    }

    static bool finish(EVP_CIPHER_CTX* context) {
        unsigned char nothing[tag_bytes];  // GCM has no last block; OpenSSL wants a place for it all the same
        int written = 0;
        return EVP_CipherFinal_ex(context, nothing, &written) == 1;
    }

    static bool seal_with(EVP_CIPHER_CTX* context, const Nonce& nonce, std::string_view associated, std::string_view plaintext,
                          unsigned char* out) {
        return start(context, nonce, associated, true) && update(context, plaintext, out) && finish(context) &&
               EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, tag_bytes, out + plaintext.size()) == 1;
    }

    static bool open_with(EVP_CIPHER_CTX* context, const Nonce& nonce, std::string_view associated, std::string_view sealed,
                          unsigned char* out) {
        std::string_view ciphertext = sealed.substr(0, sealed.size() - tag_bytes);
        unsigned char tag[tag_bytes];
        std::memcpy(tag, sealed.data() + ciphertext.size(), tag_bytes);
        return start(context, nonce, associated, false) && update(context, ciphertext, out) &&
               EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, tag_bytes, tag) == 1 && finish(context);
    }

    // Throws std::bad_alloc: what cannot be opened for want of memory must not count as tampered with.
    Context borrow() const {
        {
            std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                Context context = std::move(idle_.back());
                idle_.pop_back();
                return context;
            }
        }
        Context context(EVP_CIPHER_CTX_new());
        if (!context || EVP_CipherInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, slot_.data(), nullptr, 1) != 1) {
            throw std::bad_alloc();
        }
        return context;
    }

    void give_back(Context context) const {
        try {
            std::lock_guard lock(mutex_);
            idle_.push_back(std::move(context));
        } catch (const std::bad_alloc&) {
            // The next call makes another.
        }
    }

    KeySlot slot_;
    mutable std::mutex mutex_;
    mutable std::vector<Context> idle_;
};

// ---- choosing ----

template <std::size_t N>
std::string_view view(const std::uint8_t (&bytes)[N]) {
    return {reinterpret_cast<const char*>(bytes), N};
}

// Case 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega): every length in it is no whole number of blocks.
constexpr std::uint8_t test_key[key_bytes] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f,
                                              0x94, 0x67, 0x30, 0x83, 0x08, 0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65,
                                              0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
constexpr Nonce test_nonce = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
constexpr std::uint8_t test_associated[] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                            0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
constexpr std::uint8_t test_plaintext[] = {
    0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53,
    0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53,
    0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
constexpr std::uint8_t test_sealed[] = {
    0x52, 0x2d, 0xc1, 0xf0, 0x99, 0x56, 0x7d, 0x07, 0xf4, 0x7f, 0x37, 0xa3, 0x2a, 0x84, 0x42, 0x7d, 0x64, 0x3a, 0x8c, 0xdc,
    0xbf, 0xe5, 0xc0, 0xc9, 0x75, 0x98, 0xa2, 0xbd, 0x25, 0x55, 0xd1, 0xaa, 0x8c, 0xb0, 0x8e, 0x48, 0x59, 0x0d, 0xbb, 0x3d,
    0xa7, 0xb0, 0x8b, 0x10, 0x56, 0x82, 0x88, 0x38, 0xc5, 0xf6, 0x1e, 0x63, 0x93, 0xba, 0x7a, 0x0a, 0xbc, 0xc9, 0xf6, 0x62,
    0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68, 0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

bool passes_self_test(CryptoBackend backend) {
    auto aes = AesGcm::create(test_key, backend);
    std::string sealed(sizeof test_sealed, '\0');
    if (!aes->seal(test_nonce, view(test_associated), view(test_plaintext), sealed.data())) return false;
    if (sealed != view(test_sealed)) return false;
    std::string opened(sizeof test_plaintext, '\0');
    if (!aes->open(test_nonce, view(test_associated), sealed, opened.data()) || opened != view(test_plaintext)) return false;
    sealed.back() = static_cast<char>(sealed.back() ^ 1);
    return !aes->open(test_nonce, view(test_associated), sealed, opened.data());
}

}  // namespace

Result<CryptoBackend> select_backend(CryptoBackend wanted) {
    require_sodium();  // before this libsodium says that no CPU has AES instructions
    const bool has_instructions = crypto_aead_aes256gcm_is_available() == 1;
    if (wanted == CryptoBackend::libsodium && !has_instructions) {
        return Error{Errc::unsupported, "libsodium needs a CPU with AES instructions for AES-256-GCM", {}};
    }
    CryptoBackend backend = wanted;
    if (wanted == CryptoBackend::automatic) backend = has_instructions ? CryptoBackend::libsodium : CryptoBackend::openssl;
    if (!passes_self_test(backend)) return Error{Errc::unsupported, "the self-test of AES-256-GCM failed", {}};
    return backend;
}

std::unique_ptr<AesGcm> AesGcm::create(std::span<const std::uint8_t, key_bytes> key, CryptoBackend backend) {
    assert(backend != CryptoBackend::automatic);
    if (backend == CryptoBackend::libsodium) return std::make_unique<SodiumAesGcm>(key);
    return std::make_unique<OpenSslAesGcm>(key);
}

}  // namespace kv::crypto
