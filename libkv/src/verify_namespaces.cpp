#include "verify.h"

namespace kv::verification {
namespace {

constexpr std::size_t batch_rows = 512;
constexpr std::size_t namespaces_kept_max = 4096;

std::string number(std::uint64_t value) { return std::to_string(value); }

// A new epoch raises the versions of all namespaces above its base.
std::uint64_t raised(std::uint64_t version, const std::optional<std::uint64_t>& base) {
    return base ? std::max(version, *base + 1) : version;
}

}  // namespace

RowCheck::RowCheck(Storage& storage, const Vault* vault, Ledger& ledger, AuditLog& log, Findings& findings, const Progress& progress)
    : storage_(storage), vault_(vault), ledger_(ledger), log_(log), findings_(findings), progress_(progress) {}

Result<std::shared_ptr<const NamespaceRow>> RowCheck::namespace_row(const NamespaceId& id) {
    if (auto known = namespaces_.find(id); known != namespaces_.end()) return known->second;
    if (namespaces_.size() >= namespaces_kept_max) namespaces_.clear();
    const EntryRef ref{id, "", {}};
    KV_TRY(const std::vector<Found> found, storage_.find(std::span(&ref, 1), {}));
    namespaces_[id] = found.front().ns;
    return found.front().ns;
}

Result<void> RowCheck::check_namespaces() {
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.limit = batch_rows;
    while (true) {
        auto rows = storage_.scan_namespaces(range);
        if (rows == Errc::integrity) {
            Finding finding;
            finding.message = "a namespace row cannot be read: its columns are malformed; those behind it were looked at only where audit rows name them";
            findings_.add(kind::namespace_row, std::move(finding));
            return {};
        }
        if (!rows) return std::move(rows).error();
        for (const NamespaceRow& row : *rows) KV_CHECK(check_namespace(row));
        KV_CHECK(progress_.tell("namespaces", findings_.report.namespaces));
        if (rows->size() < range.limit) return {};
        range.after = NamespaceRange::After{rows->back().application_id, rows->back().name, rows->back().id};
    }
}

Result<void> RowCheck::check_namespace(const NamespaceRow& row) {
    NamespaceState& ns = ledger_.make_namespace(row.id);
    // One that is renamed meanwhile may come twice.
    if (!ns.row) ++findings_.report.namespaces;
    ns.row = NamespaceState::Row{row.revision, row.version,     row.deleted_at.has_value(), row.version_base,
                                 ns.revision,  ns.version, ns.is_deleted,            ledger_.version_base()};
    if (vault_ != nullptr && !vault_->is_intact(row)) {
        findings_.add(kind::namespace_row, about_namespace(row.id, "its MAC is wrong: its name, its application, its secrecy or its key generation was changed outside the store"));
    }
    return row.key_generation > 0 && vault_ != nullptr ? check_data_key(row) : Result<void>{};
}

Result<void> RowCheck::check_data_key(const NamespaceRow& row) {
    const KeyRef key{KeyPurpose::data, row.id, row.key_generation};
    KV_TRY(const std::vector<KeyRow> keys, storage_.get_keys(std::span(&key, 1)));
    if (!keys.empty()) return {};
    // It may be purged by now, or have a newer key.
    namespaces_.erase(row.id);
    KV_TRY(const auto again, namespace_row(row.id));
    if (again && again->key_generation == row.key_generation) {
        findings_.add(kind::key_row, about_namespace(row.id, "its data key, generation " + number(row.key_generation) + ", is missing"));
    }
    return {};
}

// ---- what stays open ----

void RowCheck::settle_namespace(const NamespaceState& ns) {
    settle_changes(ns);
    if (ns.is_purged) return;
    if (ns.is_gone) {
        findings_.add(kind::namespace_missing, about_namespace(ns.id, "it is not there, though no purge of it is recorded"));
    } else if (ns.row) {
        settle_settings(ns);
        settle_version_base(ns);
        settle_revision(ns);
    }
}

// Between what was recorded when the row was looked at and what is recorded by now every version is right.
void RowCheck::settle_settings(const NamespaceState& ns) {
    const NamespaceState::Row& row = *ns.row;
    const std::uint64_t known = raised(row.known_version, row.known_version_base);
    const std::uint64_t last = raised(ns.version, ledger_.version_base());
    if (row.version < known) {
        findings_.add(kind::namespace_set_back, about_namespace(ns.id, "its settings were set back to version " + number(row.version) +
                                                                           ": version " + number(known) + " is recorded"));
    } else if (ns.version == 0) {
        if (!log_.is_cut()) findings_.add(kind::namespace_unaudited, about_namespace(ns.id, "its creation is not recorded"));
    } else if (row.version > last) {
        findings_.add(kind::namespace_unaudited, about_namespace(ns.id, "its settings are at version " + number(row.version) +
                                                                            ", but the last change recorded made version " + number(last)));
    } else {
        const bool should_be = row.version == known ? row.known_is_deleted : ns.is_deleted;
        const bool is_judged = row.version == known || row.version == last;
        if (!is_judged || row.is_deleted == should_be) return;
        findings_.add(kind::namespace_row, about_namespace(ns.id, row.is_deleted ? "it is marked as deleted, but no deletion is recorded"
                                                                                 : "it is recorded as deleted, but is not marked as such"));
    }
}

// Lowered, it would let versions of a time that was lost come again.
void RowCheck::settle_version_base(const NamespaceState& ns) {
    const std::optional<std::uint64_t>& base = ledger_.version_base();
    if (!base && log_.is_cut()) return;
    const std::uint64_t is = ns.row->version_base;
    if (is == base.value_or(0) || is == ns.row->known_version_base.value_or(0)) return;
    findings_.add(kind::namespace_row, about_namespace(ns.id, "its versions begin above " + number(is) + ", but the last new epoch recorded has " +
                                                                  number(base.value_or(0))));
}

void RowCheck::settle_revision(const NamespaceState& ns) {
    const NamespaceState::Row& row = *ns.row;
    if (row.revision < row.known_revision) {
        findings_.add(kind::revision, about_namespace(ns.id, "its revision was set back to " + number(row.revision) + ": " +
                                                                 number(row.known_revision) + " is recorded"));
    } else if (row.revision > 0 && row.revision == row.version_base) {
        return;  // a new epoch raised it, and nothing was changed since
    } else if (ns.changes > 0 && row.revision > ns.revision) {
        findings_.add(kind::revision, about_namespace(ns.id, "its revision is " + number(row.revision) + ", but the last change recorded made " +
                                                                 number(ns.revision)));
    } else if (ns.changes == 0 && !ns.has_older_changes && row.revision > 0 && !log_.is_cut()) {
        findings_.add(kind::revision, about_namespace(ns.id, "its revision is " + number(row.revision) + ", but no change in it is recorded"));
    }
}

// Revisions have no gaps but where a new epoch raised them, so neither have those that were recorded: what is missing was removed together with a whole stream,
// and what is there twice was recorded by a store that was set back.
void RowCheck::settle_changes(const NamespaceState& ns) {
    if (ns.changes == 0) return;
    const std::uint64_t should_be = ns.revision - ns.revision_first + 1 - ns.raised_by;
    if (ns.changes != should_be) {
        const std::string what = ns.changes < should_be ? "changes in it are not recorded" : "changes in it are recorded twice";
        findings_.add(kind::revision, about_namespace(ns.id, what + ": behind revision " + number(ns.odd_after) + " comes revision " +
                                                                 number(ns.odd) + ", at audit position " + number(ns.odd_position)));
    }
    if (ns.revision_first > 1 && !ns.begins_raised && !ns.has_older_changes && !log_.is_cut()) {
        findings_.add(kind::revision, about_namespace(ns.id, "changes in it are not recorded: the first revision recorded is " + number(ns.revision_first)));
    }
}

void RowCheck::settle() {
    settle_questions();
    settle_missing();
    for (const NamespaceState& ns : ledger_.namespaces()) settle_namespace(ns);
}

}  // namespace kv::verification
