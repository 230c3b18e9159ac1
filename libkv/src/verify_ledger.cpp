#include <algorithm>
#include <cstring>
#include <functional>

#include "text.h"
#include "verify.h"

namespace kv::verification {
namespace {

constexpr std::size_t printable_bytes_max = 600;

void append_escaped(std::string& out, char byte) { out += "\\x" + hex_encode({&byte, 1}); }

// Control characters could forge a line or move a terminal's cursor: U+0000..U+001F, U+007F..U+009F.
void append_printable(std::string& out, std::string_view utf8) {
    for (std::size_t i = 0; i < utf8.size(); ++i) {
        const auto byte = static_cast<unsigned char>(utf8[i]);
        const bool is_two = byte == 0xc2 && i + 1 < utf8.size() && static_cast<unsigned char>(utf8[i + 1]) < 0xa0;
        if (byte >= 0x20 && byte != 0x7f && !is_two) {
            out += utf8[i];
            continue;
        }
        append_escaped(out, utf8[i]);
        if (is_two) append_escaped(out, utf8[++i]);
    }
}

// What changed an entry before revisions were recorded. Later rows tell by their revision.
bool is_change(const AuditRecord& record) {
    if (!record.entry_id || !record.version || record.action == AuditAction::read) return false;
    if (record.revision) return true;
    static constexpr std::string_view changes[] = {"entry.put", "entry.patch", "entry.delete", "entry.rotate",
                                                   "entry.rollback", "entry.expire", "bulk.set", "bulk.delete"};
    return std::find(std::begin(changes), std::end(changes), record.operation) != std::end(changes);
}

}  // namespace

std::size_t UuidHash::operator()(const Uuid& id) const noexcept {
    std::size_t bits = 0;
    // The random tail of a version 7 UUID.
    std::memcpy(&bits, id.bytes.data() + 8, sizeof bits);
    return bits * 0x9e3779b97f4a7c15u;
}

// ---- what a run says ----

std::string printable(std::string_view text) {
    std::string out;
    while (!text.empty() && out.size() < printable_bytes_max) {
        const std::size_t valid = valid_utf8_prefix(text.substr(0, printable_bytes_max));
        append_printable(out, text.substr(0, valid));
        text.remove_prefix(valid);
        if (text.empty() || out.size() >= printable_bytes_max) break;
        append_escaped(out, text.front());
        text.remove_prefix(1);
    }
    return text.empty() ? out : out + "...";
}

void Findings::add(std::string_view kind, Finding finding) {
    finding.kind = kind;
    ++report.findings_total;
    if (kinds_.insert(kind).second || report.findings.size() < most_) report.findings.push_back(std::move(finding));
}

Finding about_stream(const StreamId& stream, std::optional<std::uint64_t> sequence, std::string what) {
    Finding finding;
    if (stream.is_nil() && !sequence) {
        finding.message = std::move(what);
        return finding;
    }
    finding.message = "audit stream " + stream.to_string();
    if (sequence) finding.message += ", row " + std::to_string(*sequence);
    finding.message += ": " + what;
    finding.stream = stream;
    finding.sequence = sequence;
    return finding;
}

Finding about_namespace(const NamespaceId& ns, std::string what) {
    Finding finding;
    finding.message = "namespace " + ns.to_string() + ": " + what;
    finding.ns = ns;
    return finding;
}

Finding about_entry(const NamespaceId& ns, std::string_view key_path, std::optional<std::uint64_t> version, std::string what) {
    Finding finding;
    finding.key_path = printable(key_path);
    finding.message = "entry " + finding.key_path + " of namespace " + ns.to_string();
    if (version) finding.message += ", version " + std::to_string(*version);
    finding.message += ": " + what;
    finding.ns = ns;
    finding.version = version;
    return finding;
}

Result<void> Progress::tell(std::string_view stage, std::uint64_t done) const {
    if (!tell_ || tell_({stage, done})) return {};
    return Error{Errc::invalid_state, "The verification was cancelled."};
}

// ---- Ledger ----

std::uint32_t Ledger::hash_key(std::string_view key_path) {
    return static_cast<std::uint32_t>(std::hash<std::string_view>{}(key_path)) & ((1u << 30) - 1);
}

EntryState* Ledger::find(const EntryId& id) {
    auto at = entries_.find(id);
    return at == entries_.end() ? nullptr : &at->second;
}

NamespaceState* Ledger::find_namespace(const NamespaceId& id) {
    auto at = namespace_index_.find(id);
    return at == namespace_index_.end() ? nullptr : &namespaces_[at->second];
}

std::uint32_t Ledger::index_of(const NamespaceId& id) {
    auto [at, is_new] = namespace_index_.try_emplace(id, static_cast<std::uint32_t>(namespaces_.size()));
    if (is_new) {
        namespaces_.emplace_back();
        namespaces_.back().id = id;
    }
    return at->second;
}

void Ledger::note(const AuditRow& row) {
    const AuditRecord& record = row.record;
    if (!record.success || record.action == AuditAction::read) return;
    if (!record.namespace_id) {
        note_epoch(record);
    } else if (!record.entry_id) {
        note_settings(record);
    } else if (is_change(record)) {
        note_change(row);
    }
}

// It gives every namespace there is a version of its settings, the first above what it begins with.
void Ledger::note_epoch(const AuditRecord& record) {
    if (record.operation != new_epoch || !record.version) return;
    version_base_ = *record.version;
    for (NamespaceState& ns : namespaces_) ns.version = *record.version + 1;
}

// Creating, changing, deleting, restoring and purging a namespace.
void Ledger::note_settings(const AuditRecord& record) {
    if (!record.operation.starts_with("namespace.")) return;
    NamespaceState& ns = namespaces_[index_of(*record.namespace_id)];
    if (record.operation == "namespace.purge") ns.is_purged = true;
    if (!record.version || *record.version < ns.version) return;
    ns.version = *record.version;
    // A new data key is no change of that.
    const bool is_kept = record.action == AuditAction::rotate;
    if (!is_kept) ns.is_deleted = record.operation == "namespace.delete";
}

void Ledger::note_change(const AuditRow& row) {
    const AuditRecord& record = row.record;
    const std::uint32_t index = index_of(*record.namespace_id);
    const bool is_removed = record.action == AuditAction::delete_;
    if (record.revision) {
        count_revision(namespaces_[index], *record.revision, row.position);
    } else {
        namespaces_[index].has_older_changes = true;
    }
    if (!questions_.empty()) {
        auto question = questions_.find(*record.entry_id);
        const bool is_answer = question != questions_.end() && question->second.version == *record.version &&
                               question->second.revision == record.revision.value_or(question->second.revision) &&
                               question->second.is_removed == is_removed;
        if (is_answer) questions_.erase(question);
    }
    EntryState& state = entries_[*record.entry_id];
    const std::uint64_t revision = record.revision.value_or(0);
    // Streams that are written at the same time may be read in another order than they were written in.
    if (std::pair(state.version, state.revision) > std::pair(*record.version, revision)) return;
    state.version = *record.version;
    state.revision = revision;
    state.position = row.position;
    state.ns = index;
    state.key_hash = hash_key(record.key_path);
    state.is_removed = is_removed;
}

void Ledger::count_revision(NamespaceState& ns, std::uint64_t revision, std::uint64_t position) {
    // A new epoch raised the revisions of every namespace there was.
    if (version_base_ && ns.revision < *version_base_ && revision == *version_base_ + 1) {
        if (ns.changes == 0) ns.begins_raised = true;
        if (ns.changes > 0) ns.raised_by += *version_base_ - ns.revision;
        ns.revision = *version_base_;
    }
    if (ns.changes > 0 && revision != ns.revision + 1 && ns.odd == 0) {
        ns.odd_after = ns.revision;
        ns.odd = revision;
        ns.odd_position = position;
    }
    ns.revision_first = ns.changes == 0 ? revision : std::min(ns.revision_first, revision);
    ns.revision = std::max(ns.revision, revision);
    ++ns.changes;
}

}  // namespace kv::verification
