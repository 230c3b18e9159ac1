#include "kv/types.h"

#include "kv/request.h"
#include "kv/storage.h"

namespace kv {
namespace {

constexpr std::array<std::string_view, permission_count> permission_names = {
    "kv-namespace:read", "kv-namespace:write", "kv-namespace:delete", "kv-entry:read",  "kv-entry:write",
    "kv-entry:delete",   "kv-secret:rotate",   "kv-audit:read",       "kv-token:admin", "kv-admin"};
constexpr std::array<std::string_view, 5> value_type_names = {"STRING", "JSON", "NUMBER", "BOOLEAN", "BINARY"};
constexpr std::array<std::string_view, 6> reason_names = {"CREATE", "UPDATE", "ROTATION", "ROLLBACK", "DELETE", "EXPIRY"};
constexpr std::array<std::string_view, 5> action_names = {"READ", "WRITE", "DELETE", "ROTATE", "ROLLBACK"};
constexpr std::array<std::string_view, 7> event_names = {"created",     "updated", "rotated", "rolled_back",
                                                         "deleted", "expired", "touched"};

// A row that was changed outside the store may hold a number without a name.
template <class E, std::size_t N>
std::string_view name_of(const std::array<std::string_view, N>& names, E value) {
    const auto number = static_cast<std::size_t>(value);
    return number >= 1 && number <= N ? names[number - 1] : "UNKNOWN";
}

// Enumerators that start at 1, by name.
template <class E, std::size_t N>
std::optional<E> parse_name(const std::array<std::string_view, N>& names, std::string_view text) {
    for (std::size_t i = 0; i < N; ++i) {
        if (names[i] == text) return static_cast<E>(i + 1);
    }
    return std::nullopt;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

std::string Uuid::to_string() const {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text(36, '-');
    char* at = text.data();
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) ++at;
        *at++ = digits[bytes[i] >> 4];
        *at++ = digits[bytes[i] & 15];
    }
    return text;
}

std::optional<Uuid> Uuid::parse(std::string_view text) noexcept {
    if (text.size() != 36) return std::nullopt;
    Uuid id;
    std::size_t at = 0;
    for (std::size_t i = 0; i < id.bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            if (text[at++] != '-') return std::nullopt;
        }
        int high = hex_digit(text[at++]);
        int low = hex_digit(text[at++]);
        if (high < 0 || low < 0) return std::nullopt;
        id.bytes[i] = static_cast<std::uint8_t>(high << 4 | low);
    }
    return id;
}

std::optional<NamespaceRef> parse_namespace_ref(std::string_view text) {
    if (auto id = Uuid::parse(text)) return NamespaceRef(*id);
    std::size_t tilde = text.rfind('~');  // application ids may hold a '~', names may not
    if (tilde == std::string_view::npos || tilde == 0 || tilde + 1 == text.size()) return std::nullopt;
    return NamespaceRef(NamespaceName{std::string(text.substr(0, tilde)), std::string(text.substr(tilde + 1))});
}

std::string_view to_string(ValueType type) noexcept { return name_of(value_type_names, type); }
std::optional<ValueType> parse_value_type(std::string_view text) noexcept {
    return parse_name<ValueType>(value_type_names, text);
}
std::string_view to_string(Reason reason) noexcept { return name_of(reason_names, reason); }
std::string_view to_string(EventKind kind) noexcept { return name_of(event_names, kind); }
std::string_view to_string(AuditAction action) noexcept { return name_of(action_names, action); }
std::optional<AuditAction> parse_audit_action(std::string_view text) noexcept {
    return parse_name<AuditAction>(action_names, text);
}

std::string_view to_string(Permission permission) noexcept {
    return permission_names[static_cast<std::size_t>(permission)];
}
std::optional<Permission> parse_permission(std::string_view text) noexcept {
    for (std::size_t i = 0; i < permission_names.size(); ++i) {
        if (permission_names[i] == text) return static_cast<Permission>(i);
    }
    return std::nullopt;
}

ValueInput ValueInput::text(std::string_view text) { return {Form::text, SecretBytes(text), {}}; }
ValueInput ValueInput::number(std::string_view literal) { return {Form::number, SecretBytes(literal), {}}; }
ValueInput ValueInput::boolean(bool value) { return {Form::boolean, SecretBytes(value ? "true" : "false"), {}}; }
ValueInput ValueInput::json(std::string_view text) { return {Form::json, SecretBytes(text), {}}; }
ValueInput ValueInput::bytes(std::string_view bytes) { return {Form::bytes, SecretBytes(bytes), {}}; }

bool KeyPattern::matches(std::string_view key_path) const noexcept {
    switch (kind) {
        case Kind::all: return true;
        case Kind::exact: return key_path == path;
        case Kind::folder:
            return key_path.size() > path.size() + 1 && key_path.starts_with(path) && key_path[path.size()] == '/';
    }
    return false;
}

std::optional<KeyPattern> KeyPattern::parse(std::string_view text) {
    if (text == "*") return KeyPattern{};
    Kind kind = Kind::exact;
    if (text.ends_with("/**")) {
        kind = Kind::folder;
        text.remove_suffix(3);
    }
    if (text.empty() || text.front() == '/' || text.back() == '/') return std::nullopt;
    if (text.find('*') != std::string_view::npos || text.find("//") != std::string_view::npos) return std::nullopt;
    return KeyPattern{kind, std::string(text)};
}

Actor Actor::trusted(std::string user_id) {
    Actor actor;
    actor.user_id = std::move(user_id);
    actor.is_trusted = true;
    return actor;
}

Actor Actor::with_grants(std::string user_id, std::vector<Grant> grants) {
    Actor actor;
    actor.user_id = std::move(user_id);
    actor.grants = std::make_shared<const std::vector<Grant>>(std::move(grants));
    return actor;
}

StorageReader::~StorageReader() = default;

Result<LockedAndFound> StorageWriter::lock_and_find(std::span<const NamespaceRef> locked, std::span<const EntryRef> refs, Want want) {
    LockedAndFound both;
    KV_TRY(both.namespaces, lock(locked));
    KV_TRY(both.entries, find(refs, want));
    return both;
}

bool Changeset::empty() const noexcept {
    return !erase_all && namespaces.empty() && archive.empty() && versions.empty() && entries.empty() && reseals.empty() &&
           erase_versions.empty() && erase_entries.empty() && erase_namespaces.empty() && events.empty() && keys.empty() &&
           erase_keys.empty() && meta.empty() && erase_meta.empty() && erase_audit_to == 0 && audit.empty() &&
           heads.empty() && erase_heads.empty() && erase_events.empty() && sinks.empty() && cursors.empty() &&
           erase_cursors.empty() && erase_sinks.empty() && tokens.empty() && erase_tokens.empty() && token_uses.empty();
}

}  // namespace kv
