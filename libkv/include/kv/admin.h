#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/options.h"
#include "kv/storage.h"

// What an operator does with a whole store: check it, copy it, bring it back. The functions here work on a storage that no
// Store serves, or that one serves elsewhere; Store has the same for a running one.
namespace kv {

// ---- verification ----

// One thing that is not as it should be.
struct Finding {
    std::string kind;     // see finding_kinds()
    std::string message;  // one line: our words, ids, key paths and numbers; never a value
    std::optional<NamespaceId> ns = {};
    std::string key_path = {};  // made fit to be shown
    std::optional<std::uint64_t> version = {};
    std::optional<StreamId> stream = {};
    std::optional<std::uint64_t> sequence = {};
};

// What verification can find, in the order of its steps. These names do not change.
//
//   key-row              a stored key does not open, was edited, or is missing
//   audit-row            an audit row was edited: its MAC is wrong
//   audit-gap            audit rows are missing from a stream, out of order or repeated
//   namespace-row        a namespace's application, secrecy, sealing, key generation or version base was edited, or whether it
//                        is deleted
//   namespace-set-back   its settings are of an older version than was recorded
//   namespace-unaudited  its settings were changed, or it was made, outside the store
//   namespace-missing    it went without a purge
//   entry-row            an entry was moved, or edited so that its columns contradict each other or the record
//   entry-set-back       an entry is of an older version or revision than was recorded
//   entry-unaudited      an entry is of a version that was not recorded
//   entry-missing        an entry went without a removal
//   sealed-value         a sealed value does not open where it stands
//   unsealed-value       a value of a secret namespace is not sealed
//   version-row          an archived version has no entry, is not older than its entry, or was edited
//   revision             the changes recorded in a namespace have gaps or repetitions, or do not lead to its revision
//   token-row            a token was made or edited outside the store
//   audit-stream         a stream, or what a later one says it ended with, is missing
//   audit-head           the head of a stream is not its last row: its tail was cut, or its head set back
//   anchor               a head that was noted down is not in the log: all was set back together
KV_EXPORT const std::vector<std::string_view>& finding_kinds();

struct VerifyProgress {
    std::string_view stage;  // "keys", "audit", "namespaces", "entries", "versions", "tokens"
    std::uint64_t done = 0;  // rows of that stage
};

struct VerifyOptions {
    // Heads noted down elsewhere earlier: their rows must still be there.
    std::vector<AuditHead> anchors;
    std::size_t findings_max = 100;
    // While the master key is being changed: the one before. Without it what that key wrapped is not looked at.
    std::shared_ptr<KeyProvider> previous_keys;
    // Called now and then; false ends the verification with Errc::invalid_state.
    std::function<bool(const VerifyProgress&)> progress;
};

struct VerifyReport {
    std::vector<Finding> findings;     // the first of each kind always, then more as they come
    std::uint64_t findings_total = 0;  // with those left out
    std::uint64_t keys = 0;
    std::uint64_t namespaces = 0;
    std::uint64_t streams = 0;
    std::uint64_t audit_rows = 0;
    std::uint64_t entries = 0;
    std::uint64_t versions = 0;
    std::uint64_t values_opened = 0;
    std::uint64_t tokens = 0;
    std::vector<std::string> notes;    // what could not be checked, and why

