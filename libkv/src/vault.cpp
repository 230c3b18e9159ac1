#include "vault.h"

#include "bytes.h"
#include "seal.h"
#include "tokens.h"
#include "value.h"

namespace kv {
namespace {

Error integrity(const char* message, std::string_view key_path) {
    Error error{Errc::integrity, message};
    error.key_path = key_path;
    return error;
}

SealContext context_of(const EntryRow& row, std::uint32_t generation) {
    return {generation, row.ns, row.id, row.key_path, row.version, row.value_type};
}

SealContext context_of(const VersionRow& row, std::string_view key_path, std::uint32_t generation) {
    return {generation, row.ns, row.entry_id, key_path, row.version, row.value_type};
}

// A plain value in a secret namespace is only right while its values are being sealed.
Result<void> judge_row(const NamespaceRow& ns, ValueType type, std::uint32_t generation, std::string_view key_path) {
    if (!is_known(type)) return integrity("The value is of no known type.", key_path);
    if (generation == 0 && ns.is_secret && !ns.sealing) {
        return integrity("The value is not sealed, though its namespace is secret.", key_path);
    }
    return {};
}

Error exhausted() {
    return {Errc::overloaded, "The namespace's data key has sealed as many values as it safely may, and is about to be replaced: "
                              "try again shortly."};
}

}  // namespace

namespace {

// The second format has the name as well, by which callers reach the namespace: two that were swapped would send secrets
// into a plain one. Rows that were not changed since it came have the first.
enum class MacFormat : std::uint8_t { without_name = 1, with_name = 2 };

std::string canonical(const NamespaceRow& row, MacFormat format) {
    BytesWriter out;
    out.reserve(64 + row.application_id.size() + row.name.size());
    out.u8(static_cast<std::uint8_t>(format));
    out.uuid(row.id);
    out.string(row.application_id);
    out.u8(row.is_secret ? 1 : 0);
    out.u8(row.sealing ? 1 : 0);
    out.u32(row.key_generation);
    if (format == MacFormat::with_name) out.string(row.name);
    return out.take();
}

}  // namespace

Mac Vault::namespace_mac(const NamespaceRow& row) const { return keys_.row_mac(canonical(row, MacFormat::with_name)); }

bool Vault::is_intact(const NamespaceRow& row) const {
    return crypto::equal(namespace_mac(row), row.mac) ||
           crypto::equal(keys_.row_mac(canonical(row, MacFormat::without_name)), row.mac);
}

Mac Vault::token_mac(const TokenRow& row) const { return keys_.row_mac(canonical(row)); }

bool Vault::is_intact(const TokenRow& row) const { return row.id == token_id(row.hash) && crypto::equal(token_mac(row), row.mac); }

Result<std::shared_ptr<const crypto::AesGcm>> Vault::key_for(StorageReader& reader, const NamespaceId& ns,
                                                             std::uint32_t generation) const {
    if (auto key = keys_.data_key(ns, generation)) return key;
    const KeyRef ref{KeyPurpose::data, ns, generation};
    KV_TRY(std::vector<KeyRow> rows, reader.get_keys(std::span(&ref, 1)));
    if (rows.size() != 1) return Error{Errc::integrity, "The data key of the namespace is missing."};
    return keys_.adopt(rows.front());
}

// A namespace that was read before its values may have been given another key in between.
Result<void> Vault::judge_generation(StorageReader& reader, const NamespaceRow& ns, std::uint32_t generation,
                                     std::string_view key_path) const {
    if (generation <= ns.key_generation) return {};
    const EntryRef ref{ns.id, "", {}};
    KV_TRY(const std::vector<Found> found, reader.find(std::span(&ref, 1), {}));
    const auto& present = found.front().ns;
    if (present && is_intact(*present) && generation <= present->key_generation) return {};
    return integrity("The value names a data key that its namespace never had.", key_path);
}

// Seals under the namespace's present data key, and counts it.
Result<std::string> Vault::seal_with(StorageReader& reader, NamespaceRow& ns, const SealContext& context,
                                     std::string_view plaintext) const {
    if (ns.seals >= seals_per_key_max) return exhausted();
    KV_TRY(auto key, key_for(reader, ns.id, ns.key_generation));
    KV_TRY(std::string sealed, seal_value(*key, context, plaintext));
    ns.seals += 1;
    return sealed;
}

Result<void> Vault::seal(StorageReader& reader, NamespaceRow& ns, EntryRow& row, std::string_view plaintext) const {
    row.key_generation = ns.is_secret ? ns.key_generation : 0;
    if (!ns.is_secret) {
        row.value = plaintext;
        return {};
    }
    KV_TRY(row.value, seal_with(reader, ns, context_of(row, ns.key_generation), plaintext));
    return {};
}

Result<SecretBytes> Vault::open(StorageReader& reader, const NamespaceRow& ns, const EntryRow& row) const {
    KV_CHECK(judge_row(ns, row.value_type, row.key_generation, row.key_path));
    KV_CHECK(judge_generation(reader, ns, row.key_generation, row.key_path));
    if (row.key_generation == 0) return SecretBytes(row.value);
    KV_TRY(auto key, key_for(reader, ns.id, row.key_generation));
    auto opened = open_value(*key, context_of(row, row.key_generation), row.value);
    if (!opened) opened.error().key_path = row.key_path;
    return opened;
}

Result<SecretBytes> Vault::open(StorageReader& reader, const NamespaceRow& ns, std::string_view key_path,
                                const VersionRow& row) const {
    KV_CHECK(judge_row(ns, row.value_type, row.key_generation, key_path));
    KV_CHECK(judge_generation(reader, ns, row.key_generation, key_path));
    if (row.key_generation == 0) return SecretBytes(row.value);
    KV_TRY(auto key, key_for(reader, ns.id, row.key_generation));
    auto opened = open_value(*key, context_of(row, key_path, row.key_generation), row.value);
    if (!opened) opened.error().key_path = key_path;
    return opened;
}

Result<Reseal> Vault::reseal(StorageReader& reader, NamespaceRow& ns, const EntryRow& row) const {
    KV_TRY(SecretBytes value, open(reader, ns, row));
    KV_TRY(std::string sealed, seal_with(reader, ns, context_of(row, ns.key_generation), value.reveal()));
    return Reseal{row.id, row.version, false, ns.key_generation, std::move(sealed)};
}

Result<Reseal> Vault::reseal(StorageReader& reader, NamespaceRow& ns, const VersionRow& row) const {
    KV_TRY(SecretBytes value, open(reader, ns, row.key_path, row));
    KV_TRY(std::string sealed, seal_with(reader, ns, context_of(row, row.key_path, ns.key_generation), value.reveal()));
    return Reseal{row.entry_id, row.version, true, ns.key_generation, std::move(sealed)};
}

}  // namespace kv
