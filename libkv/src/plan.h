#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kv/options.h"
#include "kv/storage.h"
#include "operation.h"
#include "overlay.h"

// The rules, pure: from actor, request, loaded rows and time to a reply and changed rows. No I/O, clock, randomness or
// threads. Authorisation is the first step of each, because it needs the namespace row.
namespace kv {

struct PlanContext {
    Time now;
    std::string_view epoch;
    const Limits* limits = nullptr;
    std::chrono::seconds namespace_retention{};
    std::uint64_t version_base = 0;  // of namespaces to come
};

// Every version_base is a multiple of this, so that of an older version it can be told roughly where its count began.
inline constexpr std::uint64_t version_base_step = 1u << 16;

// A value that must be sealed (or, in a plain namespace, copied) into an entry of the overlay right after planning,
// before the next operation of the group is planned.
struct SealJob {
    NamespaceState* ns;
    EntryState* entry;
    const SecretBytes* plaintext;  // lives in the operation
};

// What became of one operation. Where the reply is an error, nothing was changed in the overlay.
struct Planned {
    Result<Reply> reply = Reply(Done{});
    std::vector<AuditRecord> audit;
    std::vector<SealJob> seals;
};

// ---- writes: plan_entry.cpp, plan_namespace.cpp, plan_token.cpp ----

// What a write needs to have loaded.
struct Needs {
    std::vector<NamespaceRef> namespaces;  // locked
    std::vector<EntryRef> entries;         // the bare rows
    std::vector<EntryRef> full_entries;    // with value and history; an entry may stand in both
    std::vector<NamespaceRef> lookups;     // namespaces looked up without a lock
    std::vector<Uuid> tokens;
};
void add_needs(const Request& request, Needs& needs);
// The same for what is known only once the operation's namespace is: the name it would take.
void add_name_needs(const Request& request, const NamespaceRow& ns, Needs& needs);

Planned plan_write(Operation& operation, Overlay& overlay, const PlanContext& context);

// The entry's end at its time to live: a version, an event and an audit row of its own, by `system`. The entry exists and
// is due.
void plan_expiry(NamespaceState& ns, EntryState& entry, const PlanContext& context, std::vector<AuditRecord>& audit,
                 Overlay& overlay);

// The namespace seals with `key` from now on, which is of the generation after its present one.
void replace_data_key(NamespaceRow& ns, const KeyRow& key, Overlay& overlay);

// ---- reads: plan_read.cpp ----

// The one row that a GET shows.
struct Shown {
    const EntryRow* current = nullptr;    // either this
    const VersionRow* archived = nullptr; // or that
};
// 404 and 403 for any operation on a namespace.
Result<void> may_touch(const Actor& actor, const NamespaceRow* ns);
Result<void> may(const Actor& actor, const NamespaceRow* ns, Permission permission);
Result<void> may(const Actor& actor, const NamespaceRow* ns, Permission permission, std::string_view key_path);

Result<Shown> judge_get(const Actor& actor, const GetEntry& request, const Found& found, Time now);
// The range a list may show, or the refusal.
Result<EntryRange> judge_list(const Actor& actor, const ListEntries& request, const NamespaceRow* ns, Time now, std::size_t limit);
Result<EntryRange> judge_export(const Actor& actor, const ExportEntries& request, const NamespaceRow* ns, Time now);
Result<void> judge_versions(const Actor& actor, const ListVersions& request, const Found& found, Time now);

// ---- shared ----

// The time in a namespace: it never goes back behind the last change.
Time time_in(const NamespaceRow& ns, Time now);

bool is_live(const EntryRow& row, Time now);
// Expiry or purge ended it: not even its history is shown.
bool is_hidden(const EntryRow& row, Time now);
// Versions at or below this are beyond the history limit once `version` is the current one. A new epoch makes versions
// jump; what lies before the jump is not beyond the limit for that.
std::uint64_t beyond_limit(const NamespaceRow& ns, std::uint64_t version);
// Versions at or below this are not shown any more: hidden by an expiry or purge, or beyond the history limit.
std::uint64_t visible_above(const NamespaceRow& ns, const EntryRow& row);
Entry show_entry(const EntryRow& row);
Namespace show_namespace(const NamespaceRow& row);
Version show_version(const VersionRow& row);
Version show_current(const EntryRow& row);
// "<epoch>-<revision>". The epoch is the store's, lengthened by a part of the namespace's id: another namespace that
// takes over the name counts its revisions anew, and an ETag must never mean two things.
std::string entry_etag(std::string_view epoch, const NamespaceId& ns, std::uint64_t revision);
// Names everything a namespace shows. Locking looks at the version alone: what goes on in a namespace is no change of it.
std::string namespace_etag(std::string_view epoch, const NamespaceRow& row);
bool locks_namespace(const std::vector<std::string>& etags, std::string_view epoch, const NamespaceRow& row);
bool matches_etag(const std::vector<std::string>& etags, std::string_view etag);

}  // namespace kv
