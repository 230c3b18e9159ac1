#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kv/rows.h"

// What can be asked of a storage: the parameters of StorageReader's questions, and the answers that are no rows. Every scan is
// bounded in rows, and in bytes where rows hold values.
namespace kv {

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

// Events of namespaces above a revision: in the order of `from`, and of each by revision.
struct EventRange {
    struct From {
        NamespaceId ns;
        std::uint64_t after = 0;
    };
    std::vector<From> from = {};         // no namespace twice
    std::size_t limit = 1000;            // of all together
    std::size_t limit_each = SIZE_MAX;
};

// Which events are kept, by namespace id; namespaces without any are left out.
struct EventSpanRange {
    std::optional<NamespaceId> after = {};
    std::size_t limit = 1000;
};
struct EventSpan {
    NamespaceId ns;
    std::uint64_t oldest = 0;
    Time oldest_at;
    std::uint64_t newest = 0;
    bool is_gone = false;  // there is no row of the namespace any more
};

// By id.
struct TokenRange {
    std::optional<Uuid> after = {};
    std::optional<Time> expired_before = {};  // only those with expires_at earlier than this
    std::size_t limit = 1000;
};

// By sink and namespace.
struct CursorRange {
    std::optional<std::string> sink = {};
    std::optional<NamespaceId> ns = {};
    struct After {
        std::string sink;
        NamespaceId ns;
    };
    std::optional<After> after = {};
    std::size_t limit = 1000;
};

// Namespaces in which a sink is behind, by id: those whose revision is above its cursor (none: 0), deleted ones too; and those
// without a row any more of which it has a cursor and there are events above it.
struct BacklogRange {
    std::string sink;
    std::optional<NamespaceId> after = {};
    std::size_t limit = 1000;
};
struct Backlog {
    NamespaceId ns;
    std::string application_id;
    std::uint64_t confirmed = 0;
    std::uint64_t newest = 0;  // the namespace's revision; of one that is gone its last event's
    bool is_gone = false;
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

}  // namespace kv
