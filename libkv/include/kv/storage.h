#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/rows.h"

// What a storage backend must offer. A host that only uses the store may ignore this file.
//
// A backend keeps rows and knows no rule: it compares bytes, numbers and ids, and nothing else. Every method takes a
// batch and every scan is bounded in rows and in bytes. A backend is done when tests/storage passes.
namespace kv {

// ---- questions ----

struct VersionPick {
    enum class Kind : std::uint8_t { current, exact, previous };
    Kind kind = Kind::current;
    std::uint64_t version = 0;  // exact only
};

// The entry, and by `pick` an archived version of it: exact = that number, previous = the highest archived version below the
// current one that is not a tombstone. An empty key path asks for the namespace alone.
struct EntryRef {
    NamespaceRef ns;
    std::string key_path;
    VersionPick pick = {};
};

// What find() loads beyond the bare row.
struct Want {
    bool value = false;    // EntryRow::value and VersionRow::value; otherwise they stay empty
    bool history = false;  // Found::has_history
};

struct Found {
    // Shared because all refs of one batch that name a namespace share its row. A NamespaceId finds deleted ones too,
    // a NamespaceName only the live one. Null: there is none.
    std::shared_ptr<const NamespaceRow> ns;
    std::optional<EntryRow> entry;      // tombstones too
    std::optional<VersionRow> version;  // archived one that `pick` asked for
    bool has_history = false;           // any archived version
};

// Sorted by (application_id, name, id), bytewise.
struct NamespaceRange {
    enum class Deleted : std::uint8_t { live, deleted, both };
    std::optional<std::string> application_id = {};
    std::optional<std::string> name = {};
    Deleted deleted = Deleted::live;
    std::optional<Time> deleted_before = {};  // deleted_at earlier than this
    std::optional<bool> sealing = {};
    std::optional<std::uint64_t> seals_from = {};  // only those whose data key sealed as many values or more
    struct After {
        std::string application_id;
        std::string name;
        NamespaceId id;
    };
    std::optional<After> after = {};
    std::size_t limit = 1000;
};

// Keys from `from` (inclusive) up to `to` (exclusive; empty: no end).
struct KeyRange {
    std::string from;
    std::string to;
    friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

// Live entries of a namespace in byte order of their keys.
struct EntryRange {
    NamespaceId ns = {};
    std::vector<KeyRange> ranges = {};    // sorted, disjoint
    std::string start = {};               // nothing below this key (inclusive)
    std::optional<std::size_t> fold_from = {};  // fold keys to their folder: up to and with the first '/' at or after this byte
    Time now = {};                        // entries with expires_at <= now are not there
    std::optional<Time> expiring_before = {};  // only those with expires_at earlier than this
    bool values = false;
    std::size_t limit = 1000;             // rows and folders together
    std::size_t bytes = SIZE_MAX;         // ends after the row whose value crosses this
};
struct EntryPage {
    std::vector<EntryRow> rows;
    std::vector<std::string> folders;
    std::string resume;  // `start` of the next page; meaningful if `more`
    bool more = false;
};

// Archived versions, newest first: above `above` and below `below`.
struct VersionRange {
    EntryId entry_id = {};
    std::uint64_t above = 0;
    std::uint64_t below = UINT64_MAX;
    bool values = false;
    std::size_t limit = 1000;
    std::size_t bytes = SIZE_MAX;  // ends after the row whose value crosses this
};

// Audit rows that match every given member.
struct AuditRange {
    std::optional<NamespaceId> ns = {};
    std::optional<std::string> key_path = {};
    std::optional<std::string> user_id = {};
    std::optional<std::string> credential_id = {};
    std::optional<AuditAction> action = {};
    std::optional<std::string> operation = {};
    std::optional<bool> success = {};
    std::optional<Time> from = {};  // inclusive
    std::optional<Time> to = {};    // exclusive
    std::optional<StreamId> stream = {};
    bool newest_first = true;
    std::optional<std::uint64_t> after = {};  // position: nothing at or before it in the order asked for
    std::size_t limit = 1000;
    std::size_t walk = 50'000;           // look at no more rows than this
};
struct AuditPage {
    std::vector<AuditRow> rows;
    std::optional<std::uint64_t> resume = {};  // position of the last row looked at; empty: there are no more
};

struct EventRange {
    NamespaceId ns = {};
    std::uint64_t after = 0;
    std::size_t limit = 1000;
};

struct KeyRef {
    KeyPurpose purpose = KeyPurpose::data;
    NamespaceId ns = {};
    std::optional<std::uint32_t> generation = {};  // empty: all
};

// Rows that are due for maintenance, over all namespaces unless `ns` says otherwise. The first three kinds come in the
// order of their times.
struct DueRange {
    enum class Kind : std::uint8_t {
        expired,         // live with expires_at <= before
        hidden,          // hidden_since <= before
        tombstones,      // tombstones with updated_at <= before, hidden_since empty and no archived version
        generation,      // of `ns`: live entries with a value and key_generation < `generation`
        all,             // of `ns`: every row, tombstones too
    };
    Kind kind = Kind::expired;
    std::optional<NamespaceId> ns = {};
    Time before = {};
    std::uint32_t generation = 0;
    bool values = false;
    // Behind this row in the order of the kind: by time and id for the first three, by generation for the fourth (among
    // equals in an order of the storage's own; behind a row that is gone there may be none of its generation). `all` knows
    // no such place: its rows are there to be erased.
    struct After {
        Time at = {};
        std::uint32_t generation = 0;
        EntryId id = {};
    };
    std::optional<After> after = {};
    std::size_t limit = 512;
    std::size_t bytes = 1u << 20;
};
// Archived versions of `ns` that hold a value with key_generation < `generation`, with values, by generation as above.
struct DueVersionRange {
    NamespaceId ns;
    std::uint32_t generation = 0;
    struct After {
        std::uint32_t generation = 0;
        EntryId entry_id = {};
        std::uint64_t version = 0;
    };
    std::optional<After> after = {};
    std::size_t limit = 512;
    std::size_t bytes = 1u << 20;
};

// ---- walks: every row of a table in the order of its key, for backup and verification ----
// An empty page is the end: the next page begins behind the last row of the one before. Where somebody made the id in a
// key unreadable it reads as nil; a walk passes by such a row, and a page that ends in one is the last.

struct EntryWalk {
    struct After {
        NamespaceId ns;
        std::string key_path;
    };
    std::optional<After> after = {};
    bool values = true;
    std::size_t limit = 512;
    std::size_t bytes = 1u << 20;  // ends after the row whose value crosses this
};
// With key_path, which is empty where the entry is gone.
struct VersionWalk {
    struct After {
        EntryId entry_id;
        std::uint64_t version = 0;
    };
    std::optional<After> after = {};
    bool values = true;
    std::size_t limit = 512;
    std::size_t bytes = 1u << 20;
};
struct EventWalk {
    struct After {
        NamespaceId ns;
        std::uint64_t revision = 0;
    };
    std::optional<After> after = {};
    std::size_t limit = 512;
};
struct HeadWalk {
    std::optional<StreamId> after = {};
    std::size_t limit = 512;
};
// Of every purpose, by purpose, namespace and generation; only those that match.
struct KeyWalk {
    struct After {
        KeyPurpose purpose = KeyPurpose::canary;
        NamespaceId ns;
        std::uint32_t generation = 0;
    };
    std::optional<After> after = {};
    std::string wrapped_by = {};      // one of the wraps is by this key id; empty: not asked
    std::string not_wrapped_by = {};  // neither is; empty: not asked
    bool outdated = false;            // data keys of a generation below their namespace's
    std::size_t limit = 512;
};

// Threads: any. Outside a write each call sees one snapshot of what was committed when it began.
class KV_EXPORT StorageReader {
public:
    virtual ~StorageReader();
    virtual Result<Time> now() = 0;
    // One per ref, in order.
    virtual Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) = 0;
    virtual Result<std::vector<NamespaceRow>> scan_namespaces(const NamespaceRange& range) = 0;
    virtual Result<EntryPage> scan_entries(const EntryRange& range) = 0;
    virtual Result<std::vector<VersionRow>> scan_versions(const VersionRange& range) = 0;
    virtual Result<AuditPage> scan_audit(const AuditRange& range) = 0;
    virtual Result<std::vector<EventRow>> scan_events(const EventRange& range) = 0;
    virtual Result<std::vector<EntryRow>> scan_due(const DueRange& range) = 0;
    virtual Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) = 0;
    virtual Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) = 0;
    virtual Result<std::vector<KeyRow>> internal_keys() = 0;  // every row whose purpose is not data
    virtual Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) = 0;  // those that exist
    virtual Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) = 0;  // open or closed
    virtual Result<std::vector<MetaRow>> get_meta() = 0;

    virtual Result<std::vector<EntryRow>> walk_entries(const EntryWalk& walk) = 0;
    virtual Result<std::vector<VersionRow>> walk_versions(const VersionWalk& walk) = 0;
    virtual Result<std::vector<EventRow>> walk_events(const EventWalk& walk) = 0;
    virtual Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) = 0;
    virtual Result<std::vector<KeyRow>> walk_keys(const KeyWalk& walk) = 0;
};

