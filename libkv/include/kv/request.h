#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kv/types.h"

namespace kv {

class Watch;

// One struct per operation, and its reply. A request is data: HTTP, the C ABI and a C++ host build the same one.
// `ReplyType` names what Client::call answers.

// Optimistic locking. What is left empty is not asked. ETags are as replies give them, without quotes.
struct Precondition {
    std::optional<std::uint64_t> expected_version = {};  // 0: must not exist; otherwise Errc::version_conflict
    bool if_match_any = false;                      // must exist; otherwise Errc::precondition_failed
    bool if_none_match_any = false;                 // must not exist
    std::optional<std::vector<std::string>> if_match = {};  // one of these
};

// Time to live of a written value: unchanged (the default of the operation), none, or so many seconds from now.
struct Ttl {
    enum class Kind : std::uint8_t { absent, never, seconds };
    Kind kind = Kind::absent;
    std::int64_t seconds = 0;

    static Ttl never() { return {Kind::never, 0}; }
    static Ttl after(std::int64_t seconds) { return {Kind::seconds, seconds}; }
};

// `T` where absent means "leave it" and an empty optional "clear it".
template <class T>
using Change = std::optional<std::optional<T>>;

// A member that only replies carry, sent back by the caller; it must equal what is there (else read_only_field).
// `text` is the member as replies render it; empty for null.
struct EchoedMember {
    std::string name = {};  // "createdAt"...
    std::optional<std::string> text = {};
};

struct Page {
    std::optional<std::uint64_t> limit = {};  // 1..limits.page_items_max (1000), which is also the default
    std::string cursor = {};                  // nextCursor of the page before; empty: from the start
};

// ---- replies ----

struct Done {};

struct NamespaceReply {
    Namespace ns = {};
    std::string etag = {};
    bool not_modified = false;
};
struct NamespaceList {
    std::vector<Namespace> items = {};
    std::optional<std::string> next_cursor = {};
    std::string etag = {};
    bool not_modified = false;
};
struct EntryReply {
    Entry entry = {};
    bool created = false;
    std::string etag = {};
    bool not_modified = false;
};
struct EntryList {
    std::vector<Entry> items = {};
    std::vector<std::string> prefixes = {};  // folders folded by the delimiter
    std::optional<std::string> next_cursor = {};
    std::uint64_t revision = 0;  // of the namespace, when the list was begun
    std::string etag = {};
    bool not_modified = false;
};
struct VersionList {
    std::vector<Version> items = {};
    std::optional<std::string> next_cursor = {};
    std::string etag = {};
    bool not_modified = false;
};
struct BulkGetReply {
    std::vector<Entry> entries = {};
    std::vector<std::string> missing = {};
    std::vector<std::string> remaining = {};  // beyond what one reply may hold
    std::string etag = {};
    bool not_modified = false;
};
struct BulkSetResult {
    enum class Status : std::uint8_t { created, updated, failed };
    std::string key_path = {};
    Status status = Status::failed;
    std::uint64_t version = 0;
    std::optional<Error> error = {};
};
struct BulkSetReply {
    std::vector<BulkSetResult> results = {};
};
struct BulkDeleteReply {
    std::vector<std::string> deleted = {};
    std::vector<std::string> missing = {};
    std::vector<Error> failed = {};  // key_path names the item
};
struct AuditList {
    std::vector<AuditRecord> items = {};
    std::optional<std::string> next_cursor = {};
};
struct WatchReply {
    std::shared_ptr<Watch> watch = {};  // shared because replies are copied
    std::uint64_t revision = 0;         // of the namespace, when the watch began
};
struct ExportReply {
    SecretBytes text = {};
    std::string etag = {};
    bool not_modified = false;
};

struct TokenReply {
    Token token = {};
    SecretBytes secret = {};  // the token itself, which is kept nowhere
};
struct TokenList {
    std::vector<Token> items = {};
    std::optional<std::string> next_cursor = {};
};

// ---- namespaces ----

struct ListNamespaces {
    using ReplyType = NamespaceList;
    std::optional<std::string> application_id = {};
    std::optional<std::string> name = {};
    bool deleted = false;  // those deleted but restorable, instead of the live ones
    Page page = {};
    std::vector<std::string> if_none_match = {};
};
struct GetNamespace {
    using ReplyType = NamespaceReply;
    NamespaceRef ns = {};
    std::vector<std::string> if_none_match = {};
};
struct CreateNamespace {
    using ReplyType = NamespaceReply;
    std::string name = {};
    std::string description = {};
    std::string application_id = "default";
    bool is_secret = false;
    std::optional<std::int64_t> default_ttl_seconds = {};
    bool keeps_history = true;
    Change<std::uint64_t> history_limit = {};  // absent: none for a secret namespace, 20 for a plain one
    bool deletion_protection = false;
};
struct UpdateNamespace {
    using ReplyType = NamespaceReply;
    NamespaceRef ns = {};
    std::optional<std::string> name = {};
    Change<std::string> description = {};
    std::optional<std::string> application_id = {};  // fixed: another one is Errc::immutable
    std::optional<bool> is_secret = {};
    Change<std::int64_t> default_ttl_seconds = {};
    std::optional<bool> keeps_history = {};
    Change<std::uint64_t> history_limit = {};
    std::optional<bool> deletion_protection = {};
    std::vector<EchoedMember> echoed = {};
    Precondition precondition = {};  // against the namespace's own version
};
struct DeleteNamespace {
    using ReplyType = Done;
    NamespaceRef ns = {};
    bool purge = false;
    Precondition precondition = {};
};
struct RestoreNamespace {
    using ReplyType = NamespaceReply;
    NamespaceId ns = {};
};
// See Store::rotate_data_key().
struct RotateDataKey {
    using ReplyType = NamespaceReply;
    NamespaceRef ns = {};
};

// ---- entries ----

struct GetEntry {
    using ReplyType = EntryReply;
    NamespaceRef ns = {};
    std::string key_path = {};
    std::optional<std::uint64_t> version = {};  // a past version, also of a deleted key
    std::vector<std::string> if_none_match = {};
};
// What a PUT or one item of a bulk set writes.
struct EntryWrite {
    std::string key_path = {};
    ValueInput value = {};
    Ttl ttl = {};  // absent: the namespace's default
    std::string metadata = "{}";
    std::string comment = {};
    std::vector<EchoedMember> echoed = {};
    Precondition precondition = {};
};
struct PutEntry {
    using ReplyType = EntryReply;
    NamespaceRef ns = {};
    EntryWrite write = {};
    bool include_value = false;  // also needs kv-entry:read, recorded as a read
};
struct PatchEntry {
    using ReplyType = EntryReply;
    NamespaceRef ns = {};
    std::string key_path = {};
    Ttl ttl = {};                              // absent: unchanged
    std::optional<std::string> metadata = {};  // a JSON merge patch (RFC 7396), itself an object; "null" clears
    Precondition precondition = {};
};
struct DeleteEntry {
    using ReplyType = Done;
    NamespaceRef ns = {};
    std::string key_path = {};
    bool purge = false;
    Precondition precondition = {};
};
struct ListEntries {
    using ReplyType = EntryList;
    NamespaceRef ns = {};
    std::string prefix = {};
    bool fold_folders = false;  // delimiter=/
    bool include_values = false;
    std::optional<Time> expiring_before = {};
    Page page = {};
    std::vector<std::string> if_none_match = {};
    // Not before the namespace's revision is above this, or `wait_seconds` (1 to 300) are over: a long poll.
    std::optional<std::uint64_t> wait_revision = {};
    std::int64_t wait_seconds = 60;
};
// Events of the entries that a list would show: kv-namespace:read.
struct WatchEntries {
    using ReplyType = WatchReply;
    NamespaceRef ns = {};
    std::string prefix = {};
    std::optional<std::uint64_t> from_revision = {};  // those above it; absent: from now on
};

// ---- bulk ----

struct BulkGet {
    using ReplyType = BulkGetReply;
    NamespaceRef ns = {};
    std::vector<std::string> keys = {};
    std::vector<std::string> if_none_match = {};
};
struct BulkSet {
    using ReplyType = BulkSetReply;
    NamespaceRef ns = {};
    std::vector<EntryWrite> entries = {};
    bool atomic = true;
};
struct BulkDelete {
    using ReplyType = BulkDeleteReply;
    NamespaceRef ns = {};
    std::vector<std::string> keys = {};
    bool atomic = true;
    bool purge = false;
};

// ---- secrets ----

struct Generate {
    enum class Alphabet : std::uint8_t { alphanumeric, hex, base64url, ascii };
    std::uint32_t length = 32;  // characters, 16..1024
    Alphabet alphabet = Alphabet::alphanumeric;
};
struct RotateEntry {
    using ReplyType = EntryReply;
    NamespaceRef ns = {};
    std::string key_path = {};
    std::variant<ValueInput, Generate> value = {};
    Ttl ttl = {};  // absent: the entry's own, re-armed
    std::string comment = {};
    Precondition precondition = {};
    bool include_value = false;
};
struct ListVersions {
    using ReplyType = VersionList;
    NamespaceRef ns = {};
    std::string key_path = {};
    bool include_values = false;
    Page page = {};
    std::vector<std::string> if_none_match = {};
};
struct RollbackEntry {
    using ReplyType = EntryReply;
    NamespaceRef ns = {};
    std::string key_path = {};
    std::optional<std::uint64_t> version = {};  // absent: the value before the current
    Ttl ttl = {};
    std::string comment = {};
    Precondition precondition = {};
    bool include_value = false;
};

// ---- tokens: each needs kv-token:admin ----

// Nobody gives grants beyond their own: Errc::permission_denied. Each grant of the token must lie within one of the actor's.
struct CreateToken {
    using ReplyType = TokenReply;
    std::string name = {};     // what it is for
    std::string user_id = {};  // whom it stands for
    std::vector<Grant> grants = {};
    std::optional<std::int64_t> ttl_seconds = {};  // empty: until it is revoked
};
// Those whose grants the actor could have given, by id.
struct ListTokens {
    using ReplyType = TokenList;
    Page page = {};
};
// Errc::not_found for those that a list would not show.
struct RevokeToken {
    using ReplyType = Done;
    Uuid id = {};
};

// ---- around them ----

struct ListAudit {
    using ReplyType = AuditList;
    std::optional<NamespaceRef> ns = {};
    std::optional<std::string> key_path = {};
    std::optional<std::string> user_id = {};
    std::optional<std::string> credential_id = {};
    std::optional<AuditAction> action = {};
    std::optional<std::string> operation = {};
    std::optional<bool> success = {};
    std::optional<Time> from = {};  // inclusive
    std::optional<Time> to = {};    // exclusive
    bool newest_first = true;
    Page page = {};
};
struct ExportEntries {
    using ReplyType = ExportReply;
    enum class Format : std::uint8_t { dotenv, json, shell, yaml };
    NamespaceRef ns = {};
    std::string prefix = {};  // a folder, cut off the names
    Format format = Format::dotenv;
    std::vector<std::string> if_none_match = {};
};
// A request that a front end refused before it became an operation (no credential, unreadable body): recorded.
struct RecordRefusal {
    using ReplyType = Done;
    AuditAction action = AuditAction::read;
    std::string operation = {};
    std::string key_path = {};
    Errc reason = Errc::invalid_request;
};

using Request = std::variant<ListNamespaces, GetNamespace, CreateNamespace, UpdateNamespace, DeleteNamespace,
                             RestoreNamespace, RotateDataKey, GetEntry, PutEntry, PatchEntry, DeleteEntry, ListEntries, BulkGet, BulkSet,
                             BulkDelete, RotateEntry, ListVersions, RollbackEntry, ListAudit, ExportEntries, RecordRefusal, WatchEntries,
                             CreateToken, ListTokens, RevokeToken>;

using Reply = std::variant<Done, NamespaceReply, NamespaceList, EntryReply, EntryList, VersionList, BulkGetReply,
                           BulkSetReply, BulkDeleteReply, AuditList, ExportReply, WatchReply, TokenReply, TokenList>;

}  // namespace kv
