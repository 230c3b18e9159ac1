#include "crypto/keyring.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <utility>

#include "crypto/key_memory.h"
#include "crypto/wrap.h"

namespace kv::crypto {
namespace {

// Two mebibytes of lockable memory; a system grants eight by default.
constexpr std::size_t data_keys_cached_max = 4096;

constexpr std::array internal_purposes = {KeyPurpose::audit, KeyPurpose::row_mac, KeyPurpose::token, KeyPurpose::cursor};
static_assert(internal_purposes.size() * key_bytes <= key_slot_bytes);

std::string wraps_of(const KeyRow& row) {
    return row.wrap_key_id + (row.second_wrap_key_id.empty() ? "" : " or " + row.second_wrap_key_id);
}

// Neither of our master keys is named by the row.
Error wrong_key(const KeyRow& row, const WrapKey& current, const WrapKey* previous) {
    const std::string ours = previous == nullptr ? "the master key " + current.id() + " does"
                                                 : "the master keys " + current.id() + " and " + previous->id() + " do";
    if (row.purpose != KeyPurpose::data) {
        return Error{Errc::wrong_key, ours + " not open this store, whose keys are wrapped by " + wraps_of(row), {}};
    }
    return Error{Errc::wrong_key, ours + " not open the " + describe(row) + " which is wrapped by " + wraps_of(row) +
                                      " alone: start with KV_MASTER_KEY_PREVIOUS until every key is wrapped anew", {}};
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
        auto [at, is_new] = keys_.try_emplace(name);
        if (is_new) {
            try {
                order_.push_back(name);
            } catch (...) {
                keys_.erase(at);
                throw;
            }
        }
        at->second = std::move(key);
        if (order_.size() <= data_keys_cached_max) return;
        keys_.erase(order_.front());
        order_.pop_front();
    }

    void forget(const NamespaceId& ns) {
        std::unique_lock lock(mutex_);
        std::erase_if(keys_, [&](const auto& item) { return item.first.ns == ns; });
        std::erase_if(order_, [&](const DataKeyName& name) { return name.ns == ns; });
    }

    void forget(const DataKeyName& name) {
        std::unique_lock lock(mutex_);
        if (keys_.erase(name) > 0) std::erase(order_, name);
    }

private:
    mutable std::shared_mutex mutex_;
    std::unordered_map<DataKeyName, std::shared_ptr<const AesGcm>, DataKeyHash> keys_;
    std::deque<DataKeyName> order_;  // of keys_, by when each was put
};

}  // namespace

struct Keyring::State {
    State(const SecretBytes& master_key, CryptoBackend chosen) : backend(chosen), current(master_key, chosen) {}

    Result<void> draw_internal_keys(Time now);
    Result<void> load_internal_keys(const std::vector<KeyRow>& stored);
    Result<SecretBytes> load(const KeyRow& row);
    Result<KeyRow> wrap_row(KeyRow row, const SecretBytes& key) const;
    Result<SecretBytes> open_row(const KeyRow& row) const;
    Result<KeyRow> rewrap(KeyRow row) const;
    void keep(KeyPurpose purpose, const SecretBytes& key);
    std::span<const std::uint8_t, key_bytes> internal_key(KeyPurpose purpose) const;

    CryptoBackend backend;
    WrapKey current;
    std::optional<WrapKey> previous;
    std::atomic<bool> wraps_by_previous{false};
    KeySlot internal_keys;  // side by side, in the order of internal_purposes
    std::vector<KeyRow> new_rows;
    DataKeyCache data_keys;
};

