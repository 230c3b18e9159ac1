#include <algorithm>

#include "authorize.h"
#include "json/json.h"
#include "plan.h"
#include "plan_parts.h"
#include "validate.h"
#include "value.h"

namespace kv {
namespace {

// Everything a rule about one entry needs, and what it produces.
struct Scene {
    Operation& operation;
    Overlay& overlay;
    const PlanContext& context;
    Planned& planned;
    NamespaceState& ns;

    Time now() const { return context.now; }
    const Actor& actor() const { return operation.actor; }
};

// ---- making the next version ----

VersionRow to_version(const EntryRow& row) {
    VersionRow version;
    version.entry_id = row.id;
    version.ns = row.ns;
    version.version = row.version;
    version.is_tombstone = row.is_tombstone;
    version.value = row.value;
    version.value_type = row.value_type;
    version.key_generation = row.key_generation;
    version.revision = row.revision;
    version.reason = row.reason;
    version.comment = row.comment;
    version.rolled_back_from = row.rolled_back_from;
    version.ttl_seconds = row.ttl_seconds;
    version.expires_at = row.expires_at;
    version.metadata = row.metadata;
    version.changed_at = row.updated_at;
    version.changed_by = row.updated_by;
    version.request_id = row.request_id;
    return version;
}

// Keeps what is there as a version of the history: a copy made by the storage, unless this very group made the row.
void archive(Overlay& overlay, EntryState& entry) {
    if (entry.is_changed) {
        overlay.changes().versions.push_back(to_version(entry.row));
    } else {
        overlay.changes().archive.push_back(entry.row.id);
    }
    entry.has_history = true;
}

EventKind event_of(Reason reason) {
    switch (reason) {
        case Reason::create: return EventKind::created;
        case Reason::update: return EventKind::updated;
        case Reason::rotation: return EventKind::rotated;
        case Reason::rollback: return EventKind::rolled_back;
        case Reason::delete_: return EventKind::deleted;
        case Reason::expiry: return EventKind::expired;
    }
    return EventKind::updated;
}

// Who changes an entry: the actor of an operation, or the system.
struct Author {
    std::string_view user_id;
    std::string_view request_id;
};

void push_event(Overlay& overlay, const EntryRow& row, EventKind kind, Time now, std::string_view user_id) {
    overlay.changes().events.push_back({row.ns, row.revision, row.id, row.key_path, kind, row.version, now, std::string(user_id)});
}

// Counts one change of the namespace.
std::uint64_t next_revision(NamespaceState& ns, Time now) {
    ns.is_changed = true;
    ns.row.changed_at = now;
    return ++ns.row.revision;
}

// What the history must forget now that `row` follows version `previous`. Counted from there, so that a jump of the
// versions neither keeps more of the history nor forgets more of it.
std::uint64_t forget_up_to(const NamespaceRow& ns, const EntryRow& row, std::uint64_t previous) {
    if (!ns.keeps_history && row.reason != Reason::expiry) return row.version - 1;
    return beyond_limit(ns, previous + 1);
}

// Turns the entry into its next version: history, version, revision, author and event. The caller has changed or will
// change type, value and times to live.
void advance(Overlay& overlay, NamespaceState& ns, EntryState& entry, Reason reason, Time now, const Author& author) {
    EntryRow& row = entry.row;
    if (entry.exists && (ns.row.keeps_history || reason == Reason::expiry)) archive(overlay, entry);
    const std::uint64_t previous = entry.exists ? row.version : ns.row.version_floor;
    row.version = std::max(previous, ns.row.version_base) + 1;
    row.revision = next_revision(ns, now);
    row.reason = reason;
    row.comment.clear();
    row.rolled_back_from.reset();
    row.updated_at = now;
    row.updated_by = author.user_id;
    row.request_id = author.request_id;
    row.value.clear();
    row.key_generation = 0;
    entry.exists = true;
    entry.is_changed = true;
    entry.has_value = true;
    entry.erase_to = std::max(entry.erase_to, forget_up_to(ns.row, row, previous));
    if (entry.erase_to >= previous) entry.has_history = false;
    push_event(overlay, row, event_of(reason), now, author.user_id);
}

void become_tombstone(EntryRow& row) {
    row.is_tombstone = true;
    row.expires_at.reset();
    row.metadata = "{}";
}

// ---- judging ----

bool is_live(const EntryState& entry, Time now) { return entry.exists && kv::is_live(entry.row, now); }
bool is_due(const EntryState& entry, Time now) {
    return entry.exists && !entry.row.is_tombstone && !kv::is_live(entry.row, now);
}

Error not_found(std::string_view key_path) {
    Error error{Errc::not_found, "There is no entry at this key."};
    error.key_path = key_path;
    return error;
}

// Optimistic locking. `version` is 0 where nothing is live.
Result<void> check_precondition(const Precondition& precondition, std::uint64_t version, const EntryRow& row,
                                std::string_view epoch) {
    const auto refuse = [&](Errc code, const char* message) {
        Error error{code, message};
        error.key_path = row.key_path;
        error.current_version = version;
        return error;
    };
    if (precondition.expected_version && *precondition.expected_version != version) {
        return refuse(Errc::version_conflict, "The entry is not at the expected version.");
    }
    if (precondition.if_none_match_any && version != 0) {
        return refuse(Errc::precondition_failed, "The entry exists already.");
    }
    if (precondition.if_match_any && version == 0) return refuse(Errc::precondition_failed, "The entry does not exist.");
    if (precondition.if_match &&
        (version == 0 || !matches_etag(*precondition.if_match, entry_etag(epoch, row.ns, row.revision)))) {
        return refuse(Errc::precondition_failed, "The entry has changed: its ETag is another one.");
    }
    return {};
}

Result<void> check_precondition(const Scene& scene, const EntryState& entry, const Precondition& precondition) {
    const bool live = is_live(entry, scene.now());
    return check_precondition(precondition, live ? entry.row.version : 0, entry.row, scene.context.epoch);
}

bool same_time(const std::string& text, Time time) {
    const auto given = parse_time(text);
    return given && std::chrono::floor<std::chrono::milliseconds>(*given) ==
                        std::chrono::floor<std::chrono::milliseconds>(time);
}

// Does a member that only replies carry equal what is there?
bool echoes(const EchoedMember& member, const NamespaceRow& ns, const EntryRow& row, bool live) {
    if (member.name == "keyPath") return member.text == row.key_path;
    if (member.name == "namespaceId") {
        const auto given = Uuid::parse(member.text.value_or(""));
        return given && *given == ns.id;
    }
    if (!live) return !member.text;
    if (member.name == "expiresAt") {
        return member.text ? row.expires_at && same_time(*member.text, *row.expires_at) : !row.expires_at;
    }
    if (!member.text) return false;
    if (member.name == "id") return Uuid::parse(*member.text) == row.id;
    if (member.name == "revision") return *member.text == std::to_string(row.revision);
    if (member.name == "createdAt") return same_time(*member.text, row.created_at);
    if (member.name == "updatedAt") return same_time(*member.text, row.updated_at);
    if (member.name == "createdBy") return *member.text == row.created_by;
    if (member.name == "updatedBy") return *member.text == row.updated_by;
    return false;
}

Result<void> check_echoes(const Scene& scene, const EntryState& entry, const std::vector<EchoedMember>& members) {
    const bool live = is_live(entry, scene.now());
    for (const EchoedMember& member : members) {
        if (echoes(member, scene.ns.row, entry.row, live)) continue;
        Error error{Errc::read_only_field, "This member is set by the store and differs from what is there."};
        error.field = member.name;
        error.key_path = entry.row.key_path;
        return error;
    }
    return {};
}

Result<void> require_history(const NamespaceRow& ns) {
    if (ns.keeps_history) return {};
    return Error{Errc::history_disabled, "The namespace keeps no history."};
}

void set_ttl(EntryRow& row, std::optional<std::int64_t> seconds, Time now) {
    row.ttl_seconds = seconds;
    row.expires_at.reset();
    if (seconds) row.expires_at = now + std::chrono::seconds(*seconds);
}

std::optional<std::int64_t> ttl_or(const Ttl& ttl, std::optional<std::int64_t> otherwise) {
    switch (ttl.kind) {
        case Ttl::Kind::absent: return otherwise;
        case Ttl::Kind::never: return std::nullopt;
        case Ttl::Kind::seconds: return ttl.seconds;
    }
    return otherwise;
}

// ---- replies and audit ----

AuditRecord record_for(const Scene& scene, std::string_view key_path) {
    Description what = describe(scene.operation.request);
    what.key_path = key_path;
    return make_record(scene.actor(), what, scene.now(), &scene.ns.row);
}

void record_success(Scene& scene, const EntryRow& row) {
    AuditRecord record = record_for(scene, row.key_path);
    record.entry_id = row.id;
    record.version = row.version;
    record.revision = row.revision;
    scene.planned.audit.push_back(std::move(record));
}

void record_failure(Scene& scene, const EntryState& entry, const Error& error) {
    AuditRecord record = record_for(scene, entry.row.key_path);
    if (entry.exists) record.entry_id = entry.row.id;
    mark_failed(record, error);
    scene.planned.audit.push_back(std::move(record));
}

// A write that shows its value is a read, too.
void record_shown_value(Scene& scene, const EntryRow& row) {
    AuditRecord record = make_record(scene.actor(), {AuditAction::read, "entry.get", row.key_path}, scene.now(), &scene.ns.row);
    record.entry_id = row.id;
    record.version = row.version;
    scene.planned.audit.push_back(std::move(record));
}

EntryReply reply_for(Scene& scene, const EntryRow& row, bool created, const SecretBytes* shown_value) {
    EntryReply reply;
    reply.entry = show_entry(row);
    reply.created = created;
    reply.etag = entry_etag(scene.context.epoch, row.ns, row.revision);
    if (shown_value != nullptr) {
        reply.entry.value = *shown_value;
        record_shown_value(scene, row);
    }
    return reply;
}

// ---- put ----

const Uuid& fresh_id(const Operation& operation, std::size_t index) { return operation.fresh_ids.at(index); }

Author author_of(const Operation& operation) { return {operation.actor.user_id, operation.actor.request_id}; }

// Writes one value; everything was judged. Says whether the entry was created.
bool write_entry(Scene& scene, EntryState& entry, const EntryWrite& write, const Value& value, const Uuid& id) {
    if (is_due(entry, scene.now())) plan_expiry(scene.ns, entry, scene.context, scene.planned.audit, scene.overlay);
    const bool created = !is_live(entry, scene.now());
    if (!entry.exists) entry.row.id = id;
    advance(scene.overlay, scene.ns, entry, created ? Reason::create : Reason::update, scene.now(),
            author_of(scene.operation));
    EntryRow& row = entry.row;
    row.is_tombstone = false;
    row.value_type = value.type;
    row.comment = write.comment;
    row.metadata = write.metadata;
    set_ttl(row, ttl_or(write.ttl, scene.ns.row.default_ttl_seconds), scene.now());
    if (created) {
        row.created_at = scene.now();
        row.created_by = scene.actor().user_id;
    }
    scene.planned.seals.push_back({&scene.ns, &entry, &value.bytes});
    return created;
}

Result<void> judge_write(const Scene& scene, const EntryState& entry, const EntryWrite& write) {
    KV_CHECK(check_precondition(scene, entry, write.precondition));
    return check_echoes(scene, entry, write.echoed);
}

Result<Reply> plan_put(Scene& scene, const PutEntry& request) {
    EntryState& entry = scene.overlay.entry(scene.ns, request.write.key_path);
    const Rights rights(scene.actor(), scene.ns.row);
    KV_CHECK(require(rights, Permission::entry_write, entry.row.key_path));
    if (request.include_value) KV_CHECK(require(rights, Permission::entry_read, entry.row.key_path));
    KV_CHECK(judge_write(scene, entry, request.write));
    const Value& value = *scene.operation.values.at(0);
    const bool created = write_entry(scene, entry, request.write, value, fresh_id(scene.operation, 0));
    record_success(scene, entry.row);
    return Reply(reply_for(scene, entry.row, created, request.include_value ? &value.bytes : nullptr));
}

// ---- patch ----

Result<Reply> plan_patch(Scene& scene, const PatchEntry& request) {
    EntryState& entry = scene.overlay.entry(scene.ns, request.key_path);
    KV_CHECK(require(Rights(scene.actor(), scene.ns.row), Permission::entry_write, request.key_path));
    if (!is_live(entry, scene.now())) return not_found(request.key_path);
    KV_CHECK(check_precondition(scene, entry, request.precondition));
    EntryRow& row = entry.row;
    std::string metadata = row.metadata;
    if (request.metadata) {
        KV_TRY(metadata, *request.metadata == "null" ? Result<std::string>("{}") : json::merge_patch(row.metadata, *request.metadata));
        KV_CHECK(check_metadata(metadata, scene.context.limits->metadata_bytes_max));
    }
    row.metadata = std::move(metadata);
    if (request.ttl.kind != Ttl::Kind::absent) set_ttl(row, ttl_or(request.ttl, {}), scene.now());
    row.revision = next_revision(scene.ns, scene.now());
    entry.is_changed = true;
    push_event(scene.overlay, row, EventKind::touched, scene.now(), scene.actor().user_id);
    record_success(scene, row);
    return Reply(reply_for(scene, row, false, nullptr));
}

// ---- delete ----

Result<void> judge_delete(const Scene& scene, const EntryState& entry, bool purge, const Precondition& precondition) {
    const Rights rights(scene.actor(), scene.ns.row);
    KV_CHECK(require(rights, Permission::entry_delete, entry.row.key_path));
    if (purge && entry.has_history) KV_CHECK(require(rights, Permission::secret_rotate, entry.row.key_path));
    const bool live = is_live(entry, scene.now());
    const bool has_past = purge && entry.exists && entry.row.is_tombstone && entry.has_history && !is_hidden(entry.row, scene.now());
    if (!live && !has_past) return not_found(entry.row.key_path);
    return check_precondition(scene, entry, precondition);
}

void delete_entry(Scene& scene, EntryState& entry, bool purge) {
    advance(scene.overlay, scene.ns, entry, Reason::delete_, scene.now(), author_of(scene.operation));
    become_tombstone(entry.row);
    if (purge) {
        entry.erase_to = entry.row.version;
        entry.row.history_floor = entry.row.version;
        entry.row.hidden_since.reset();  // nothing is left to be destroyed later
        entry.has_history = false;
    }
    record_success(scene, entry.row);
}

Result<Reply> plan_delete(Scene& scene, const DeleteEntry& request) {
    EntryState& entry = scene.overlay.entry(scene.ns, request.key_path);
    KV_CHECK(judge_delete(scene, entry, request.purge, request.precondition));
    delete_entry(scene, entry, request.purge);
    return Reply(Done{});
}

// ---- rotate, rollback ----

// The rotation's value in the type the entry has.
Result<Value> rotated_value(const Scene& scene, const RotateEntry& request, const EntryRow& row) {
    if (!is_known(row.value_type)) {
        Error error{Errc::integrity, "The entry is of no known type: its row was changed outside the store."};
        error.key_path = row.key_path;
        return error;
    }
    const std::size_t bytes_max = scene.context.limits->value_bytes_max;
    if (std::holds_alternative<Generate>(request.value)) {
        ValueInput input{ValueInput::Form::text, *scene.operation.generated, {}};
        return normalize(input, row.value_type, bytes_max);
    }
    const auto& input = std::get<ValueInput>(request.value);
    if (input.type && *input.type != row.value_type) {
        Error error{Errc::invalid_value, "A rotation keeps the value's type."};
        error.field = "valueType";
        return error;
    }
    return normalize(input, row.value_type, bytes_max);
}

Result<Reply> plan_rotate(Scene& scene, const RotateEntry& request) {
    EntryState& entry = scene.overlay.entry(scene.ns, request.key_path);
    const Rights rights(scene.actor(), scene.ns.row);
    KV_CHECK(require(rights, Permission::secret_rotate, request.key_path));
    if (request.include_value) KV_CHECK(require(rights, Permission::entry_read, request.key_path));
    KV_CHECK(require_history(scene.ns.row));
    if (!is_live(entry, scene.now())) return not_found(request.key_path);
    KV_TRY(Value value, rotated_value(scene, request, entry.row));
    KV_CHECK(check_precondition(scene, entry, request.precondition));
    scene.operation.rotated = std::move(value.bytes);

    advance(scene.overlay, scene.ns, entry, Reason::rotation, scene.now(), author_of(scene.operation));
    entry.row.comment = request.comment;
    set_ttl(entry.row, ttl_or(request.ttl, entry.row.ttl_seconds), scene.now());
    scene.planned.seals.push_back({&scene.ns, &entry, &scene.operation.rotated});
    record_success(scene, entry.row);
    return Reply(reply_for(scene, entry.row, false, request.include_value ? &scene.operation.rotated : nullptr));
}

// The archived version a rollback restores.
Result<const VersionRow*> rollback_target(const Scene& scene, const RollbackEntry& request, const EntryState& entry) {
    Error missing{Errc::not_found, "There is no such version to go back to."};
    missing.key_path = request.key_path;
    if (!entry.exists || is_hidden(entry.row, scene.now())) return not_found(request.key_path);
    if (request.version == entry.row.version) {
        if (entry.row.is_tombstone) return missing;
        Error error{Errc::current_version, "This version is the current one."};
        error.key_path = request.key_path;
        error.current_version = entry.row.version;
        return error;
    }
    const auto& picked = entry.picked;
    if (!picked || picked->is_tombstone || picked->version <= visible_above(scene.ns.row, entry.row)) return missing;
    return &*picked;
}

// A deleted key may be named by its tombstone's version, or as absent.
Result<void> check_rollback_precondition(const Scene& scene, const EntryState& entry, const Precondition& precondition) {
    if (entry.row.is_tombstone && precondition.expected_version == entry.row.version) {
        Precondition rest = precondition;
        rest.expected_version.reset();
        return check_precondition(scene, entry, rest);
    }
    return check_precondition(scene, entry, precondition);
}

Result<Reply> plan_rollback(Scene& scene, const RollbackEntry& request) {
    EntryState& entry = scene.overlay.entry(scene.ns, request.key_path);
    const Rights rights(scene.actor(), scene.ns.row);
    KV_CHECK(require(rights, Permission::secret_rotate, request.key_path));
    if (request.include_value) KV_CHECK(require(rights, Permission::entry_read, request.key_path));
    KV_CHECK(require_history(scene.ns.row));
    KV_TRY(const VersionRow* target, rollback_target(scene, request, entry));
    KV_CHECK(check_rollback_precondition(scene, entry, request.precondition));
    if (!scene.operation.opened) return Error{Errc::internal, "The version to go back to was not opened."};
    if (!*scene.operation.opened) return scene.operation.opened->error();

    const bool was_tombstone = entry.row.is_tombstone;
    advance(scene.overlay, scene.ns, entry, Reason::rollback, scene.now(), author_of(scene.operation));
    EntryRow& row = entry.row;
    row.is_tombstone = false;
    row.value_type = target->value_type;
    row.metadata = target->metadata;
    row.rolled_back_from = target->version;
    row.comment = request.comment;
    set_ttl(row, ttl_or(request.ttl, row.ttl_seconds), scene.now());
    if (was_tombstone) {
        row.created_at = scene.now();
        row.created_by = scene.actor().user_id;
    }
    const SecretBytes& value = **scene.operation.opened;
    scene.planned.seals.push_back({&scene.ns, &entry, &value});
    record_success(scene, row);
    return Reply(reply_for(scene, row, false, request.include_value ? &value : nullptr));
}

// ---- bulk ----

// Collects what is wrong with the items of an atomic bulk.
class Faults {
public:
    void add(Scene& scene, const EntryState& entry, Error error) {
        if (error.key_path.empty()) error.key_path = entry.row.key_path;
        record_failure(scene, entry, error);
        items_.push_back(std::move(error));
    }
    bool any() const { return !items_.empty(); }
    Error take(Errc code, const char* message) {
        Error error{code, message};
        error.items = std::move(items_);
        return error;
    }

private:
    std::vector<Error> items_;
};

// What is wrong with the form of the items, and with the values of the others.
Error every_fault(const Operation& operation, const BulkSet& request) {
    Error error = *operation.fault;
    const auto is_named = [&](const std::string& key_path) {
        return std::any_of(error.items.begin(), error.items.end(), [&](const Error& item) { return item.key_path == key_path; });
    };
    for (std::size_t i = 0; i < request.entries.size(); ++i) {
        if (!operation.values.at(i) && !is_named(request.entries[i].key_path)) error.items.push_back(operation.values[i].error());
    }
    return error;
}

// First permission, then form, then state: HTTP.md section 4.
Result<void> judge_atomic_set(Scene& scene, const BulkSet& request) {
    const Rights rights(scene.actor(), scene.ns.row);
    Faults denied;
    for (const EntryWrite& write : request.entries) {
        EntryState& entry = scene.overlay.entry(scene.ns, write.key_path);
        if (auto allowed = require(rights, Permission::entry_write, write.key_path); !allowed) {
            denied.add(scene, entry, std::move(allowed).error());
        }
    }
    if (denied.any()) return denied.take(Errc::permission_denied, "Some of the keys may not be written.");
    if (scene.operation.fault) return every_fault(scene.operation, request);
    Faults invalid;
    Faults conflicting;
    for (std::size_t i = 0; i < request.entries.size(); ++i) {
        EntryState& entry = scene.overlay.entry(scene.ns, request.entries[i].key_path);
        if (!scene.operation.values.at(i)) {
            invalid.add(scene, entry, scene.operation.values[i].error());
        } else if (auto judged = judge_write(scene, entry, request.entries[i]); !judged) {
            Faults& faults = judged.error().code == Errc::read_only_field ? invalid : conflicting;
            faults.add(scene, entry, std::move(judged).error());
        }
    }
    if (invalid.any()) return invalid.take(Errc::invalid_request, "Some of the entries are not valid.");
    if (conflicting.any()) return conflicting.take(Errc::bulk_failed, "Some of the entries are not at the expected version.");
    return {};
}

BulkSetResult set_item(Scene& scene, const EntryWrite& write, std::size_t index) {
    EntryState& entry = scene.overlay.entry(scene.ns, write.key_path);
    const bool created = write_entry(scene, entry, write, *scene.operation.values.at(index), fresh_id(scene.operation, index));
    record_success(scene, entry.row);
    return {write.key_path, created ? BulkSetResult::Status::created : BulkSetResult::Status::updated, entry.row.version, {}};
}

Result<void> judge_item(const Scene& scene, const EntryWrite& write, std::size_t index) {
    KV_CHECK(require(Rights(scene.actor(), scene.ns.row), Permission::entry_write, write.key_path));
    KV_CHECK(validate_write(write, *scene.context.limits));
    if (!scene.operation.values.at(index)) return scene.operation.values[index].error();
    return judge_write(scene, scene.overlay.entry(scene.ns, write.key_path), write);
}

Result<Reply> plan_bulk_set(Scene& scene, const BulkSet& request) {
    if (!Rights(scene.actor(), scene.ns.row).allows_somewhere(Permission::entry_write)) return denied(Permission::entry_write);
    if (request.atomic) KV_CHECK(judge_atomic_set(scene, request));
    BulkSetReply reply;
    for (std::size_t i = 0; i < request.entries.size(); ++i) {
        const EntryWrite& write = request.entries[i];
        // An atomic bulk was judged as a whole.
        if (auto judged = request.atomic ? Result<void>{} : judge_item(scene, write, i); judged) {
            reply.results.push_back(set_item(scene, write, i));
        } else {
            record_failure(scene, scene.overlay.entry(scene.ns, write.key_path), judged.error());
            reply.results.push_back({write.key_path, BulkSetResult::Status::failed, 0, std::move(judged).error()});
        }
    }
    return Reply(std::move(reply));
}

Result<void> judge_atomic_delete(Scene& scene, const BulkDelete& request) {
    const Rights rights(scene.actor(), scene.ns.row);
    Faults denied;
    for (const std::string& key_path : request.keys) {
        EntryState& entry = scene.overlay.entry(scene.ns, key_path);
        Result<void> allowed = require(rights, Permission::entry_delete, key_path);
        if (allowed && request.purge && entry.has_history) allowed = require(rights, Permission::secret_rotate, key_path);
        if (!allowed) denied.add(scene, entry, std::move(allowed).error());
    }
    if (denied.any()) return denied.take(Errc::permission_denied, "Some of the keys may not be deleted.");
    if (scene.operation.fault) return *scene.operation.fault;
    return {};
}

void delete_item(Scene& scene, const BulkDelete& request, const std::string& key_path, BulkDeleteReply& reply) {
    EntryState& entry = scene.overlay.entry(scene.ns, key_path);
    Result<void> judged = check_key_path(key_path);
    if (judged) judged = judge_delete(scene, entry, request.purge, {});
    if (judged) {
        delete_entry(scene, entry, request.purge);
        reply.deleted.push_back(key_path);
        return;
    }
    record_failure(scene, entry, judged.error());
    if (judged.error().code == Errc::not_found) {
        reply.missing.push_back(key_path);
    } else {
        judged.error().key_path = key_path;
        reply.failed.push_back(std::move(judged).error());
    }
}

Result<Reply> plan_bulk_delete(Scene& scene, const BulkDelete& request) {
    if (!Rights(scene.actor(), scene.ns.row).allows_somewhere(Permission::entry_delete)) return denied(Permission::entry_delete);
    if (request.atomic) KV_CHECK(judge_atomic_delete(scene, request));
    BulkDeleteReply reply;
    for (const std::string& key_path : request.keys) delete_item(scene, request, key_path, reply);
    return Reply(std::move(reply));
}

// ---- dispatch ----

Result<Reply> dispatch(Scene& scene) {
    const Request& request = scene.operation.request;
    if (auto* put = std::get_if<PutEntry>(&request)) return plan_put(scene, *put);
    if (auto* patch = std::get_if<PatchEntry>(&request)) return plan_patch(scene, *patch);
    if (auto* remove = std::get_if<DeleteEntry>(&request)) return plan_delete(scene, *remove);
    if (auto* rotate = std::get_if<RotateEntry>(&request)) return plan_rotate(scene, *rotate);
    if (auto* rollback = std::get_if<RollbackEntry>(&request)) return plan_rollback(scene, *rollback);
    if (auto* set = std::get_if<BulkSet>(&request)) return plan_bulk_set(scene, *set);
    if (auto* remove = std::get_if<BulkDelete>(&request)) return plan_bulk_delete(scene, *remove);
    return Error{Errc::internal, "This request is not a write to entries."};
}

}  // namespace

void plan_expiry(NamespaceState& ns, EntryState& entry, const PlanContext& context, std::vector<AuditRecord>& audit,
                 Overlay& overlay) {
    const Actor& system = system_actor();
    advance(overlay, ns, entry, Reason::expiry, context.now, {system.user_id, ""});
    EntryRow& row = entry.row;
    become_tombstone(row);
    row.history_floor = row.version;
    // What an earlier expiry hid is still due when it was; destroying it finds what is due later.
    if (!row.hidden_since) row.hidden_since = context.now;
    AuditRecord record = make_record(system, {AuditAction::delete_, "entry.expire", row.key_path}, context.now, &ns.row);
    record.entry_id = row.id;
    record.version = row.version;
    record.revision = row.revision;
    audit.push_back(std::move(record));
}

Planned plan_entry_write(Operation& operation, const NamespaceRef& ref, Overlay& overlay, const PlanContext& context) {
    Planned planned;
    NamespaceState* ns = overlay.find_namespace(ref);
    Result<void> touched = may_touch(operation.actor, ns != nullptr ? &ns->row : nullptr);
    if (touched && !ns->is_intact) touched = tampered_namespace();
    if (!touched) {
        planned.reply = std::move(touched).error();
    } else {
        PlanContext here = context;
        here.now = time_in(ns->row, context.now);
        Scene scene{operation, overlay, here, planned, *ns};
        planned.reply = dispatch(scene);
    }
    if (!planned.reply && planned.audit.empty()) {
        planned.audit.push_back(failure_record(operation, planned.reply.error(), context.now, ns ? &ns->row : nullptr));
    }
    return planned;
}

}  // namespace kv
