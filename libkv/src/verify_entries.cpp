#include <algorithm>
#include <tuple>

#include "value.h"
#include "verify.h"

namespace kv::verification {
namespace {

constexpr std::size_t batch_rows = 512;
constexpr std::size_t questions_max = 10'000;
constexpr int attempts_max = 5;  // to catch a row that is changed again and again

std::string number(std::uint64_t value) { return std::to_string(value); }

bool ends_in(Reason reason) { return reason == Reason::delete_ || reason == Reason::expiry; }

// What is wrong with a row in itself, if anything is.
template <class Row>
std::optional<std::string> fault_in(const Row& row) {
    if (row.is_tombstone != ends_in(row.reason)) {
        return row.is_tombstone ? "it is marked as deleted, but its reason is another" : "it is not marked as deleted, but its reason says so";
    }
    if (row.is_tombstone && (!row.value.empty() || row.key_generation != 0)) return "it is deleted, and yet has a value";
    if (!row.is_tombstone && !is_known(row.value_type)) return "its value is of no known type";
    return std::nullopt;
}

// What did not open because of what is stored: the rest are failures of the storage.
bool is_about_row(const Error& error) { return error == Errc::integrity || error == Errc::wrong_key; }

template <class Row>
bool is_same_value(const Row& a, const Row& b) {
    return a.version == b.version && a.key_generation == b.key_generation && a.value_type == b.value_type && a.value == b.value;
}

}  // namespace

Result<Found> RowCheck::find_entry(const NamespaceId& ns, const std::string& key_path, VersionPick pick) {
    const EntryRef ref{ns, key_path, pick};
    KV_TRY(std::vector<Found> found, storage_.find(std::span(&ref, 1), Want{vault_ != nullptr, false}));
    return std::move(found.front());
}

// ---- entries ----

Result<void> RowCheck::check_entries() {
    EntryWalk walk;
    walk.values = vault_ != nullptr;
    walk.limit = batch_rows;
    while (true) {
        auto rows = storage_.walk_entries(walk);
        if (!rows) {
            KV_TRY(const bool goes_on, skip_malformed(walk, rows.error()));
            if (goes_on) continue;
            return {};
        }
        for (const EntryRow& row : *rows) KV_CHECK(check_entry(row));
        KV_CHECK(progress_.tell("entries", findings_.report.entries));
        if (rows->empty()) return {};
        walk.after = EntryWalk::After{rows->back().ns, rows->back().key_path};
    }
}

// A row whose columns cannot even be read stops the walk: one row at a time comes up to it, and then the next namespace has
// to do. Its entries that were passed over are looked for one by one in the end.
Result<bool> RowCheck::skip_malformed(EntryWalk& walk, const Error& error) {
    if (!(error == Errc::integrity)) return error;
    if (walk.limit > 1) {
        walk.limit = 1;
        return true;
    }
    const NamespaceId here = walk.after ? walk.after->ns : NamespaceId{};
    Finding finding = about_namespace(here, "an entry row behind key " + printable(walk.after ? walk.after->key_path : "") +
                                                " cannot be read: its columns are malformed");
    findings_.add(kind::entry_row, std::move(finding));
    std::optional<NamespaceId> next;
    for (const NamespaceState& ns : ledger_.namespaces()) {
        if (ns.id > here && (!next || ns.id < *next)) next = ns.id;
    }
    if (!next) return false;
    walk.after = EntryWalk::After{*next, ""};
    walk.limit = batch_rows;
    return true;
}

Result<void> RowCheck::check_entry(const EntryRow& row) {
    ++findings_.report.entries;
    if (const auto fault = fault_in(row)) findings_.add(kind::entry_row, about_entry(row.ns, row.key_path, row.version, *fault));
    KV_CHECK(hold_against_log(row));
    return open_entry(row);
}

Result<void> RowCheck::hold_against_log(const EntryRow& row) {
    EntryState* state = ledger_.find(row.id);
    if (state != nullptr) state->is_seen = 1;
    if (state != nullptr && Ledger::agrees(*state, row.version, row.revision, row.is_tombstone)) {
        if (state->key_hash == Ledger::hash_key(row.key_path) && ledger_.namespace_of(*state).id == row.ns) return {};
        findings_.add(kind::entry_row, about_entry(row.ns, row.key_path, row.version,
                                                   "it was moved: its last change, at audit position " + number(state->position) +
                                                       ", is recorded under another key or in another namespace"));
        return {};
    }
    ledger_.ask(row.id, {row.ns, row.key_path, row.version, row.revision, row.is_tombstone});
    if (ledger_.questions() < questions_max) return {};
    KV_CHECK(log_.advance());
    settle_questions();
    return {};
}

// What does not open may have been sealed anew since, or its namespace was seen as it was a moment ago: it counts only when
// both, read again, are the same.
Result<void> RowCheck::open_entry(EntryRow row) {
    for (int attempt = 0; attempt < attempts_max; ++attempt) {
        KV_TRY(const auto ns, namespace_row(row.ns));
        if (!ns) return check_orphan(row);
        if (vault_ == nullptr || row.is_tombstone || (row.key_generation == 0 && !ns->is_secret)) return {};
        const Result<SecretBytes> opened = vault_->open(storage_, *ns, row);
        if (opened) {
            if (row.key_generation > 0) ++findings_.report.values_opened;
            return {};
        }
        if (!is_about_row(opened.error())) return opened.error();
        namespaces_.erase(row.ns);
        KV_TRY(Found again, find_entry(row.ns, row.key_path));
        if (!again.entry || again.entry->id != row.id) return {};  // it is gone
        if (attempt > 0 && is_same_value(*again.entry, row)) {
            report_value(*ns, row.key_path, row.version, row.key_generation, opened.error());
            return {};
        }
        row = *std::move(again.entry);
    }
    return {};
}

// A namespace goes after its entries: where there are some, it must be there too.
Result<void> RowCheck::check_orphan(const EntryRow& row) {
    DueRange range;
    range.kind = DueRange::Kind::all;
    range.ns = row.ns;
    range.limit = 1;
    KV_TRY(const std::vector<EntryRow> left, storage_.scan_due(range));
    namespaces_.erase(row.ns);
    KV_TRY(const auto ns, namespace_row(row.ns));
    if (left.empty() || ns) return {};
    findings_.add(kind::entry_row, about_entry(row.ns, row.key_path, row.version, "its namespace is not there"));
    return {};
}

void RowCheck::report_value(const NamespaceRow& ns, std::string_view key_path, std::uint64_t version, std::uint32_t generation,
                            const Error& error) {
    if (generation == 0) {
        findings_.add(kind::unsealed_value, about_entry(ns.id, key_path, version, "its value is not sealed, though its namespace is secret"));
    } else {
        findings_.add(kind::sealed_value, about_entry(ns.id, key_path, version, printable(error.message)));
    }
}

void RowCheck::settle_questions() {
    const auto questions = ledger_.take_questions();
    std::vector<const std::pair<const EntryId, EntryQuestion>*> sorted;
    for (const auto& question : questions) sorted.push_back(&question);
    std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
        return std::tie(a->second.ns, a->second.key_path, a->first) < std::tie(b->second.ns, b->second.key_path, b->first);
    });
    for (const auto* question : sorted) settle_question(question->first, question->second);
}

