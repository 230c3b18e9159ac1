#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kv/clock.h"
#include "kv/export.h"
#include "kv/result.h"
#include "kv/secret.h"

namespace kv {

// RFC 9562; ids that libkv makes are version 7.
struct KV_EXPORT Uuid {
    std::array<std::uint8_t, 16> bytes{};

    friend auto operator<=>(const Uuid&, const Uuid&) = default;
    bool is_nil() const noexcept { return *this == Uuid{}; }
    std::string to_string() const;  // lower case, 36 characters
    // Accepts exactly the 36-character form, in any case.
    static std::optional<Uuid> parse(std::string_view text) noexcept;
};

using NamespaceId = Uuid;
using EntryId = Uuid;
using StreamId = Uuid;

struct NamespaceName {
    std::string application_id;
    std::string name;
    friend auto operator<=>(const NamespaceName&, const NamespaceName&) = default;
};

// A namespace by its id, or by application and name (which finds live ones only).
using NamespaceRef = std::variant<NamespaceId, NamespaceName>;

// "<uuid>" or "<applicationId>~<name>"; empty if it is neither.
KV_EXPORT std::optional<NamespaceRef> parse_namespace_ref(std::string_view text);

enum class ValueType : std::uint8_t { string = 1, json = 2, number = 3, boolean = 4, binary = 5 };

KV_EXPORT std::string_view to_string(ValueType type) noexcept;  // "STRING"...
KV_EXPORT std::optional<ValueType> parse_value_type(std::string_view text) noexcept;

// Value is a typed value in its canonical form: STRING is UTF-8 text, JSON the text of an object or array as it was
// given, NUMBER the literal as it was given, BOOLEAN "true" or "false", BINARY the raw bytes.
struct Value {
    ValueType type = ValueType::string;
    SecretBytes bytes;
};

// ValueInput is a value on its way in, before it is known to fit a type. `form` says what `data` holds; `type` asks
// for a type. Without a type the form decides: text STRING, number NUMBER, boolean BOOLEAN, json JSON, bytes BINARY.
// With one it must fit: NUMBER, BOOLEAN and JSON also accept their text in `text`, BINARY its padded base64 (RFC 4648).
struct KV_EXPORT ValueInput {
    enum class Form : std::uint8_t { text, number, boolean, json, bytes };
    Form form = Form::text;
    SecretBytes data;
    std::optional<ValueType> type = {};

    static ValueInput text(std::string_view text);
    static ValueInput number(std::string_view literal);
    static ValueInput boolean(bool value);
    static ValueInput json(std::string_view text);
    static ValueInput bytes(std::string_view bytes);
};

enum class Permission : std::uint8_t {
    namespace_read,
    namespace_write,
    namespace_delete,
    entry_read,
    entry_write,
    entry_delete,
    secret_rotate,
    audit_read,
    token_admin,
    admin,
};
inline constexpr int permission_count = 10;

KV_EXPORT std::string_view to_string(Permission permission) noexcept;  // "kv-entry:read"
KV_EXPORT std::optional<Permission> parse_permission(std::string_view text) noexcept;

class PermissionSet {
public:
    constexpr PermissionSet() = default;
    constexpr PermissionSet(std::initializer_list<Permission> permissions) {
        for (Permission permission : permissions) add(permission);
    }
    static constexpr PermissionSet all() {
        PermissionSet set;
        set.bits_ = (1u << permission_count) - 1;
        return set;
    }
    constexpr void add(Permission permission) { bits_ |= 1u << static_cast<unsigned>(permission); }
    constexpr bool contains(Permission permission) const {
        return (bits_ >> static_cast<unsigned>(permission) & 1u) != 0;
    }
    constexpr bool empty() const { return bits_ == 0; }
    friend constexpr bool operator==(PermissionSet, PermissionSet) = default;

private:
    std::uint32_t bits_ = 0;
};

// A set of keys: one exact path, everything below a folder ("config/**"), or all ("*").
struct KV_EXPORT KeyPattern {
    enum class Kind : std::uint8_t { exact, folder, all };
    Kind kind = Kind::all;
    std::string path;  // exact: the path; folder: the folder without "/**"