// ---- changes ----

struct HeadChange {
    AuditHead before;  // sequence and mac must be these still (sequence 0: no row); otherwise Errc::invalid_state
    AuditHead after;
};
struct VersionErase {
    EntryId entry_id;
    std::uint64_t from = 0;  // inclusive
    std::uint64_t to = 0;    // inclusive
};
// The value of one entry or archived version sealed anew; nothing else of the row changes.
struct Reseal {
    EntryId entry_id;
    std::uint64_t version = 0;
    bool archived = false;
    std::uint32_t key_generation = 0;
    std::string value;
};

// What one write changes, applied in the order of the members. No entry stands twice in one of them.
struct Changeset {
    std::vector<NamespaceRow> namespaces;   // insert, or replace by id; a name taken by a live one of the application:
                                            // Errc::namespace_exists
    std::vector<EntryId> archive;           // copy the entry as it is stored to the versions
    std::vector<VersionRow> versions;       // insert
    std::vector<EntryRow> entries;          // insert, or replace by id
    std::vector<Reseal> reseals;
    std::vector<VersionErase> erase_versions;
    std::vector<EntryId> erase_entries;     // the row alone
    std::vector<NamespaceId> erase_namespaces;  // the row alone, and its data keys
    std::vector<EventRow> events;
    std::vector<KeyRow> keys;               // insert, or replace by purpose, namespace and generation
    std::vector<KeyRef> erase_keys;         // with their generation
    std::vector<MetaRow> meta;              // insert or replace
    std::vector<std::string> erase_meta;
    std::uint64_t erase_audit_to = 0;       // every audit row up to this position; the newest only if `audit` adds one
    std::vector<AuditRow> audit;            // insert, in this order
    std::vector<HeadChange> heads;          // no stream twice
    std::vector<StreamId> erase_heads;

