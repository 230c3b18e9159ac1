#include "fuzz.h"

#include <array>

#include "crypto/aes_gcm.h"
#include "crypto/wrap.h"
#include "seal.h"

// Sealed values and wrapped keys: what was not sealed exactly like this does not open, and both libraries agree on it.
// Broken on purpose: the version left out of the associated data (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

struct Keys {
    Keys() {
        for (const CryptoBackend backend : {CryptoBackend::libsodium, CryptoBackend::openssl}) {
            if (!crypto::select_backend(backend)) continue;  // a CPU without AES instructions
            std::array<std::uint8_t, crypto::key_bytes> key{};
            for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(i * 7);
            ciphers.push_back(crypto::AesGcm::create(key, backend));
            wraps.push_back(std::make_unique<crypto::WrapKey>(fixed_key(), backend));
        }
        KV_PROPERTY(!ciphers.empty());
    }
    std::vector<std::unique_ptr<crypto::AesGcm>> ciphers;
    std::vector<std::unique_ptr<crypto::WrapKey>> wraps;
};

const Keys& keys() {
    static const Keys all;
    return all;
}

struct Where {
    SealContext context;
    std::string key_path = "db/password";
    friend bool operator==(const Where& a, const Where& b) {
        const auto tied = [](const Where& w) {
            return std::tie(w.context.generation, w.context.ns, w.context.entry_id, w.key_path, w.context.version, w.context.value_type);
        };
        return tied(a) == tied(b);
    }
};

Where usual_place() {
    Where where;
    where.context.generation = 1;
    where.context.ns.bytes.fill(0x11);
    where.context.entry_id.bytes.fill(0x22);
    where.context.version = 7;
    return where;
}

void edit(Where& where, Input& input) {
    SealContext& context = where.context;
    const std::uint8_t kind = input.u8();
    const std::uint8_t byte = input.u8();
    switch (kind % 6) {
        case 0: context.generation ^= static_cast<std::uint32_t>(byte) << (kind & 24); break;
        case 1: context.ns.bytes[kind / 6 % 16] ^= byte; break;
        case 2: context.entry_id.bytes[kind / 6 % 16] ^= byte; break;
        case 3: context.version ^= static_cast<std::uint64_t>(byte) << (kind & 56); break;
        case 4: context.value_type = static_cast<ValueType>(byte); break;
        case 5: kv::fuzz::edit(where.key_path, input); break;
    }
}

// What every library makes of a record; empty: it does not open.
std::optional<std::string> open(Where& where, std::string_view record) {
    where.context.key_path = where.key_path;
    std::vector<std::optional<std::string>> opened;
    for (const auto& cipher : keys().ciphers) {
        auto value = open_value(*cipher, where.context, record);
        if (!value) KV_PROPERTY(value.error().code == Errc::integrity);
        opened.push_back(value ? std::optional(std::string(value->reveal())) : std::nullopt);
    }
    for (const auto& other : opened) KV_PROPERTY(other == opened.front());
    return opened.front();
}

std::string seal(Where& where, std::string_view plaintext, const crypto::Nonce& nonce) {
    where.context.key_path = where.key_path;
    std::vector<std::string> records;
    for (const auto& cipher : keys().ciphers) records.push_back(seal_value_with_nonce(*cipher, where.context, plaintext, nonce).value());
    for (const std::string& other : records) KV_PROPERTY(other == records.front());
    return records.front();
}

// Bytes that nobody sealed. Should one open, sealing it again must give the same.
void try_any_record(Input& input) {
    Where where = usual_place();
    const std::string_view record = input.rest();
    const auto plaintext = open(where, record);
    if (!plaintext) return;
    crypto::Nonce nonce;
    std::copy_n(record.begin() + 7, nonce.size(), nonce.begin());
    KV_PROPERTY(seal(where, *plaintext, nonce) == record);
}

void try_edited_record(Input& input) {
    const std::uint8_t edits = input.u8();
    Where place = usual_place();
    const Where sealed_at = place;
    std::string changes(input.bytes(4u * (edits % 8)));
    crypto::Nonce nonce{};
    const std::string_view drawn = input.bytes(nonce.size());
    std::copy(drawn.begin(), drawn.end(), nonce.begin());
    const std::string_view plaintext = input.rest();
    const std::string sealed = seal(place, plaintext, nonce);
    std::string record = sealed;
    Input how(reinterpret_cast<const std::uint8_t*>(changes.data()), changes.size());
    while (!how.empty()) how.u8() % 2 != 0 ? edit(place, how) : kv::fuzz::edit(record, how);
    const auto opened = open(place, record);
    const bool is_untouched = record == sealed && place == sealed_at;
    KV_PROPERTY(opened.has_value() == is_untouched);
    if (opened) KV_PROPERTY(*opened == plaintext);
}

// ---- wrapped keys ----

auto tied(const KeyRow& row) {
    return std::tie(row.purpose, row.ns, row.generation, row.application_id, row.wrap_key_id, row.wrap, row.commitment);
}

void edit(KeyRow& row, Input& input) {
    const std::uint8_t kind = input.u8();
    const std::uint8_t byte = input.u8();
    switch (kind % 7) {
        case 0: row.purpose = static_cast<KeyPurpose>(byte); break;
        case 1: row.ns.bytes[kind / 7 % 16] ^= byte; break;
        case 2: row.generation ^= static_cast<std::uint32_t>(byte) << (kind & 24); break;
        case 3: kv::fuzz::edit(row.application_id, input); break;
        case 4: kv::fuzz::edit(row.wrap_key_id, input); break;
        case 5: kv::fuzz::edit(row.wrap, input); break;
        case 6: row.commitment[kind % 32] ^= byte; break;
    }
}

void try_edited_wrap(Input& input) {
    const SecretBytes key("a key of thirty-two bytes, no more");
    const SecretBytes cut(key.reveal().substr(0, crypto::key_bytes));
    const crypto::WrapKey& maker = *keys().wraps.front();
    static const KeyRow made = [&] {
        KeyRow row;
        row.generation = 1;
        row.application_id = "app";
        row.commitment = crypto::commitment_of(cut);
        row.wrap_key_id = maker.id();
        row.wrap = maker.wrap(row, cut).value();
        return row;
    }();
    KeyRow row = made;
    while (!input.empty()) edit(row, input);
    for (const auto& wrap : keys().wraps) {
        const auto opened = wrap->open(row);
        KV_PROPERTY(opened.has_value() == (tied(row) == tied(made)));
        if (opened) KV_PROPERTY(opened->reveal() == cut.reveal());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    switch (input.u8() % 3) {
        case 0: try_any_record(input); break;
        case 1: try_edited_record(input); break;
        case 2: try_edited_wrap(input); break;
    }
    return 0;
}