// The log has no change that made the row.
void RowCheck::settle_question(const EntryId& id, const EntryQuestion& row) {
    const EntryState* state = ledger_.find(id);
    const auto report = [&](std::string_view kind, std::string what) {
        findings_.add(kind, about_entry(row.ns, row.key_path, row.version, std::move(what)));
    };
    if (state == nullptr) {
        if (!is_older_than_log(row)) report(kind::entry_unaudited, "no change of it is recorded: it was put there outside the store");
        return;
    }
    const std::string last = "version " + number(state->version) + (state->is_removed ? ", its removal," : "") + " is recorded, at audit position " +
                             number(state->position);
    if (row.version < state->version) {
        report(kind::entry_set_back, "it was set back: " + last);
    } else if (row.version > state->version) {
        report(kind::entry_unaudited, "it was changed outside the store: the last change recorded made version " + number(state->version));
    } else if (state->revision != 0 && row.revision < state->revision) {
        report(kind::entry_set_back, "it was set back to revision " + number(row.revision) + ": revision " + number(state->revision) +
                                         " of the same version is recorded, at audit position " + number(state->position));
    } else if (state->revision != 0 && row.revision > state->revision) {
        report(kind::entry_unaudited, "it was changed outside the store: its revision is " + number(row.revision) +
                                          ", but the last change recorded made " + number(state->revision));
    } else {
        report(kind::entry_row, row.is_removed ? "it is marked as deleted, but no deletion is recorded" : "it is there, though " + last);
    }
}

