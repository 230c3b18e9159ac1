#include "crypto/keyring.h"

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <utility>

#include "bytes.h"
#include "crypto/key_memory.h"
#include "crypto/random.h"

namespace kv::crypto {
namespace {

// Wrapped key: 'W' | format 1 | algorithm 1 | nonce 12 | ciphertext 32 | tag 16.
constexpr char wrap_magic = 'W';
constexpr std::uint8_t wrap_format = 1;
constexpr std::uint8_t wrap_algorithm = 1;  // AES-256-GCM
constexpr std::size_t wrap_header_bytes = 3;
constexpr std::size_t wrap_bytes = wrap_header_bytes + nonce_bytes + key_bytes + tag_bytes;

// Two mebibytes of lockable memory; a system grants eight by default.
constexpr std::size_t data_keys_cached_max = 4096;

constexpr std::array internal_purposes = {KeyPurpose::audit, KeyPurpose::row_mac, KeyPurpose::token, KeyPurpose::cursor};
static_assert(internal_purposes.size() * key_bytes <= key_slot_bytes);

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

Error damaged(const KeyRow& row) {
    std::string which = std::string(name_of(row.purpose)) + " key";
    if (row.purpose == KeyPurpose::data) {
        which += " of namespace " + row.ns.to_string() + ", generation " + std::to_string(row.generation) + ",";
    }
    return Error{Errc::integrity, "the stored " + which + " was changed or damaged", {}};
}

Error wrong_key(const KeyRow& row, const std::string& key_id) {
    std::string stored = row.wrap_key_id;
    if (!row.second_wrap_key_id.empty()) stored += " or " + row.second_wrap_key_id;
    return Error{Errc::wrong_key, "the master key " + key_id + " does not open this store, whose keys are wrapped by " + stored, {}};
}

std::span<const std::uint8_t, key_bytes> as_key(const SecretBytes& key) {
    return std::span<const std::uint8_t, key_bytes>(reinterpret_cast<const std::uint8_t*>(key.reveal().data()), key_bytes);
}

Mac commitment_of(const SecretBytes& key) { return blake2b_named("libkv key commitment 1", key.reveal()); }

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

std::unique_ptr<AesGcm> derive_wrap_key(const SecretBytes& master_key, CryptoBackend backend) {
    Key derived = blake2b_keyed(as_key(master_key), {"libkv wrap key 1"});
    auto wrap_key = AesGcm::create(derived, backend);
    secure_wipe(derived.data(), derived.size());
    return wrap_key;
}

Result<std::string> wrap(const AesGcm& wrap_key, const KeyRow& row, const SecretBytes& key) {
    Nonce nonce;
    random_bytes(nonce.data(), nonce.size());
    std::string out(wrap_bytes, '\0');
    out[0] = wrap_magic;
    out[1] = static_cast<char>(wrap_format);
    out[2] = static_cast<char>(wrap_algorithm);
    std::copy(nonce.begin(), nonce.end(), out.begin() + wrap_header_bytes);
    KV_CHECK(wrap_key.seal(nonce, associated_data(row), key.reveal(), out.data() + wrap_header_bytes + nonce_bytes));
    return out;
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

struct DataKeyName {
    NamespaceId ns;
    std::uint32_t generation = 0;
    friend bool operator==(const DataKeyName&, const DataKeyName&) = default;
};

// The second half of an id of ours is random.
struct DataKeyHash {
    std::size_t operator()(const DataKeyName& name) const noexcept {
        std::uint64_t hash = name.generation;
        for (std::size_t i = 8; i < 16; ++i) hash = hash * 257 + name.ns.bytes[i];
        return hash;
    }
};

// Forgets the key that was put first when it is full: the next use loads it again.
class DataKeyCache {
public:
    std::shared_ptr<const AesGcm> find(const DataKeyName& name) const {
        std::shared_lock lock(mutex_);
        auto found = keys_.find(name);
        return found == keys_.end() ? nullptr : found->second;
    }

    // Replaces: the row given last is the one that was committed.
    void put(const DataKeyName& name, std::shared_ptr<const AesGcm> key) {
        std::unique_lock lock(mutex_);
        if (!keys_.insert_or_assign(name, std::move(key)).second) return;
        order_.push_back(name);
        if (order_.size() <= data_keys_cached_max) return;
        keys_.erase(order_.front());
        order_.pop_front();
    }

    void forget(const NamespaceId& ns) {
        std::unique_lock lock(mutex_);
        std::erase_if(keys_, [&](const auto& item) { return item.first.ns == ns; });
        std::erase_if(order_, [&](const DataKeyName& name) { return name.ns == ns; });
    }

private:
    mutable std::shared_mutex mutex_;
    std::unordered_map<DataKeyName, std::shared_ptr<const AesGcm>, DataKeyHash> keys_;
    std::deque<DataKeyName> order_;  // of keys_, by when each was put
};

}  // namespace

struct Keyring::State {
    State(const SecretBytes& master_key, CryptoBackend chosen)
        : key_id(master_key_id(master_key)), backend(chosen), wrap_key(derive_wrap_key(master_key, chosen)) {}

