#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "audit.h"
#include "crypto/keyring.h"
#include "kv/admin.h"
#include "vault.h"

// The parts of verify(). The storage may be served meanwhile, so nothing here holds a snapshot: each row that does not fit
// what is known is a question first, and becomes a finding when the audit log, read on to its present end, has no answer.
namespace kv::verification {

namespace kind {
inline constexpr std::string_view key_row = "key-row";
inline constexpr std::string_view audit_row = "audit-row";
inline constexpr std::string_view audit_gap = "audit-gap";
inline constexpr std::string_view namespace_row = "namespace-row";
inline constexpr std::string_view namespace_set_back = "namespace-set-back";
inline constexpr std::string_view namespace_unaudited = "namespace-unaudited";
inline constexpr std::string_view namespace_missing = "namespace-missing";
inline constexpr std::string_view revision = "revision";
inline constexpr std::string_view entry_row = "entry-row";
inline constexpr std::string_view entry_set_back = "entry-set-back";
inline constexpr std::string_view entry_unaudited = "entry-unaudited";
inline constexpr std::string_view entry_missing = "entry-missing";
inline constexpr std::string_view sealed_value = "sealed-value";
inline constexpr std::string_view unsealed_value = "unsealed-value";
inline constexpr std::string_view version_row = "version-row";
inline constexpr std::string_view token_row = "token-row";
inline constexpr std::string_view audit_stream = "audit-stream";
inline constexpr std::string_view audit_head = "audit-head";
inline constexpr std::string_view anchor = "anchor";
}  // namespace kind

// ---- what a run says ----

// Text of a row that somebody may have changed, fit to be shown: one line of UTF-8, not too long.
std::string printable(std::string_view text);

class Findings {
public:
    explicit Findings(std::size_t most) : most_(most) {}
    void add(std::string_view kind, Finding finding);
    void note(std::string text) { report.notes.push_back(std::move(text)); }

    VerifyReport report;

private:
    std::size_t most_;
    std::set<std::string_view> kinds_;  // that are in the report
};

Finding about_stream(const StreamId& stream, std::optional<std::uint64_t> sequence, std::string what);
Finding about_namespace(const NamespaceId& ns, std::string what);
Finding about_entry(const NamespaceId& ns, std::string_view key_path, std::optional<std::uint64_t> version, std::string what);

class Progress {
public:
    explicit Progress(const std::function<bool(const VerifyProgress&)>& tell) : tell_(tell) {}
    // Errc::invalid_state: whoever is told wants no more.
    Result<void> tell(std::string_view stage, std::uint64_t done) const;

private:
    const std::function<bool(const VerifyProgress&)>& tell_;
};

struct UuidHash {
    std::size_t operator()(const Uuid& id) const noexcept;
};

// ---- what the audit log says of the rows ----

// Begins a new epoch: every version made from then on is above its version.
inline constexpr std::string_view new_epoch = "store.new-epoch";

// The last change of an entry. There may be a great many: a table of them is what verification needs memory for.
struct EntryState {
    std::uint64_t version = 0;
    std::uint64_t revision = 0;  // 0: recorded by a libkv that did not record revisions
    std::uint64_t position = 0;  // of the audit row
    std::uint32_t ns = 0;        // which of Ledger::namespaces()
    std::uint32_t key_hash : 30 = 0;
    std::uint32_t is_removed : 1 = 0;
    std::uint32_t is_seen : 1 = 0;  // its row was looked at
};

struct NamespaceState {
    NamespaceId id;
    // Every change in a namespace counts its revision up by one, so the changes that were recorded have no gaps.
    std::uint64_t revision_first = 0;  // the lowest recorded; 0: none
    std::uint64_t revision = 0;        // the highest
    std::uint64_t changes = 0;         // with a revision
    bool has_older_changes = false;    // without
    std::uint64_t raised_by = 0;       // by new epochs, between two changes
    bool begins_raised = false;        // by one, before the first
    std::uint64_t odd_after = 0;       // the first that did not follow the one before it
    std::uint64_t odd = 0;
    std::uint64_t odd_position = 0;
    std::uint64_t version = 0;  // of its settings; 0: no change of them is recorded
    bool is_deleted = false;
    bool is_purged = false;
    bool is_gone = false;       // its row was looked for in vain

