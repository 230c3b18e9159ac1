#include "crypto/wrap.h"

#include <algorithm>
#include <optional>

#include "bytes.h"
#include "crypto/hash.h"
#include "crypto/random.h"

namespace kv::crypto {
namespace {

// Wrapped key: 'W' | format 1 | algorithm 1 | nonce 12 | ciphertext 32 | tag 16.
constexpr char wrap_magic = 'W';
constexpr std::uint8_t wrap_format = 1;
constexpr std::uint8_t wrap_algorithm = 1;  // AES-256-GCM
constexpr std::size_t wrap_header_bytes = 3;
constexpr std::size_t wrap_bytes = wrap_header_bytes + nonce_bytes + key_bytes + tag_bytes;

std::string_view name_of(KeyPurpose purpose) {
    switch (purpose) {
        case KeyPurpose::canary: return "canary";
        case KeyPurpose::audit: return "audit";
        case KeyPurpose::row_mac: return "row MAC";
        case KeyPurpose::token: return "token";
        case KeyPurpose::cursor: return "cursor";
        case KeyPurpose::data: return "data";
    }
    return "unknown";
}

std::string associated_data(const KeyRow& row) {
    BytesWriter writer;
    writer.u8(wrap_format);
    writer.u8(wrap_algorithm);
    writer.u8(static_cast<std::uint8_t>(row.purpose));
    writer.uuid(row.ns);
    writer.string(row.application_id);
    writer.u32(row.generation);
    return writer.take();
}

std::unique_ptr<AesGcm> derive(const SecretBytes& master_key, CryptoBackend backend) {
    Key derived = blake2b_keyed(as_key(master_key), {"libkv wrap key 1"});
    auto key = AesGcm::create(derived, backend);
    secure_wipe(derived.data(), derived.size());
    return key;
}

// The key in one wrap of `row`, or nothing if it does not open.
std::optional<SecretBytes> unwrap(const AesGcm& wrap_key, const KeyRow& row, std::string_view wrapped) {
    if (wrapped.size() != wrap_bytes || wrapped[0] != wrap_magic || wrapped[1] != wrap_format || wrapped[2] != wrap_algorithm) {
        return std::nullopt;
    }
    Nonce nonce;
    std::copy_n(wrapped.begin() + wrap_header_bytes, nonce.size(), nonce.begin());
    SecretBytes key = SecretBytes::of_size(key_bytes);
    if (!wrap_key.open(nonce, associated_data(row), wrapped.substr(wrap_header_bytes + nonce_bytes), key.mutable_data())) {
        return std::nullopt;
    }
    return key;
}

}  // namespace

std::span<const std::uint8_t, key_bytes> as_key(const SecretBytes& key) {
    return std::span<const std::uint8_t, key_bytes>(reinterpret_cast<const std::uint8_t*>(key.reveal().data()), key_bytes);
}

Mac commitment_of(const SecretBytes& key) { return blake2b_named("libkv key commitment 1", key.reveal()); }

std::string describe(const KeyRow& row) {
    std::string which = std::string(name_of(row.purpose)) + " key";
    if (row.purpose != KeyPurpose::data) return which;
    return which + " of namespace " + row.ns.to_string() + ", generation " + std::to_string(row.generation) + ",";
}

Error damaged(const KeyRow& row) { return Error{Errc::integrity, "the stored " + describe(row) + " was changed or damaged", {}}; }

WrapKey::WrapKey(const SecretBytes& master_key, CryptoBackend backend)
    : id_(master_key_id(master_key)), key_(derive(master_key, backend)) {}

bool WrapKey::is_named_by(const KeyRow& row) const { return row.wrap_key_id == id_ || row.second_wrap_key_id == id_; }

Result<SecretBytes> WrapKey::open(const KeyRow& row) const {
    if (!is_named_by(row)) return damaged(row);
    auto key = unwrap(*key_, row, row.wrap_key_id == id_ ? row.wrap : row.second_wrap);
    // AES-GCM alone does not tie a ciphertext to one key; the commitment does.
    if (!key || !equal(commitment_of(*key), row.commitment)) return damaged(row);
    return *std::move(key);
}

Result<std::string> WrapKey::wrap(const KeyRow& row, const SecretBytes& key) const {
    Nonce nonce;
    random_bytes(nonce.data(), nonce.size());
    std::string out(wrap_bytes, '\0');
    out[0] = wrap_magic;
    out[1] = static_cast<char>(wrap_format);
    out[2] = static_cast<char>(wrap_algorithm);
    std::copy(nonce.begin(), nonce.end(), out.begin() + wrap_header_bytes);
    KV_CHECK(key_->seal(nonce, associated_data(row), key.reveal(), out.data() + wrap_header_bytes + nonce_bytes));
    return out;
}

}  // namespace kv::crypto