    bool is_sound() const noexcept { return findings_total == 0; }
};

// Opens every stored key and every sealed value, walks every audit stream, and holds each entry against its last change that
// was audited. The storage may be served meanwhile: what changes under way is no finding, and no transaction stays open.
// Memory: about 72 bytes for every entry in the audit log.
//
// What no key vouches for is not looked at: plain values, names, descriptions, metadata and times of the present version.
// Errors: wrong_key, unavailable, invalid_state (cancelled); what is wrong with the rows stands in the report.
KV_EXPORT Result<VerifyReport> verify(Storage& storage, KeyProvider& keys, const VerifyOptions& options);
// The same with the audit key alone (see export_audit_key()): streams and versions, but no values, no stored keys and no MACs
// of namespaces. Errc::wrong_key if it is not this store's, invalid_request if it is no key.
KV_EXPORT Result<VerifyReport> verify_audit(Storage& storage, const SecretBytes& audit_key, const VerifyOptions& options);

// The key that proves the audit log, and nothing else: for an auditor. 32 bytes.
KV_EXPORT Result<SecretBytes> export_audit_key(Storage& storage, KeyProvider& keys);

// Reads the heads that kvd logged ("audit-head stream=... sequence=... mac=...", as text or JSON lines) among other lines,
// whatever those may be.
KV_EXPORT std::vector<AuditHead> parse_anchors(std::string_view text);

// ---- keys ----

struct KeyCheck {
    std::string key_id;                 // of the key that was tried
    std::vector<std::string> wrapped_by;  // key ids that open the store
    std::uint64_t keys = 0;             // key rows that the key opens
    std::uint64_t unwrapped = 0;        // key rows that it does not
};
// A drill for the copy in the safe: opens every stored key with it. Errc::wrong_key if it is another store's.
KV_EXPORT Result<KeyCheck> check_key(Storage& storage, KeyProvider& keys);

// ---- the audit log ----

struct AuditTrim {
    std::chrono::seconds retention = Options{}.audit_retention;
    std::uint64_t bytes_max = 0;  // of the log; older rows go sooner; 0: any
    std::string archive = {};     // a folder: rows are appended to JSON lines files there first; empty: none
};
// Removes the oldest rows of the audit log, behind checkpoint rows from which verification goes on, as a store does by itself
// where it may. For a database whose serving role may not: whoever owns the tables runs it, now and then. Other processes may
// serve a shared storage meanwhile. Answers how many rows went. Errc::not_found if there is no store, wrong_key, unsupported
// (the role may not either), clock_unsound.
KV_EXPORT Result<std::uint64_t> trim_audit(Storage& storage, KeyProvider& keys, const AuditTrim& trim);

// ---- backup ----

struct BackupInfo {
    std::uint32_t format = 0;
    std::string epoch;
    Time taken_at;
    std::vector<std::string> key_ids;  // of the master keys that open it
    std::uint64_t namespaces = 0;      // the rest is known at the end only
    std::uint64_t plain_namespaces = 0;  // of those: their values are in the backup as they are
    std::uint64_t entries = 0;
    std::uint64_t versions = 0;
    std::uint64_t audit_rows = 0;
    std::uint64_t bytes = 0;
};

// BackupReader gives a backup piece by piece: the rows of one snapshot, sealed values as they lie there, a header with
// epoch and key ids before them and a MAC over everything behind. It can be restored into any storage. It holds the
// snapshot until it is destroyed, and what changes meanwhile makes the storage grow (SQLite: its WAL).
//
// A backup is to be kept as private as the database: key paths, metadata, the audit log and the values of namespaces that
// are not secret are in it in the clear.
//
// Threads: one at a time.
class KV_EXPORT BackupReader {
public:
    virtual ~BackupReader();
    // Appends the next piece (about 64 KiB) to `out`; false: that was the last one.
    virtual Result<bool> next(std::string& out) = 0;
    virtual const BackupInfo& info() const = 0;
};
// Borrows the storage. Errc::not_found if there is no store in it, wrong_key. A running store notes when it was backed up
// (Store::backup(), StoreStats::last_backup); a backup of a storage that is only read leaves no trace in it.
KV_EXPORT Result<std::unique_ptr<BackupReader>> open_backup(Storage& storage, KeyProvider& keys);

// Gives the pieces of a backup in order, as many bytes as it likes; an empty string: the end.
using BackupSource = std::function<Result<std::string>()>;

// Fills an empty storage from a backup, batch by batch, and begins a new epoch. Answers what the backup held; its `epoch` is
// the old one. Nobody else may use the storage meanwhile (Access::alone). Errc::wrong_key (nothing was written), newer_schema
// (format), integrity (cut short or changed), invalid_state (the storage holds a store already, which stays as it is). After
// any other failure, and where the process died, the storage is worthless: no store opens in it (Errc::invalid_state), and the
// next restore into it erases what is there and begins anew.
KV_EXPORT Result<BackupInfo> restore_backup(const BackupSource& source, Storage& target, KeyProvider& keys);

// Draws a new epoch and raises what versions begin with, so that nothing of a future that was lost (by a restore, by
// recovery to a point in time) is ever taken for something of this one: neither its ETags and cursors nor its versions,
// which from now on count from the present time in microseconds. Nobody else may use the storage meanwhile. Recorded.
// Interrupted, it is to be run again. Answers the new epoch. Errc::not_found if there is no store, wrong_key.
KV_EXPORT Result<std::string> begin_epoch(Storage& storage, KeyProvider& keys);

// ---- sinks of events ----

struct SinkInfo {
    std::string name;
    Time registered_at;
    std::string owner;  // the process that delivers to it, as far as the storage knows; empty: none, or the one that serves a file
    Time owned_until;
    std::uint64_t pending = 0;  // events that it has not confirmed
};
// By name. The storage may be served meanwhile.
KV_EXPORT Result<std::vector<SinkInfo>> list_sinks(StorageReader& storage);
// Removes a sink that will not come back: events are not kept for it any more, and it would begin anew. Recorded, with the
// name as key path. Errc::not_found, invalid_state (a process owns it still), wrong_key.
KV_EXPORT Result<void> forget_sink(Storage& storage, KeyProvider& keys, std::string_view name);

}  // namespace kv