    // The row, as it was when it was looked at, and what the log had said until then.
    struct Row {
        std::uint64_t revision = 0;
        std::uint64_t version = 0;
        bool is_deleted = false;
        std::uint64_t version_base = 0;
        std::uint64_t known_revision = 0;
        std::uint64_t known_version = 0;
        bool known_is_deleted = false;
        std::optional<std::uint64_t> known_version_base;
    };
    std::optional<Row> row;
};

// An entry's row that is not what was last recorded: right if somebody changed it while we were looking.
struct EntryQuestion {
    NamespaceId ns;
    std::string key_path;
    std::uint64_t version = 0;
    std::uint64_t revision = 0;
    bool is_removed = false;
};

class Ledger {
public:
    void note(const AuditRow& row);

    EntryState* find(const EntryId& id);
    NamespaceState& namespace_of(const EntryState& state) { return namespaces_[state.ns]; }
    NamespaceState* find_namespace(const NamespaceId& id);
    NamespaceState& make_namespace(const NamespaceId& id) { return namespaces_[index_of(id)]; }
    std::vector<NamespaceState>& namespaces() { return namespaces_; }
    // NamespaceRow::version_base of every namespace, from the last new epoch; empty: none is recorded.
    const std::optional<std::uint64_t>& version_base() const noexcept { return version_base_; }
    std::unordered_map<EntryId, EntryState, UuidHash>& entries() { return entries_; }

    // A question is forgotten when note() comes to its answer.
    void ask(const EntryId& id, EntryQuestion question) { questions_[id] = std::move(question); }
    std::unordered_map<EntryId, EntryQuestion, UuidHash> take_questions() { return std::exchange(questions_, {}); }
    std::size_t questions() const { return questions_.size(); }

    static std::uint32_t hash_key(std::string_view key_path);
    // Whether the row is what was last recorded.
    static bool agrees(const EntryState& state, std::uint64_t version, std::uint64_t revision, bool is_removed) {
        return state.version == version && (state.revision == 0 || state.revision == revision) && (state.is_removed != 0) == is_removed;
    }

private:
    std::uint32_t index_of(const NamespaceId& id);
    void note_epoch(const AuditRecord& record);
    void note_settings(const AuditRecord& record);
    void note_change(const AuditRow& row);
    void count_revision(NamespaceState& ns, std::uint64_t revision, std::uint64_t position);

    std::optional<std::uint64_t> version_base_;
    std::vector<NamespaceState> namespaces_;
    std::unordered_map<NamespaceId, std::uint32_t, UuidHash> namespace_index_;
    std::unordered_map<EntryId, EntryState, UuidHash> entries_;
    std::unordered_map<EntryId, EntryQuestion, UuidHash> questions_;
};

// ---- the audit log itself ----

class AuditLog {
public:
    // Borrows all but the anchors and the key.
    AuditLog(StorageReader& storage, SecretBytes audit_key, const std::vector<AuditHead>& anchors, Ledger& ledger, Findings& findings,
             const Progress& progress);

    // Reads some rows more; false: those were the last ones.
    Result<bool> read_on();
    // Reads on to what is its end when this begins.
    Result<void> advance();
    // Holds the heads against the rows; the log must be read to its end before, and once more afterwards.
    Result<void> read_heads();
    // What has no answer by now is a finding.
    Result<void> settle();