namespace {

std::size_t internal_offset(KeyPurpose purpose) {
    const auto found = std::find(internal_purposes.begin(), internal_purposes.end(), purpose);
    return static_cast<std::size_t>(found - internal_purposes.begin()) * key_bytes;
}

KeyRow internal_row(KeyPurpose purpose, Time now) {
    KeyRow row;
    row.purpose = purpose;
    row.generation = 1;
    row.created_at = now;
    return row;
}

// The only row of that purpose, with nothing in it that such a row cannot have.
Result<const KeyRow*> find_internal_row(const std::vector<KeyRow>& stored, KeyPurpose purpose) {
    const KeyRow* found = nullptr;
    for (const KeyRow& row : stored) {
        if (row.purpose != purpose) continue;
        if (found != nullptr || !row.ns.is_nil() || row.generation != 1 || !row.application_id.empty()) return damaged(row);
        found = &row;
    }
    if (found == nullptr) return Error{Errc::integrity, "the " + describe(internal_row(purpose, {})) + " of the store is missing", {}};
    return found;
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
    KV_CHECK(load(*canary));
    // It tells whether the previous key still counts: it is the last row that a forgotten key's wrap is dropped from.
    wraps_by_previous = previous && previous->is_named_by(*canary);
    for (KeyPurpose purpose : internal_purposes) {
        KV_TRY(const KeyRow* row, find_internal_row(stored, purpose));
        KV_TRY(const SecretBytes key, load(*row));
        keep(purpose, key);
    }
    return {};
}

// Opens an internal row, and sees to it that it will be wrapped by the current key.
Result<SecretBytes> Keyring::State::load(const KeyRow& row) {
    KV_TRY(SecretBytes key, open_row(row));
    if (!current.is_named_by(row)) {
        KV_TRY(KeyRow rewrapped, rewrap(row));
        new_rows.push_back(std::move(rewrapped));
    }
    return key;
}

Result<KeyRow> Keyring::State::wrap_row(KeyRow row, const SecretBytes& key) const {
    KV_TRY(row.wrap, current.wrap(row, key));
    row.wrap_key_id = current.id();
    row.commitment = commitment_of(key);
    if (wraps_by_previous) {
        KV_TRY(row.second_wrap, previous->wrap(row, key));
        row.second_wrap_key_id = previous->id();
    }
    return row;
}

Result<SecretBytes> Keyring::State::open_row(const KeyRow& row) const {
    if (current.is_named_by(row)) return current.open(row);
    if (previous && previous->is_named_by(row)) return previous->open(row);
    return wrong_key(row, current, previous ? &*previous : nullptr);
}

// A third, older wrap is what gives way.
Result<KeyRow> Keyring::State::rewrap(KeyRow row) const {
    if (current.is_named_by(row)) return row;
    KV_TRY(const SecretBytes key, open_row(row));
    if (row.second_wrap_key_id != previous->id()) {
        row.second_wrap_key_id = std::move(row.wrap_key_id);
        row.second_wrap = std::move(row.wrap);
    }
    KV_TRY(row.wrap, current.wrap(row, key));
    row.wrap_key_id = current.id();
    return row;
}

void Keyring::State::keep(KeyPurpose purpose, const SecretBytes& key) {
    std::copy_n(as_key(key).data(), key_bytes, internal_keys.data() + internal_offset(purpose));
}

std::span<const std::uint8_t, key_bytes> Keyring::State::internal_key(KeyPurpose purpose) const {
    return std::span<const std::uint8_t, key_bytes>(internal_keys.data() + internal_offset(purpose), key_bytes);
}

namespace {

Result<void> check_size(const SecretBytes& master_key) {
    if (master_key.size() == master_key_bytes) return {};
    return Error{Errc::invalid_request, "a master key has 32 bytes, not " + std::to_string(master_key.size()), {}};
}

}  // namespace

Result<std::unique_ptr<Keyring>> Keyring::open(const SecretBytes& master_key, CryptoBackend backend, std::vector<KeyRow> stored,
                                               Time now, const SecretBytes* previous) {
    KV_CHECK(check_size(master_key));
    if (previous != nullptr) KV_CHECK(check_size(*previous));
    auto state = std::make_unique<State>(master_key, backend);
    if (previous != nullptr) {
        state->previous.emplace(*previous, backend);
        if (state->previous->id() == state->current.id()) state->previous.reset();
    }
    state->wraps_by_previous = state->previous.has_value();
    KV_CHECK(stored.empty() ? state->draw_internal_keys(now) : state->load_internal_keys(stored));
    return std::unique_ptr<Keyring>(new Keyring(std::move(state)));
}

Keyring::Keyring(std::unique_ptr<State> state) : state_(std::move(state)) {}
Keyring::~Keyring() = default;

std::vector<KeyRow> Keyring::take_new_rows() { return std::exchange(state_->new_rows, {}); }
const std::string& Keyring::key_id() const noexcept { return state_->current.id(); }
std::string Keyring::previous_key_id() const { return state_->previous ? state_->previous->id() : std::string(); }
bool Keyring::wraps_by_previous() const noexcept { return state_->wraps_by_previous; }
void Keyring::stop_wrapping_by_previous() noexcept { state_->wraps_by_previous = false; }
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
    KV_TRY(const SecretBytes key, state_->open_row(row));
    std::shared_ptr<const AesGcm> data_key = AesGcm::create(as_key(key), state_->backend);
    state_->data_keys.put({row.ns, row.generation}, data_key);
    return data_key;
}

void Keyring::forget(const NamespaceId& ns) { state_->data_keys.forget(ns); }
void Keyring::forget(const NamespaceId& ns, std::uint32_t generation) { state_->data_keys.forget(DataKeyName{ns, generation}); }

Result<KeyRow> Keyring::rewrap(const KeyRow& row) const { return state_->rewrap(row); }

Result<void> Keyring::check(const KeyRow& row) const {
    KV_CHECK(state_->current.open(row));
    return {};
}

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
    return crypto::audit_stream_key(state_->internal_key(KeyPurpose::audit), stream);
}

Key audit_stream_key(std::span<const std::uint8_t, key_bytes> audit_key, const StreamId& stream) {
    return blake2b_keyed(audit_key, {{reinterpret_cast<const char*>(stream.bytes.data()), stream.bytes.size()}});
}

}  // namespace kv::crypto
