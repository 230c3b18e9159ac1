#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "kv/types.h"

// The rows that a storage keeps, as libkv and a backend hand them to each other.
namespace kv {

using Mac = std::array<std::uint8_t, 32>;

struct NamespaceRow {
    NamespaceId id;
    std::string application_id;
    std::string name;
    std::string description;
    bool is_secret = false;
    bool sealing = false;
    std::optional<std::int64_t> default_ttl_seconds;
    bool keeps_history = true;
    std::optional<std::uint64_t> history_limit;
    bool deletion_protection = false;
    std::uint64_t version = 0;
    std::uint64_t revision = 0;
    std::uint32_t key_generation = 0;  // of its data key; 0: plain
    std::uint64_t seals = 0;           // by that generation
    std::uint64_t version_floor = 0;   // the highest version of any entry it forgot
    std::uint64_t version_base = 0;    // every version made from now on is above it: a restore may have lost some below
    Time changed_at;                   // of the last change in it; time never goes back behind this
    Time created_at;
    std::string created_by;
    Time updated_at;
    std::string updated_by;
    std::optional<Time> deleted_at;
    Mac mac{};  // over id, application_id, is_secret, sealing, key_generation, name
};

struct EntryRow {
    EntryId id;
    NamespaceId ns;
    std::string key_path;
    bool is_tombstone = false;  // deleted or expired: a version of its own, without a value
    std::string value;          // plain bytes, or a sealed record where key_generation > 0
    ValueType value_type = ValueType::string;
    std::uint32_t key_generation = 0;
    std::uint64_t version = 0;
    std::uint64_t revision = 0;
    Reason reason = Reason::create;
    std::string comment;
    std::optional<std::uint64_t> rolled_back_from;
    std::optional<std::int64_t> ttl_seconds;
    std::optional<Time> expires_at;
    std::string metadata = "{}";
    std::uint64_t history_floor = 0;   // versions at or below it are hidden: an expiry or a purge ended them
    std::optional<Time> hidden_since;  // when that expiry happened, until what it hid is destroyed
    Time created_at;
    std::string created_by;
    Time updated_at;
    std::string updated_by;
    std::string request_id;
};

// What an entry was at one version: archived when it changed.
struct VersionRow {
    EntryId entry_id;
    NamespaceId ns;
    std::string key_path;  // of its entry: filled by scan_due_versions() alone, ignored on the way in
    std::uint64_t version = 0;
    bool is_tombstone = false;
    std::string value;
    ValueType value_type = ValueType::string;
    std::uint32_t key_generation = 0;
    std::uint64_t revision = 0;
    Reason reason = Reason::create;
    std::string comment;
    std::optional<std::uint64_t> rolled_back_from;
    std::optional<std::int64_t> ttl_seconds;
    std::optional<Time> expires_at;
    std::string metadata = "{}";
    Time changed_at;         // the entry's updated_at
    std::string changed_by;  // the entry's updated_by
    std::string request_id;
};

struct AuditRow {
    AuditRecord record;
    Mac mac{};
    std::uint64_t position = 0;  // given by the storage, ascending in commit order on one stream; input: ignored
};

// A stream is open while somebody may write it, closed once it ended in a CLOSE row, and witnessed when a later stream
// has recorded its head: from then on nobody needs to name it again.
enum class HeadState : std::uint8_t { open = 0, closed = 1, witnessed = 2 };

// The last row of a stream, so that a cut tail is noticed and an unknown commit can be resolved.
struct AuditHead {
    StreamId stream;
    std::uint64_t sequence = 0;  // 0: no row yet
    Mac mac{};
    HeadState state = HeadState::open;
};

// Outbox: one row per revision, never updated.
struct EventRow {
    NamespaceId ns;
    std::uint64_t revision = 0;
    EntryId entry_id;
    std::string key_path;
    EventKind kind = EventKind::created;
    std::uint64_t version = 0;
    Time at;
    std::string user_id;
};

// Somebody who is told every event once its change is committed: an EventSink of a host.
struct SinkRow {
    std::string name;
    Time registered_at;
    // Which of the processes that share the storage delivers to it; nobody else may until `owned_until`.
    std::string owner;  // empty: none
    Time owned_until;
    std::uint64_t owners = 0;  // how often the owner changed
};

// How far a sink has got in a namespace: every event up to `revision` arrived.
struct SinkCursorRow {
    std::string sink;
    NamespaceId ns;
    std::string application_id;  // of the namespace, which may be gone before its last event arrived
    std::uint64_t revision = 0;
};

// A token that the store made: it knows it by its hash alone. The id is a part of the hash.
struct TokenRow {
    Uuid id;
    Mac hash{};          // SHA-256 of the token
    std::string name;
    std::string user_id;
    std::string grants;  // as JSON
    Time created_at;
    std::string created_by;
    std::optional<Time> expires_at;
    std::optional<Time> last_used_at;
    Mac mac{};           // over everything but last_used_at
};

enum class KeyPurpose : std::uint8_t { canary = 1, audit = 2, row_mac = 3, token = 4, cursor = 5, data = 6 };

// A key of the store, wrapped by the master key. While the master key is being changed a row holds both wraps.
struct KeyRow {
    KeyPurpose purpose = KeyPurpose::data;
    NamespaceId ns;                // nil unless purpose is data
    std::uint32_t generation = 0;  // data: 1...; others 1
    std::string application_id;    // of the namespace; bound into the wrap
    Time created_at;
    std::string wrap_key_id;       // master_key_id() of the key that made `wrap`
    std::string wrap;
    std::string second_wrap_key_id;  // empty: no second wrap
    std::string second_wrap;
    Mac commitment{};              // hash of the key itself
};

struct MetaRow {
    std::string name;
    std::string value;
};

}  // namespace kv