    bool empty() const noexcept;
};

// Inside a write. What was locked stays as found until the write ends. A failed apply() spoils the write: body must
// return the error.
class KV_EXPORT StorageWriter : public StorageReader {
public:
    // Before anything else, at most once, in id order. One per ref, null where there is none.
    virtual Result<std::vector<std::shared_ptr<const NamespaceRow>>> lock(std::span<const NamespaceRef> refs) = 0;
    // At most once.
    virtual Result<void> apply(const Changeset& changes) = 0;
};

// Storage owns its connections. Threads: any; writes are serialised by the caller, one at a time per storage for
// memory and SQLite.
class KV_EXPORT Storage : public StorageReader {
public:
    // Runs body in one transaction: commits if it returns without an error, leaves no trace otherwise. After losing a race the
    // storage runs body again, so body must not act outside its argument. Errors of its own:
    // outcome_unknown (the commit may have happened), storage_full, unavailable (nothing happened, I/O), locked,
    // internal (a statement failed for what one operation wanted: the group is worth halving).
    virtual Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) = 0;

    // Between writes, when the caller has nothing to do: checkpoint, vacuum. Bounded work.
    virtual void idle() {}

    // Everything as it is committed now, however long that takes to read. It must go before the storage does, should not
    // live longer than needed (what changes meanwhile cannot be cleaned up), and serves one thread at a time.
    virtual Result<std::unique_ptr<StorageReader>> snapshot() = 0;

    // Whether other processes may write it at the same time.
    virtual bool is_shared() const { return false; }

    // Holds back room on the disk, so that what must be written can be once the disk is full: 0 lets go of it, and from
    // then on room is spared where possible. False if there is no such room.
    virtual bool hold_back([[maybe_unused]] std::uint64_t bytes) { return true; }

    struct Stats {
        std::uint64_t wal_bytes = 0;
        std::uint64_t database_bytes = 0;
        std::uint64_t reusable_bytes = 0;                // of the database: room that erased rows left
        std::optional<std::uint64_t> disk_free_bytes = {};  // where it lies on a disk of this machine
        std::optional<std::uint64_t> disk_bytes = {};       // the size of that disk
    };
    virtual Stats stats() { return {}; }
};

}  // namespace kv