    bool matches(std::string_view key_path) const noexcept;
    static std::optional<KeyPattern> parse(std::string_view text);
};

// Grant allows `permissions` on the keys of the namespaces it selects. There are no deny rules.
struct Grant {
    struct AnyNamespace {};
    PermissionSet permissions;
    std::string application_id = "*";  // "*" is any application
    std::variant<AnyNamespace, NamespaceId, NamespaceName> namespaces = AnyNamespace{};
    std::vector<KeyPattern> keys = {KeyPattern{}};
};

// Actor is who asks, by which credential, from where, and what they may do. `request_id` ends up in the audit rows
// and in the version the request makes; where it is empty libkv draws one.
struct KV_EXPORT Actor {
    std::string user_id;
    std::string credential_id;
    std::string application_id;
    std::string peer;
    std::string request_id;
    // Shared because one credential's grants serve all its requests, and outlive a reload of the credentials.
    std::shared_ptr<const std::vector<Grant>> grants;
    bool is_trusted = false;  // needs no grants

    // For hosts that do not divide rights among callers.
    static Actor trusted(std::string user_id);
    static Actor with_grants(std::string user_id, std::vector<Grant> grants);
};

struct Namespace {
    NamespaceId id;
    std::string application_id;
    std::string name;
    std::string description;
    bool is_secret = false;
    bool sealing = false;  // made secret a moment ago; older values are still being sealed
    std::optional<std::int64_t> default_ttl_seconds;
    bool keeps_history = true;
    std::optional<std::uint64_t> history_limit;  // versions kept per key; empty: all
    bool deletion_protection = false;
    std::uint64_t version = 0;   // of the namespace's own settings
    std::uint64_t revision = 0;  // +1 per entry change in it, nothing else
    Time created_at;
    std::string created_by;
    Time updated_at;
    std::string updated_by;
    std::optional<Time> deleted_at;
};

struct Entry {
    EntryId id;
    NamespaceId namespace_id;
    std::string key_path;
    ValueType value_type = ValueType::string;
    std::optional<SecretBytes> value;  // canonical form of value_type; empty where the operation shows no value
    std::optional<Error> error;        // instead of a value: it failed its integrity check
    std::uint64_t version = 0;
    std::uint64_t revision = 0;
    std::optional<std::int64_t> ttl_seconds;
    std::optional<Time> expires_at;
    std::string metadata = "{}";  // text of a JSON object
    Time created_at;
    std::string created_by;
    Time updated_at;
    std::string updated_by;
};

enum class Reason : std::uint8_t { create = 1, update = 2, rotation = 3, rollback = 4, delete_ = 5, expiry = 6 };
KV_EXPORT std::string_view to_string(Reason reason) noexcept;  // "CREATE"...

// One version in an entry's history.
struct Version {
    std::uint64_t version = 0;
    ValueType value_type = ValueType::string;
    Reason reason = Reason::create;
    std::string comment;
    std::string changed_by;
    Time changed_at;
    std::string request_id;
    bool is_current = false;
    std::optional<std::uint64_t> rolled_back_from;
    std::optional<SecretBytes> value;
    std::optional<Error> error;
};

enum class AuditAction : std::uint8_t { read = 1, write = 2, delete_ = 3, rotate = 4, rollback = 5 };
KV_EXPORT std::string_view to_string(AuditAction action) noexcept;  // "READ"...
KV_EXPORT std::optional<AuditAction> parse_audit_action(std::string_view text) noexcept;

// One row of the audit log. `count` is above 1 where equal denials were folded into one row.
struct AuditRecord {
    StreamId stream;
    std::uint64_t sequence = 0;
    Time timestamp;
    std::optional<NamespaceId> namespace_id;
    std::optional<EntryId> entry_id;
    std::string key_path;
    AuditAction action = AuditAction::read;
    std::string operation;  // "entry.get"...
    std::string user_id;
    std::string credential_id;
    std::string application_id;
    std::string peer;
    std::string request_id;
    bool success = false;
    std::string reason;  // code of the failure; empty on success
    std::optional<std::uint64_t> version;
    std::optional<std::uint64_t> revision;  // of the namespace after a change in it
    std::uint64_t count = 1;
};

// A token that the store made. The token itself is shown once, when it is made.
struct Token {
    Uuid id;
    std::string name;
    std::string user_id;
    std::vector<Grant> grants;
    Time created_at;
    std::string created_by;
    std::optional<Time> expires_at;
    std::optional<Time> last_used_at;  // as of a minute ago or less
};

// SHA-256 of a token.
using TokenHash = std::array<std::uint8_t, 32>;

enum class EventKind : std::uint8_t {
    created = 1,
    updated = 2,
    rotated = 3,
    rolled_back = 4,
    deleted = 5,
    expired = 6,
    touched = 7,
};
KV_EXPORT std::string_view to_string(EventKind kind) noexcept;  // "created"...

}  // namespace kv