    std::uint64_t position() const noexcept { return position_; }
    // Rows went before they were read: retention was faster. What was collected is worthless.
    bool was_overtaken() const noexcept { return was_overtaken_; }
    // Retention has taken the oldest rows.
    bool is_cut() const noexcept { return is_cut_; }
    // No row is what this key would have made.
    bool nothing_fits() const noexcept { return proven_ == 0; }
    std::uint64_t streams() const noexcept { return streams_.size(); }

    // The row at a position, if it is there.
    Result<std::optional<AuditRow>> row_at(std::uint64_t position);

private:
    // Numbers that were passed over, until a checkpoint tells that retention took them.
    struct Gap {
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        std::uint64_t filled = 0;  // by rows that came late
        Mac before{};              // MAC of the row in front of it
        AuditRow next;             // the row behind it
    };
    struct Anchor {
        std::uint64_t sequence = 0;
        Mac mac{};
        bool is_met = false;
        friend auto operator<=>(const Anchor&, const Anchor&) = default;
    };
    struct Stream {
        ~Stream() { secure_wipe(key.data(), key.size()); }
        crypto::Key key{};
        std::uint64_t sequence = 0;  // of the last row
        Mac mac{};
        std::optional<Mac> should_be;  // the MAC that a wrong row ought to have had
        std::uint64_t position = 0;
        std::uint64_t first_position = 0;
        bool is_closed = false;  // the last row is its end
        bool is_named = false;   // by a row of a later stream, as it ends
        bool has_head = false;
        bool needs_witness = false;
        std::vector<Gap> gaps;
        std::vector<Anchor>* anchors = nullptr;
    };
    // A row of a later stream that names a row.
    struct Naming {
        AuditHead head;
        bool is_end = false;  // nothing may come behind it
        StreamId by;
        std::uint64_t by_sequence = 0;
    };
    enum class Standing { proven, unproven, repeated };

    Result<std::uint64_t> newest_position();
    Result<AuditPage> read_page();
    Result<void> note_overtaking(std::uint64_t after);
    void skip_malformed();
    Stream& stream_of(const StreamId& id);
    Stream* find_stream(const StreamId& id);
    void take(const AuditRow& row);
    Standing check_next(Stream& stream, const AuditRow& row);
    Standing check_stray(Stream& stream, const AuditRow& row);
    Standing check_late(Stream& stream, const AuditRow& row);
    void open_gap(Stream& stream, const AuditRow& row);
    static void move_to(Stream& stream, const AuditRow& row);
    void meet(Stream& stream, const AuditRow& row);
    void note_proven(const AuditRow& row);
    void note_naming(const Naming& naming);
    void check_head(Stream& stream, const AuditHead& head);
    void check_state(Stream& stream, const AuditHead& head);
    const AuditHead* find_checkpoint(const StreamId& stream, std::uint64_t sequence) const;
    bool is_removed(const StreamId& stream, std::uint64_t sequence) const;
    void settle_gaps();
    bool settle_gap(const StreamId& id, Stream& stream, const Gap& gap);
    void settle_namings();
    Result<void> settle_passed_namings();
    void settle_heads();
    void settle_anchors();
    bool is_settled(const StreamId& id, const Anchor& anchor);
    void report_anchor(const StreamId& id, std::uint64_t sequence, std::size_t more);
    void report_gap(const StreamId& id, const Gap& gap);

    StorageReader& storage_;
    const SecretBytes audit_key_;
    Ledger& ledger_;
    Findings& findings_;
    const Progress& progress_;

