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

#include "kv/ranges.h"
#include "kv/rows.h"

// What a storage backend must offer. A host that only uses the store may ignore this file.
//
// A backend keeps rows and knows no rule: it compares bytes, numbers and ids, and nothing else. Every method takes a
// batch and every scan is bounded in rows and in bytes. A backend is done when tests/storage passes.
namespace kv {

// ---- questions ----

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
    virtual Result<std::vector<EventSpan>> scan_event_spans(const EventSpanRange& range) = 0;
    virtual Result<std::vector<SinkRow>> scan_sinks() = 0;  // by name
    virtual Result<std::vector<SinkCursorRow>> scan_cursors(const CursorRange& range) = 0;
    virtual Result<std::vector<Backlog>> scan_backlog(const BacklogRange& range) = 0;
    virtual Result<std::vector<EntryRow>> scan_due(const DueRange& range) = 0;
    virtual Result<std::vector<VersionRow>> scan_due_versions(const DueVersionRange& range) = 0;
    virtual Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) = 0;
    virtual Result<std::vector<KeyRow>> internal_keys() = 0;  // every row whose purpose is not data
    virtual Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) = 0;  // those that exist
    virtual Result<std::vector<AuditHead>> unwitnessed_audit_heads(std::size_t limit) = 0;  // open or closed
    virtual Result<std::vector<TokenRow>> get_tokens(std::span<const Uuid> ids) = 0;  // those that exist, in any order
    virtual Result<std::vector<TokenRow>> scan_tokens(const TokenRange& range) = 0;
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
struct EventErase {
    NamespaceId ns;
    std::uint64_t to = 0;  // inclusive
};
struct CursorErase {
    std::string sink;
    NamespaceId ns;
};
struct TokenUse {
    Uuid id;
    Time at;  // of its last use, as far as is known: an earlier one changes nothing
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
    bool erase_all = false;                 // every row of every table, except what a backend keeps for itself
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
    std::vector<EventErase> erase_events;
    std::vector<SinkRow> sinks;             // insert, or replace by name
    std::vector<SinkCursorRow> cursors;     // insert, or replace by sink and namespace
    std::vector<CursorErase> erase_cursors;
    std::vector<std::string> erase_sinks;   // with their cursors
    std::vector<TokenRow> tokens;           // insert, or replace by id
    std::vector<Uuid> erase_tokens;
    std::vector<TokenUse> token_uses;       // of those that exist; no token twice

    bool empty() const noexcept;
};

struct LockedAndFound {
    std::vector<std::shared_ptr<const NamespaceRow>> namespaces;  // as lock() gives them
    std::vector<Found> entries;                                   // as find() does
};

// Inside a write. What was locked stays as found until the write ends. A failed apply() spoils the write: body must
// return the error.
class KV_EXPORT StorageWriter : public StorageReader {
public:
    // Before anything else, at most once, in id order. One per ref, null where there is none. No refs: what locks like this
    // in another process waits, and comes to see what this write did.
    virtual Result<std::vector<std::shared_ptr<const NamespaceRow>>> lock(std::span<const NamespaceRef> refs) = 0;
    // After lock(): the row of a sink, which stays as found until the write ends.
    virtual Result<std::optional<SinkRow>> lock_sink(std::string_view name) = 0;
    // lock() and then find(), which sees what was committed before the locks were had. A storage behind a network does both in
    // one step; what it need not override calls the two.
    virtual Result<LockedAndFound> lock_and_find(std::span<const NamespaceRef> locked, std::span<const EntryRef> refs, Want want);
    // At most once. May be carried out when the write ends, which then fails as this would have.
    virtual Result<void> apply(const Changeset& changes) = 0;
};

// Storage owns its connections. Threads: any; the caller sees to it that no more than writes_at_once() writes go on.
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

    // How many calls of write() may be under way at the same time.
    virtual std::size_t writes_at_once() const { return 1; }

    // Whether other processes may write it at the same time.
    virtual bool is_shared() const { return false; }

    // A namespace was changed, and this is its revision now.
    struct Hint {
        NamespaceId ns;
        std::uint64_t revision = 0;
    };
    // Tells the other processes that write this storage what was committed: soon, or never. Must not wait for anything.
    virtual void announce([[maybe_unused]] std::span<const Hint> committed) noexcept {}
    // From now on what others announce is told to `heard`, by a thread of the storage's own; an empty span means that
    // something may have been missed. Once; `heard` must not block, and is not called any more after listen({}) returned.
    virtual void listen([[maybe_unused]] std::function<void(std::span<const Hint>)> heard) {}

    // Whether what is written here may take rows of the audit log away (Changeset::erase_audit_to): a database may keep its
    // log from those who write it. Elsewhere such a write is refused.
    virtual Result<bool> may_erase_audit() { return true; }

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