// Whether retention may have taken the record of its last change.
bool RowCheck::is_older_than_log(const EntryQuestion& row) {
    if (!log_.is_cut()) return false;
    const NamespaceState* ns = ledger_.find_namespace(row.ns);
    return ns == nullptr || ns->changes == 0 || ns->has_older_changes || row.revision < ns->revision_first;
}

// ---- what is missing ----

Result<void> RowCheck::look_for_missing() {
    settle_questions();
    for (NamespaceState& ns : ledger_.namespaces()) {
        if (ns.row || ns.is_purged) continue;
        const EntryRef ref{ns.id, "", {}};
        KV_TRY(const std::vector<Found> found, storage_.find(std::span(&ref, 1), {}));
        ns.is_gone = found.front().ns == nullptr;
        if (!ns.is_gone) KV_CHECK(check_namespace(*found.front().ns));
    }
    namespaces_.clear();
    for (auto& [id, state] : ledger_.entries()) {
        if (state.is_seen || ledger_.namespace_of(state).is_purged) continue;
        KV_TRY(const auto ns, namespace_row(ledger_.namespace_of(state).id));
        // What a deletion left is forgotten in the end, but for how high its versions were.
        const bool is_forgotten = state.is_removed && ns && ns->version_floor >= state.version;
        if (ns && !ns->deleted_at && !is_forgotten) KV_CHECK(look_for_entry(id, state));
    }
    return {};
}

// It came after the walk had passed its place, or went since, or is missing.
Result<void> RowCheck::look_for_entry(const EntryId& id, EntryState& state) {
    KV_TRY(const auto row, log_.row_at(state.position));
    const NamespaceId& ns = ledger_.namespace_of(state).id;
    if (!row) {
        missing_.push_back({id, "", state.is_removed != 0});
        return {};
    }
    KV_TRY(const Found found, find_entry(ns, row->record.key_path));
    if (found.entry && found.entry->id == id) {
        // check_entry() may read on in the log, and so must not be called while its entries are gone through.
        state.is_seen = 1;
        if (!Ledger::agrees(state, found.entry->version, found.entry->revision, found.entry->is_tombstone)) {
            ledger_.ask(id, {ns, row->record.key_path, found.entry->version, found.entry->revision, found.entry->is_tombstone});
        }
        ++findings_.report.entries;
        return open_entry(*found.entry);
    }
    const bool is_forgotten = state.is_removed && found.ns && found.ns->version_floor >= state.version;
    const bool is_going = !found.ns || found.ns->deleted_at;
    if (!is_forgotten && !is_going) missing_.push_back({id, row->record.key_path, state.is_removed != 0});
    return {};
}

void RowCheck::settle_missing() {
    std::sort(missing_.begin(), missing_.end(), [](const Missing& a, const Missing& b) { return std::tie(a.key_path, a.id) < std::tie(b.key_path, b.id); });
    for (const Missing& missing : missing_) {
        EntryState& state = *ledger_.find(missing.id);
        const NamespaceState& ns = ledger_.namespace_of(state);
        const bool went_since = state.is_removed && !missing.was_removed;
        if (ns.is_purged || ns.is_deleted || went_since) continue;
        const std::string name = missing.key_path.empty() ? "(id " + missing.id.to_string() + ")" : missing.key_path;
        findings_.add(kind::entry_missing,
                      about_entry(ns.id, name, state.version,
                                  (state.is_removed ? std::string("what its deletion left is missing, and its namespace does not know of its versions")
                                                    : std::string("it is missing, though no removal of it is recorded")) +
                                      "; its last change is recorded at audit position " + number(state.position)));
    }
    missing_.clear();
}

