#include <algorithm>

#include "storage/memory_tables.h"

// What a write changes in the tables.
namespace kv::memory {
namespace {

template <class Stored, class Row>
std::shared_ptr<const Stored> store(const Row& row) {
    auto stored = std::make_shared<Stored>(Stored{row, {}});
    stored->value.swap(stored->row.value);
    return stored;
}

VersionRow archived(const EntryRow& entry, std::string value) {
    VersionRow version;
    version.entry_id = entry.id;
    version.ns = entry.ns;
    version.version = entry.version;
    version.is_tombstone = entry.is_tombstone;
    version.value = std::move(value);
    version.value_type = entry.value_type;
    version.key_generation = entry.key_generation;
    version.revision = entry.revision;
    version.reason = entry.reason;
    version.comment = entry.comment;
    version.rolled_back_from = entry.rolled_back_from;
    version.ttl_seconds = entry.ttl_seconds;
    version.expires_at = entry.expires_at;
    version.metadata = entry.metadata;
    version.changed_at = entry.updated_at;
    version.changed_by = entry.updated_by;
    version.request_id = entry.request_id;
    return version;
}

WrapKey wrap_key(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }

}  // namespace

Result<void> Tables::put_namespace(const NamespaceRow& row, Undo& undo) {
    const NamespaceName name{row.application_id, row.name};
    auto named = live_names_.find(name);
    if (!row.deleted_at && named != live_names_.end() && named->second != row.id) {
        return Error{Errc::namespace_exists, "a live namespace of that name exists"};
    }
    if (NamespacePtr old = find_namespace(row.id)) {
        undo.erase(names_, {old->application_id, old->name, old->id});
        if (!old->deleted_at) undo.erase(live_names_, {old->application_id, old->name});
    }
    auto stored = std::make_shared<const NamespaceRow>(row);
    if (!row.deleted_at) undo.put(live_names_, name, row.id);
    undo.put(names_, {row.application_id, row.name, row.id}, stored);
    undo.put(namespaces_, row.id, stored);
    return {};
}

void Tables::erase_namespace(const NamespaceId& id, Undo& undo) {
    if (NamespacePtr old = find_namespace(id)) {
        undo.erase(names_, {old->application_id, old->name, id});
        if (!old->deleted_at) undo.erase(live_names_, {old->application_id, old->name});
        undo.erase(namespaces_, id);
    }
    const KeyRef all{KeyPurpose::data, id, {}};
    for (const KeyRow& row : get_keys({&all, 1})) undo.erase(wraps_, wrap_key(row));
}

void Tables::index(const EntryRow& row, Undo& undo) {
    if (row.expires_at && !row.is_tombstone) undo.put(expiring_, {*row.expires_at, row.id});
    if (row.hidden_since) undo.put(hidden_, {*row.hidden_since, row.id});
    if (row.is_tombstone && !row.hidden_since) undo.put(tombstones_, {row.updated_at, row.id});
}

void Tables::unindex(const EntryRow& row, Undo& undo) {
    if (row.expires_at) undo.erase(expiring_, {*row.expires_at, row.id});
    if (row.hidden_since) undo.erase(hidden_, {*row.hidden_since, row.id});
    undo.erase(tombstones_, {row.updated_at, row.id});
}

void Tables::set_entry(EntryPtr entry, Undo& undo) {
    const EntryRow& row = entry->row;
    erase_entry(row.id, undo);
    undo.put(entries_, row.id, entry);
    undo.put(keys_, {row.ns, row.key_path}, entry);
    index(row, undo);
}

void Tables::erase_entry(const EntryId& id, Undo& undo) {
    const EntryPtr old = find_entry(id);
    if (!old) return;
    unindex(old->row, undo);
    undo.erase(keys_, {old->row.ns, old->row.key_path});
    undo.erase(entries_, id);
}

Result<void> Tables::put_entry(const EntryRow& row, Undo& undo) {
    auto same_key = keys_.find({row.ns, row.key_path});
    if (same_key != keys_.end() && same_key->second->row.id != row.id) {
        return Error{Errc::internal, "the key belongs to another entry"};
    }
    set_entry(store<StoredEntry>(row), undo);
    return {};
}

Result<void> Tables::put_version(VersionPtr version, Undo& undo) {
    const VersionKey key{version->row.entry_id, version->row.version};
    if (versions_.contains(key)) return Error{Errc::internal, "the version is archived already"};
    undo.put(versions_, key, std::move(version));
    return {};
}

Result<void> Tables::archive(const EntryId& id, Undo& undo) {
    const EntryPtr entry = find_entry(id);
    if (!entry) return Error{Errc::internal, "there is no entry to archive"};
    return put_version(store<StoredVersion>(archived(entry->row, entry->value)), undo);
}

void Tables::reseal(const Reseal& reseal, Undo& undo) {
    if (!reseal.archived) {
        const EntryPtr entry = find_entry(reseal.entry_id);
        if (!entry || entry->row.version != reseal.version) return;
        EntryRow row = entry->row;
        row.key_generation = reseal.key_generation;
        row.value = reseal.value;
        set_entry(store<StoredEntry>(row), undo);
        return;
    }
    auto found = versions_.find({reseal.entry_id, reseal.version});
    if (found == versions_.end()) return;
    VersionRow row = found->second->row;
    row.key_generation = reseal.key_generation;
    row.value = reseal.value;
    undo.put(versions_, found->first, store<StoredVersion>(row));
}

void Tables::erase_versions(const VersionErase& erase, Undo& undo) {
    auto at = versions_.lower_bound({erase.entry_id, erase.from});
    while (at != versions_.end() && at->first.first == erase.entry_id && at->first.second <= erase.to) {
        const VersionKey key = (at++)->first;
        undo.erase(versions_, key);
    }
}

void Tables::add_audit(const AuditRow& row, Undo& undo) {
    undo.add([this, size = audit_.size()] { audit_.resize(std::min(size, audit_.size())); });
    audit_.push_back(row);
    audit_.back().position = audit_erased_ + audit_.size();
}

void Tables::erase_audit(std::uint64_t to, Undo& undo) {
    to = std::min<std::uint64_t>(to, audit_erased_ + audit_.size());  // what is added with it stays
    undo.add_last([this, to] {
        while (!audit_.empty() && audit_.front().position <= to) {
            audit_.pop_front();
            ++audit_erased_;
        }
    });
}

Result<void> Tables::put_head(const HeadChange& change, Undo& undo) {
    auto found = heads_.find(change.after.stream);
    const bool is_as_before = found == heads_.end()
                                  ? change.before.sequence == 0
                                  : change.before.sequence != 0 && found->second.sequence == change.before.sequence &&
                                        found->second.mac == change.before.mac;
    if (!is_as_before) return Error{Errc::invalid_state, "the audit stream has moved on"};
    undo.put(heads_, change.after.stream, change.after);
    return {};
}

void Tables::erase_all(Undo& undo) {
    undo.clear(namespaces_);
    undo.clear(live_names_);
    undo.clear(names_);
    undo.clear(entries_);
    undo.clear(keys_);
    undo.clear(versions_);
    undo.clear(expiring_);
    undo.clear(hidden_);
    undo.clear(tombstones_);
    undo.clear(heads_);
    undo.clear(events_);
    undo.clear(sinks_);
    undo.clear(cursors_);
    undo.clear(tokens_);
    undo.clear(wraps_);
    undo.clear(meta_);
    erase_audit(UINT64_MAX, undo);
}

Result<void> Tables::apply(const Changeset& changes, Undo& undo) {
    if (changes.erase_all) erase_all(undo);
    for (const NamespaceRow& row : changes.namespaces) KV_CHECK(put_namespace(row, undo));
    for (const EntryId& id : changes.archive) KV_CHECK(archive(id, undo));
    for (const VersionRow& row : changes.versions) KV_CHECK(put_version(store<StoredVersion>(row), undo));
    for (const EntryRow& row : changes.entries) KV_CHECK(put_entry(row, undo));
    for (const Reseal& one : changes.reseals) reseal(one, undo);
    for (const VersionErase& erase : changes.erase_versions) erase_versions(erase, undo);
    for (const EntryId& id : changes.erase_entries) erase_entry(id, undo);
    for (const NamespaceId& id : changes.erase_namespaces) erase_namespace(id, undo);
    for (const EventRow& row : changes.events) {
        if (events_.contains({row.ns, row.revision})) return Error{Errc::internal, "the revision has an event already"};
        undo.put(events_, {row.ns, row.revision}, row);
    }
    for (const KeyRow& row : changes.keys) undo.put(wraps_, wrap_key(row), row);
    for (const KeyRef& ref : changes.erase_keys) undo.erase(wraps_, {ref.purpose, ref.ns, ref.generation.value_or(0)});
    for (const MetaRow& row : changes.meta) undo.put(meta_, row.name, row.value);
    for (const std::string& name : changes.erase_meta) undo.erase(meta_, name);
    erase_audit(changes.erase_audit_to, undo);
    for (const AuditRow& row : changes.audit) add_audit(row, undo);
    for (const HeadChange& change : changes.heads) KV_CHECK(put_head(change, undo));
    for (const StreamId& stream : changes.erase_heads) undo.erase(heads_, stream);
    for (const EventErase& erase : changes.erase_events) erase_events(erase, undo);
    put_sinks(changes, undo);
    put_tokens(changes, undo);
    return {};
}

void Tables::erase_events(const EventErase& erase, Undo& undo) {
    auto at = events_.lower_bound({erase.ns, 0});
    while (at != events_.end() && at->first.first == erase.ns && at->first.second <= erase.to) {
        const auto key = (at++)->first;
        undo.erase(events_, key);
    }
}

void Tables::put_sinks(const Changeset& changes, Undo& undo) {
    for (const SinkRow& row : changes.sinks) undo.put(sinks_, row.name, row);
    for (const SinkCursorRow& row : changes.cursors) undo.put(cursors_, {row.sink, row.ns}, row);
    for (const CursorErase& erase : changes.erase_cursors) undo.erase(cursors_, {erase.sink, erase.ns});
    for (const std::string& name : changes.erase_sinks) {
        undo.erase(sinks_, name);
        auto at = cursors_.lower_bound({name, NamespaceId{}});
        while (at != cursors_.end() && at->first.first == name) {
            const auto key = (at++)->first;
            undo.erase(cursors_, key);
        }
    }
}

void Tables::put_tokens(const Changeset& changes, Undo& undo) {
    for (const TokenRow& row : changes.tokens) undo.put(tokens_, row.id, row);
    for (const Uuid& id : changes.erase_tokens) undo.erase(tokens_, id);
    for (const TokenUse& use : changes.token_uses) {
        const auto found = tokens_.find(use.id);
        if (found == tokens_.end() || found->second.last_used_at >= use.at) continue;
        TokenRow row = found->second;
        row.last_used_at = use.at;
        undo.put(tokens_, use.id, std::move(row));
    }
}

}  // namespace kv::memory
