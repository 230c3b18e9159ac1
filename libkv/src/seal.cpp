#include "seal.h"

#include <algorithm>
#include <cassert>

#include "bytes.h"
#include "crypto/random.h"
#include "thread_buffer.h"

namespace kv {
namespace {

constexpr char magic = 'K';
constexpr std::uint8_t format = 1;
constexpr std::uint8_t algorithm = 1;  // AES-256-GCM
constexpr std::size_t header_bytes = 1 + 1 + 1 + 4;
static_assert(sealed_overhead_bytes == header_bytes + crypto::nonce_bytes + crypto::tag_bytes);

// Calls `use` with the associated data.
template <class Use>
auto with_associated_data(const SealContext& context, Use use) {
    return with_thread_buffer([&](BytesWriter& writer) {
        writer.u8(format);
        writer.u8(algorithm);
        writer.u32(context.generation);
        writer.uuid(context.ns);
        writer.uuid(context.entry_id);
        writer.string(context.key_path);
        writer.u64(context.version);
        writer.u8(static_cast<std::uint8_t>(context.value_type));
        return use(std::string_view(writer.str()));
    });
}

void write_header(char* out, std::uint32_t generation) {
    out[0] = magic;
    out[1] = static_cast<char>(format);
    out[2] = static_cast<char>(algorithm);
    for (int i = 0; i < 4; ++i) out[3 + i] = static_cast<char>(generation >> (24 - 8 * i) & 0xff);
}

Error not_ours(const SealContext& context, std::string_view why) {
    Error error{Errc::integrity, "the sealed value at " + std::string(context.key_path) + ", version " +
                                     std::to_string(context.version) + ", " + std::string(why), {}};
    error.key_path = context.key_path;
    return error;
}

}  // namespace

Result<std::string> seal_value(const crypto::AesGcm& key, const SealContext& context, std::string_view plaintext) {
    crypto::Nonce nonce;
    crypto::random_bytes(nonce.data(), nonce.size());
    return seal_value_with_nonce(key, context, plaintext, nonce);
}

Result<std::string> seal_value_with_nonce(const crypto::AesGcm& key, const SealContext& context, std::string_view plaintext,
                                          const crypto::Nonce& nonce) {
    assert(context.generation != 0);
    std::string record(sealed_overhead_bytes + plaintext.size(), '\0');
    write_header(record.data(), context.generation);
    std::copy(nonce.begin(), nonce.end(), record.begin() + header_bytes);
    KV_CHECK(with_associated_data(context, [&](std::string_view associated) {
        return key.seal(nonce, associated, plaintext, record.data() + header_bytes + nonce.size());
    }));
    return record;
}

Result<SecretBytes> open_value(const crypto::AesGcm& key, const SealContext& context, std::string_view record) {
    if (record.size() < sealed_overhead_bytes || record[0] != magic || record[1] != format || record[2] != algorithm) {
        return not_ours(context, "is no sealed record");
    }
    BytesReader header(record.substr(3));
    if (header.u32() != context.generation) return not_ours(context, "was sealed by another key generation");
    crypto::Nonce nonce;
    std::copy_n(record.begin() + header_bytes, nonce.size(), nonce.begin());
    SecretBytes plaintext = SecretBytes::of_size(record.size() - sealed_overhead_bytes);
    const std::string_view sealed = record.substr(header_bytes + nonce.size());
    const bool is_open = with_associated_data(
        context, [&](std::string_view associated) { return key.open(nonce, associated, sealed, plaintext.mutable_data()); });
    if (!is_open) {
        return not_ours(context, "does not open: it was changed, moved or damaged");
    }
    return plaintext;
}

}  // namespace kv