// ---- versions ----

Result<void> RowCheck::check_versions() {
    VersionWalk walk;
    walk.values = vault_ != nullptr;
    while (true) {
        auto rows = storage_.walk_versions(walk);
        if (rows == Errc::integrity) {
            Finding finding;
            finding.message = "an archived version cannot be read: its columns are malformed; those behind it were not looked at";
            if (walk.after) finding.message += " (it comes after version " + number(walk.after->version) + " of entry " + walk.after->entry_id.to_string() + ")";
            if (walk.limit == 1) {
                findings_.add(kind::version_row, std::move(finding));
                return {};
            }
            walk.limit = 1;
            continue;
        }
        if (!rows) return std::move(rows).error();
        for (const VersionRow& row : *rows) KV_CHECK(check_version(row));
        KV_CHECK(progress_.tell("versions", findings_.report.versions));
        if (rows->empty()) return {};
        walk.after = VersionWalk::After{rows->back().entry_id, rows->back().version};
    }
}

Result<void> RowCheck::check_version(const VersionRow& row) {
    ++findings_.report.versions;
    KV_TRY(const bool is_right, is_in_place(row));
    if (!is_right) return {};
    if (const auto fault = fault_in(row)) {
        findings_.add(kind::version_row, about_entry(row.ns, row.key_path, row.version, *fault));
        return {};
    }
    return open_version(row);
}

// Whether the row is still as it was read.
Result<bool> RowCheck::is_there(const VersionRow& row) {
    VersionWalk walk;
    walk.after = VersionWalk::After{row.entry_id, row.version};
    if (row.version > 0) walk.after->version = row.version - 1;
    walk.values = false;
    walk.limit = 1;
    KV_TRY(const std::vector<VersionRow> rows, storage_.walk_versions(walk));
    return row.version == 0 || (!rows.empty() && rows.front().entry_id == row.entry_id && rows.front().version == row.version);
}

// An archived version belongs to an entry of its namespace that is beyond it.
Result<bool> RowCheck::is_in_place(const VersionRow& row) {
    const auto report = [&](std::string what) {
        findings_.add(kind::version_row, row.key_path.empty()
                                             ? about_namespace(row.ns, "version " + number(row.version) + " of entry " + row.entry_id.to_string() + ": " + what)
                                             : about_entry(row.ns, row.key_path, row.version, std::move(what)));
        return false;
    };
    if (row.key_path.empty()) return report("its entry is not there");
    EntryState* state = ledger_.find(row.entry_id);
    if (state != nullptr && state->version > row.version && ledger_.namespace_of(*state).id == row.ns) return true;
    // The entry is read after the row: it can only be further on.
    KV_TRY(const Found found, find_entry(row.ns, row.key_path));
    if (found.entry && found.entry->id == row.entry_id) {
        return found.entry->version > row.version || report("it is archived, though its entry is at version " + number(found.entry->version));
    }
    KV_TRY(const bool is_still_there, is_there(row));
    return is_still_there ? report("its entry is in another namespace") : false;
}

Result<void> RowCheck::open_version(VersionRow row) {
    for (int attempt = 0; attempt < attempts_max; ++attempt) {
        KV_TRY(const auto ns, namespace_row(row.ns));
        if (!ns || vault_ == nullptr || row.is_tombstone || (row.key_generation == 0 && !ns->is_secret)) return {};
        const Result<SecretBytes> opened = vault_->open(storage_, *ns, row.key_path, row);
        if (opened) {
            if (row.key_generation > 0) ++findings_.report.values_opened;
            return {};
        }
        if (!is_about_row(opened.error())) return opened.error();
        namespaces_.erase(row.ns);
        KV_TRY(Found again, find_entry(row.ns, row.key_path, {VersionPick::Kind::exact, row.version}));
        if (!again.version || again.version->entry_id != row.entry_id) return {};  // it is gone
        if (attempt > 0 && is_same_value(*again.version, row)) {
            report_value(*ns, row.key_path, row.version, row.key_generation, opened.error());
            return {};
        }
        again.version->key_path = row.key_path;
        row = *std::move(again.version);
    }
    return {};
}

}  // namespace kv::verification