    std::uint64_t position_ = 0;  // of the last row read
    std::size_t page_rows_;
    bool was_overtaken_ = false;
    bool is_cut_ = false;
    std::uint64_t malformed_ = 0;
    std::uint64_t proven_ = 0;
    StreamId oldest_stream_;
    std::optional<Time> new_epoch_;
    std::unordered_map<StreamId, Stream, UuidHash> streams_;
    std::pair<StreamId, Stream*> last_stream_{{}, nullptr};  // most rows are of the stream of the row before
    std::map<StreamId, std::vector<Anchor>> anchors_;
    std::map<StreamId, std::vector<AuditHead>> checkpoints_;
    std::map<StreamId, AuditHead> awaited_;  // heads that are ahead of the rows read so far
    std::vector<Naming> unmet_;              // rows named that were not there
    std::vector<Naming> passed_;             // rows named that others of their stream stand behind
};

// ---- the keys ----

struct Keys {
    std::unique_ptr<crypto::Keyring> keyring;  // null: an internal key does not open
    std::optional<SecretBytes> audit_key;
};

// Opens every wrap of every key row: `master_keys` is the current one and perhaps the one before. Errc::wrong_key if none
// opens.
Result<Keys> check_keys(Storage& storage, const std::vector<SecretBytes>& master_keys, Findings& findings, const Progress& progress);
// The key of the audit log. Errc::wrong_key, or Errc::integrity if its row was changed.
Result<SecretBytes> open_audit_key(Storage& storage, const SecretBytes& master_key);

// ---- namespaces, entries, versions ----

// Threads: one at a time, like all of this file.
// Every token's row: whether it is as the store wrote it.
Result<void> check_tokens(Storage& storage, const Vault& vault, Findings& findings, const Progress& progress);

class RowCheck {
public:
    // Borrows all. `vault`: null, and no value is opened and no namespace's MAC looked at.
    RowCheck(Storage& storage, const Vault* vault, Ledger& ledger, AuditLog& log, Findings& findings, const Progress& progress);

    // In this order, with the log read to its end before the first.
    Result<void> check_namespaces();
    Result<void> check_entries();
    Result<void> check_versions();
    // What is recorded but was not met. The log must be read to its end before, and once more afterwards.
    Result<void> look_for_missing();
    // What has no answer by now is a finding.
    void settle();

private:
    Result<void> check_namespace(const NamespaceRow& row);
    Result<void> check_data_key(const NamespaceRow& row);
    void settle_namespace(const NamespaceState& ns);
    void settle_settings(const NamespaceState& ns);
    void settle_version_base(const NamespaceState& ns);
    void settle_revision(const NamespaceState& ns);
    void settle_changes(const NamespaceState& ns);

    Result<bool> skip_malformed(EntryWalk& walk, const Error& error);
    Result<void> check_entry(const EntryRow& row);
    Result<void> hold_against_log(const EntryRow& row);
    Result<void> open_entry(EntryRow row);
    Result<void> check_orphan(const EntryRow& row);
    void settle_questions();
    void settle_question(const EntryId& id, const EntryQuestion& question);
    bool is_older_than_log(const EntryQuestion& question);
    Result<void> look_for_entry(const EntryId& id, EntryState& state);
    void settle_missing();

    Result<void> check_version(const VersionRow& row);
    Result<bool> is_in_place(const VersionRow& row);
    Result<bool> is_there(const VersionRow& row);
    Result<void> open_version(VersionRow row);

    // The namespace as it was a moment ago, or null.
    Result<std::shared_ptr<const NamespaceRow>> namespace_row(const NamespaceId& id);
    Result<Found> find_entry(const NamespaceId& ns, const std::string& key_path, VersionPick pick = {});
    void report_value(const NamespaceRow& ns, std::string_view key_path, std::uint64_t version, std::uint32_t generation,
                      const Error& error);

    // What looked as if it were missing: right if its removal is recorded by the end.
    struct Missing {
        EntryId id;
        std::string key_path;  // empty: not known
        bool was_removed = false;
    };

    Storage& storage_;
    const Vault* vault_;
    Ledger& ledger_;
    AuditLog& log_;
    Findings& findings_;
    const Progress& progress_;
    std::unordered_map<NamespaceId, std::shared_ptr<const NamespaceRow>, UuidHash> namespaces_;  // looked up lately
    std::vector<Missing> missing_;
};

}  // namespace kv::verification