    Result<void> draw_internal_keys(Time now);
    Result<void> load_internal_keys(const std::vector<KeyRow>& stored);
    Result<KeyRow> wrap_row(KeyRow row, const SecretBytes& key) const;
    Result<SecretBytes> unwrap_row(const KeyRow& row) const;
    void keep(KeyPurpose purpose, const SecretBytes& key);
    std::span<const std::uint8_t, key_bytes> internal_key(KeyPurpose purpose) const;

    std::string key_id;
    CryptoBackend backend;
    std::unique_ptr<AesGcm> wrap_key;
    KeySlot internal_keys;  // side by side, in the order of internal_purposes
    std::vector<KeyRow> new_rows;
    DataKeyCache data_keys;
};

namespace {

std::size_t internal_offset(KeyPurpose purpose) {
    const auto found = std::find(internal_purposes.begin(), internal_purposes.end(), purpose);
    return static_cast<std::size_t>(found - internal_purposes.begin()) * key_bytes;
}

// The only row of that purpose, with nothing in it that such a row cannot have.
Result<const KeyRow*> find_internal_row(const std::vector<KeyRow>& stored, KeyPurpose purpose) {
    const KeyRow* found = nullptr;
    for (const KeyRow& row : stored) {
        if (row.purpose != purpose) continue;
        if (found != nullptr || !row.ns.is_nil() || row.generation != 1 || !row.application_id.empty()) return damaged(row);
        found = &row;
    }
    if (found == nullptr) return Error{Errc::integrity, "the " + std::string(name_of(purpose)) + " key of the store is missing", {}};
    return found;
}

KeyRow internal_row(KeyPurpose purpose, Time now) {
    KeyRow row;
    row.purpose = purpose;
    row.generation = 1;
    row.created_at = now;
    return row;
}

}  // namespace

Result<void> Keyring::State::draw_internal_keys(Time now) {
    KV_TRY(KeyRow canary, wrap_row(internal_row(KeyPurpose::canary, now), generate_master_key()));
    new_rows.push_back(std::move(canary));
    for (KeyPurpose purpose : internal_purposes) {
        const SecretBytes key = generate_master_key();
        KV_TRY(KeyRow row, wrap_row(internal_row(purpose, now), key));
        new_rows.push_back(std::move(row));
        keep(purpose, key);
    }
    return {};
}

Result<void> Keyring::State::load_internal_keys(const std::vector<KeyRow>& stored) {
    // The canary first, so that a wrong key is called that and nothing else.
    KV_TRY(const KeyRow* canary, find_internal_row(stored, KeyPurpose::canary));
    KV_CHECK(unwrap_row(*canary));
    for (KeyPurpose purpose : internal_purposes) {
        KV_TRY(const KeyRow* row, find_internal_row(stored, purpose));
        KV_TRY(const SecretBytes key, unwrap_row(*row));
        keep(purpose, key);
    }
    return {};
}

Result<KeyRow> Keyring::State::wrap_row(KeyRow row, const SecretBytes& key) const {
    KV_TRY(row.wrap, wrap(*wrap_key, row, key));
    row.wrap_key_id = key_id;
    row.commitment = commitment_of(key);
    return row;
}

Result<SecretBytes> Keyring::State::unwrap_row(const KeyRow& row) const {
    const bool is_first = row.wrap_key_id == key_id;
    if (!is_first && row.second_wrap_key_id != key_id) return wrong_key(row, key_id);
    auto key = unwrap(*wrap_key, row, is_first ? row.wrap : row.second_wrap);
    // AES-GCM alone does not tie a ciphertext to one key; the commitment does.
    if (!key || !equal(commitment_of(*key), row.commitment)) return damaged(row);
    return *std::move(key);
}

void Keyring::State::keep(KeyPurpose purpose, const SecretBytes& key) {
    std::copy_n(as_key(key).data(), key_bytes, internal_keys.data() + internal_offset(purpose));
}

std::span<const std::uint8_t, key_bytes> Keyring::State::internal_key(KeyPurpose purpose) const {
    return std::span<const std::uint8_t, key_bytes>(internal_keys.data() + internal_offset(purpose), key_bytes);
}

Result<std::unique_ptr<Keyring>> Keyring::open(const SecretBytes& master_key, CryptoBackend backend,
                                               std::vector<KeyRow> stored, Time now) {
    if (master_key.size() != master_key_bytes) {
        return Error{Errc::invalid_request, "a master key has 32 bytes, not " + std::to_string(master_key.size()), {}};
    }
    auto state = std::make_unique<State>(master_key, backend);
    KV_CHECK(stored.empty() ? state->draw_internal_keys(now) : state->load_internal_keys(stored));
    return std::unique_ptr<Keyring>(new Keyring(std::move(state)));
}

Keyring::Keyring(std::unique_ptr<State> state) : state_(std::move(state)) {}
Keyring::~Keyring() = default;

std::vector<KeyRow> Keyring::take_new_rows() { return std::exchange(state_->new_rows, {}); }
const std::string& Keyring::key_id() const noexcept { return state_->key_id; }
CryptoBackend Keyring::backend() const noexcept { return state_->backend; }

Result<KeyRow> Keyring::make_data_key(const NamespaceId& ns, const std::string& application_id, std::uint32_t generation,
                                      Time now) const {
    KeyRow row;
    row.purpose = KeyPurpose::data;
    row.ns = ns;
    row.generation = generation;
    row.application_id = application_id;
    row.created_at = now;
    return state_->wrap_row(std::move(row), generate_master_key());
}

std::shared_ptr<const AesGcm> Keyring::data_key(const NamespaceId& ns, std::uint32_t generation) const {
    return state_->data_keys.find({ns, generation});
}

Result<std::shared_ptr<const AesGcm>> Keyring::adopt(const KeyRow& row) {
    if (row.purpose != KeyPurpose::data || row.generation == 0) return damaged(row);
    KV_TRY(const SecretBytes key, state_->unwrap_row(row));
    std::shared_ptr<const AesGcm> data_key = AesGcm::create(as_key(key), state_->backend);
    state_->data_keys.put({row.ns, row.generation}, data_key);
    return data_key;
}

void Keyring::forget(const NamespaceId& ns) { state_->data_keys.forget(ns); }

Mac Keyring::row_mac(std::string_view canonical) const {
    return blake2b_keyed(state_->internal_key(KeyPurpose::row_mac), {canonical});
}

Mac Keyring::cursor_mac(std::string_view canonical) const {
    return blake2b_keyed(state_->internal_key(KeyPurpose::cursor), {canonical});
}

Key Keyring::derived_key(std::string_view context) const {
    return blake2b_keyed(state_->internal_key(KeyPurpose::row_mac), {context});
}

Key Keyring::audit_stream_key(const StreamId& stream) const {
    return blake2b_keyed(state_->internal_key(KeyPurpose::audit),
                         {{reinterpret_cast<const char*>(stream.bytes.data()), stream.bytes.size()}});
}

}  // namespace kv::crypto
