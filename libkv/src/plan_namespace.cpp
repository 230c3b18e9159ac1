#include <algorithm>

#include "plan_parts.h"
#include "text.h"
#include "validate.h"

namespace kv {
namespace {

constexpr std::uint64_t plain_history_limit = 20;

struct Scene {
    Operation& operation;
    Overlay& overlay;
    const PlanContext& context;
    Planned& planned;

    const Actor& actor() const { return operation.actor; }
    Time now() const { return context.now; }
};

Error namespace_exists() {
    Error error{Errc::namespace_exists, "A namespace of this name exists in the application."};
    error.field = "name";
    return error;
}

Error immutable(const char* field, const char* message) {
    Error error{Errc::immutable, message};
    error.field = field;
    return error;
}

Error history_required() {
    Error error{Errc::history_required, "A secret namespace keeps its history."};
    error.field = "keepsHistory";
    return error;
}

void record_success(Scene& scene, const NamespaceRow& row) {
    AuditRecord record = make_record(scene.actor(), describe(scene.operation.request), scene.now(), &row);
    record.version = row.version;
    scene.planned.audit.push_back(std::move(record));
}

Reply reply_for(const Scene& scene, const NamespaceRow& row) {
    NamespaceReply reply;
    reply.ns = show_namespace(row);
    reply.etag = namespace_etag(scene.context.epoch, row);
    return reply;
}

Result<void> check_precondition(const Scene& scene, const NamespaceRow& row, const Precondition& precondition) {
    const auto refuse = [&](Errc code, const char* message) {
        Error error{code, message};
        error.current_version = row.version;
        return error;
    };
    if (precondition.expected_version && *precondition.expected_version != row.version) {
        return refuse(Errc::version_conflict, "The namespace is not at the expected version.");
    }
    if (precondition.if_none_match_any) return refuse(Errc::precondition_failed, "The namespace exists.");
    if (precondition.if_match && !locks_namespace(*precondition.if_match, scene.context.epoch, row)) {
        return refuse(Errc::precondition_failed, "The namespace has changed: its ETag is another one.");
    }
    return {};
}

void touch(Scene& scene, NamespaceState& ns) {
    ns.row.version += 1;
    ns.row.updated_at = std::max(scene.now(), ns.row.updated_at);
    ns.row.updated_by = scene.actor().user_id;
    ns.is_changed = true;
}

// The namespace an operation names, if the actor may see it; deleted ones only where asked for.
Result<NamespaceState*> find(Scene& scene, const NamespaceRef& ref, bool deleted_too = false) {
    NamespaceState* ns = scene.overlay.find_namespace(ref);
    if (ns == nullptr || !Rights(scene.actor(), ns->row).touches()) return namespace_not_found();
    if (ns->row.deleted_at && !deleted_too) return namespace_not_found();
    if (!ns->is_intact) return tampered_namespace();
    return ns;
}

// ---- create ----

NamespaceRow new_row(const Scene& scene, const CreateNamespace& request) {
    NamespaceRow row;
    row.id = scene.operation.fresh_ids.at(0);
    row.application_id = request.application_id;
    row.name = request.name;
    row.description = request.description;
    row.is_secret = request.is_secret;
    row.default_ttl_seconds = request.default_ttl_seconds;
    row.keeps_history = request.keeps_history;
    if (request.history_limit) {
        row.history_limit = *request.history_limit;
    } else if (!request.is_secret) {
        row.history_limit = plain_history_limit;
    }
    row.deletion_protection = request.deletion_protection;
    row.version_base = scene.context.version_base;
    row.version = row.version_base + 1;
    row.key_generation = request.is_secret ? 1 : 0;
    row.changed_at = row.created_at = row.updated_at = scene.now();
    row.created_by = row.updated_by = scene.actor().user_id;
    return row;
}

Result<Reply> plan_create(Scene& scene, const CreateNamespace& request) {
    NamespaceRow row = new_row(scene, request);
    KV_CHECK(require(Rights(scene.actor(), row), Permission::namespace_write));
    if (request.is_secret && !request.keeps_history) return history_required();
    if (scene.overlay.find_namespace(NamespaceName{request.application_id, request.name}) != nullptr) {
        return namespace_exists();
    }
    if (request.is_secret) {
        if (!scene.operation.data_key) return Error{Errc::internal, "No data key was drawn."};
        scene.overlay.changes().keys.push_back(*scene.operation.data_key);
    }
    const NamespaceState& ns = scene.overlay.new_namespace(std::move(row));
    record_success(scene, ns.row);
    return reply_for(scene, ns.row);
}

// ---- update ----

// Does a member that only replies carry equal what is there?
bool echoes(const EchoedMember& member, const NamespaceRow& row) {
    const auto same_time = [&](Time time) { return member.text == format_time(time); };
    if (!member.text) return false;
    if (member.name == "id") return Uuid::parse(*member.text) == row.id;
    if (member.name == "sealing") return *member.text == (row.sealing ? "true" : "false");
    if (member.name == "revision") return *member.text == std::to_string(row.revision);
    if (member.name == "createdAt") return same_time(row.created_at);
    if (member.name == "updatedAt") return same_time(row.updated_at);
    if (member.name == "createdBy") return *member.text == row.created_by;
    if (member.name == "updatedBy") return *member.text == row.updated_by;
    return false;
}

Result<void> check_echoes(const UpdateNamespace& request, const NamespaceRow& row) {
    for (const EchoedMember& member : request.echoed) {
        // The revision counts entry changes, which may have gone on since the caller looked.
        if (member.name == "revision" || echoes(member, row)) continue;
        Error error{Errc::read_only_field, "This member is set by the store and differs from what is there."};
        error.field = member.name;
        return error;
    }
    return {};
}

// Fewer versions kept than before: that destroys history.
bool lowers_history(const UpdateNamespace& request, const NamespaceRow& row) {
    if (request.keeps_history == false && row.keeps_history) return true;
    if (!request.history_limit || !*request.history_limit) return false;
    return !row.history_limit || **request.history_limit < *row.history_limit;
}

Result<void> judge_secrecy(const UpdateNamespace& request, const NamespaceRow& row) {
    if (request.is_secret == false && row.is_secret) {
        return immutable("isSecretNamespace", "A secret namespace cannot be made plain.");
    }
    const bool will_be_secret = row.is_secret || request.is_secret == true;
    const bool will_keep_history = request.keeps_history.value_or(row.keeps_history);
    if (will_be_secret && !will_keep_history) return history_required();
    return {};
}

Result<void> judge_update(Scene& scene, const UpdateNamespace& request, const NamespaceRow& row) {
    const Rights rights(scene.actor(), row);
    KV_CHECK(require(rights, Permission::namespace_write));
    if (lowers_history(request, row)) KV_CHECK(require(rights, Permission::entry_delete));
    KV_CHECK(check_precondition(scene, row, request.precondition));
    KV_CHECK(check_echoes(request, row));
    if (request.application_id && *request.application_id != row.application_id) {
        return immutable("applicationId", "A namespace stays in its application.");
    }
    KV_CHECK(judge_secrecy(request, row));
    if (!request.name || *request.name == row.name) return {};
    NamespaceRow renamed = row;
    renamed.name = *request.name;
    // Whoever may write only this name may not give it another one.
    KV_CHECK(require(Rights(scene.actor(), renamed), Permission::namespace_write));
    if (scene.overlay.find_namespace(NamespaceName{row.application_id, *request.name}) != nullptr) {
        return namespace_exists();
    }
    return {};
}

Result<void> begin_sealing(Scene& scene, NamespaceRow& row) {
    if (!scene.operation.data_key) return Error{Errc::internal, "No data key was drawn."};
    row.is_secret = true;
    row.sealing = true;
    replace_data_key(row, *scene.operation.data_key, scene.overlay);
    return {};
}

Result<Reply> plan_update(Scene& scene, const UpdateNamespace& request) {
    KV_TRY(NamespaceState* ns, find(scene, request.ns));
    NamespaceRow& row = ns->row;
    KV_CHECK(judge_update(scene, request, row));
    if (request.is_secret == true && !row.is_secret) KV_CHECK(begin_sealing(scene, row));
    if (request.name) row.name = *request.name;
    if (request.description) row.description = request.description->value_or("");
    if (request.default_ttl_seconds) row.default_ttl_seconds = *request.default_ttl_seconds;
    if (request.keeps_history) row.keeps_history = *request.keeps_history;
    if (request.history_limit) row.history_limit = *request.history_limit;
    if (request.deletion_protection) row.deletion_protection = *request.deletion_protection;
    touch(scene, *ns);
    record_success(scene, row);
    return reply_for(scene, row);
}

// ---- delete, restore ----

Result<Reply> plan_delete(Scene& scene, const DeleteNamespace& request) {
    KV_TRY(NamespaceState* ns, find(scene, request.ns, request.purge));
    const Rights rights(scene.actor(), ns->row);
    KV_CHECK(require(rights, Permission::namespace_delete));
    if (request.purge) KV_CHECK(require(rights, Permission::entry_delete));
    if (ns->row.deletion_protection) {
        Error error{Errc::deletion_protected, "The namespace is protected against deletion."};
        error.field = "deletionProtection";
        return error;
    }
    KV_CHECK(check_precondition(scene, ns->row, request.precondition));
    // The beginning of time: older than any retention, so that nothing restores it and the purge may begin.
    ns->row.deleted_at = request.purge ? Time{} : scene.now();
    touch(scene, *ns);
    record_success(scene, ns->row);
    return Reply(Done{});
}

Result<Reply> plan_restore(Scene& scene, const RestoreNamespace& request) {
    KV_TRY(NamespaceState* ns, find(scene, NamespaceRef(request.ns), true));
    NamespaceRow& row = ns->row;
    KV_CHECK(require(Rights(scene.actor(), row), Permission::namespace_delete));
    if (!row.deleted_at || *row.deleted_at + scene.context.namespace_retention <= scene.now()) return namespace_not_found();
    if (scene.overlay.find_namespace(NamespaceName{row.application_id, row.name}) != nullptr) return namespace_exists();
    row.deleted_at.reset();
    touch(scene, *ns);
    record_success(scene, row);
    return reply_for(scene, row);
}

// ---- data keys ----

// The namespace's version stays: nothing that anybody sees of it changes.
Result<Reply> plan_rotate_key(Scene& scene, const RotateDataKey& request) {
    KV_TRY(NamespaceState* ns, find(scene, request.ns));
    NamespaceRow& row = ns->row;
    KV_CHECK(require(Rights(scene.actor(), row), Permission::admin));
    if (!row.is_secret) return Error{Errc::invalid_request, "A plain namespace has no data key: only a secret one seals its values."};
    if (!scene.operation.data_key) return Error{Errc::internal, "No data key was drawn."};
    replace_data_key(row, *scene.operation.data_key, scene.overlay);
    ns->is_changed = true;
    record_success(scene, row);
    return reply_for(scene, row);
}

Result<Reply> dispatch(Scene& scene) {
    const Request& request = scene.operation.request;
    if (auto* create = std::get_if<CreateNamespace>(&request)) return plan_create(scene, *create);
    if (auto* update = std::get_if<UpdateNamespace>(&request)) return plan_update(scene, *update);
    if (auto* remove = std::get_if<DeleteNamespace>(&request)) return plan_delete(scene, *remove);
    if (auto* restore = std::get_if<RestoreNamespace>(&request)) return plan_restore(scene, *restore);
    if (auto* rotate = std::get_if<RotateDataKey>(&request)) return plan_rotate_key(scene, *rotate);
    return Error{Errc::internal, "This request is not a write to namespaces."};
}

std::optional<NamespaceRef> namespace_of(const Request& request) {
    if (auto* update = std::get_if<UpdateNamespace>(&request)) return update->ns;
    if (auto* remove = std::get_if<DeleteNamespace>(&request)) return remove->ns;
    if (auto* restore = std::get_if<RestoreNamespace>(&request)) return NamespaceRef(restore->ns);
    if (auto* rotate = std::get_if<RotateDataKey>(&request)) return rotate->ns;
    return std::nullopt;
}

// The namespace that holds the name an operation would take.
void add_name_lookup(const Request& request, Needs& needs) {
    if (auto* create = std::get_if<CreateNamespace>(&request)) {
        needs.lookups.push_back(NamespaceName{create->application_id, create->name});
    }
}

}  // namespace

void replace_data_key(NamespaceRow& ns, const KeyRow& key, Overlay& overlay) {
    ns.key_generation = key.generation;
    ns.seals = 0;
    overlay.changes().keys.push_back(key);
}

Planned plan_namespace_write(Operation& operation, Overlay& overlay, const PlanContext& context) {
    Planned planned;
    Scene scene{operation, overlay, context, planned};
    planned.reply = dispatch(scene);
    if (!planned.reply) {
        const auto ref = namespace_of(operation.request);
        const NamespaceState* ns = ref ? overlay.find_namespace(*ref) : nullptr;
        planned.audit.push_back(failure_record(operation, planned.reply.error(), context.now, ns ? &ns->row : nullptr));
    }
    return planned;
}

void add_needs(const Request& request, Needs& needs) {
    if (auto* revoke = std::get_if<RevokeToken>(&request)) needs.tokens.push_back(revoke->id);
    const auto one_entry = [&](const NamespaceRef& ns, const std::string& key_path, bool full, VersionPick pick = {}) {
        needs.namespaces.push_back(ns);
        (full ? needs.full_entries : needs.entries).push_back({ns, key_path, pick});
    };
    // The items of a bulk are judged one by one: what can be no key is not looked for.
    const auto bulk_entry = [&](const NamespaceRef& ns, const std::string& key_path, bool full) {
        if (check_key_path(key_path)) (full ? needs.full_entries : needs.entries).push_back({ns, key_path, {}});
    };
    if (auto ref = namespace_of(request)) needs.namespaces.push_back(*ref);
    add_name_lookup(request, needs);
    if (auto* put = std::get_if<PutEntry>(&request)) one_entry(put->ns, put->write.key_path, false);
    if (auto* patch = std::get_if<PatchEntry>(&request)) one_entry(patch->ns, patch->key_path, true);
    if (auto* remove = std::get_if<DeleteEntry>(&request)) one_entry(remove->ns, remove->key_path, remove->purge);
    if (auto* rotate = std::get_if<RotateEntry>(&request)) one_entry(rotate->ns, rotate->key_path, false);
    if (auto* rollback = std::get_if<RollbackEntry>(&request)) {
        VersionPick pick{VersionPick::Kind::previous, 0};
        if (rollback->version) pick = {VersionPick::Kind::exact, *rollback->version};
        one_entry(rollback->ns, rollback->key_path, true, pick);
    }
    if (auto* set = std::get_if<BulkSet>(&request)) {
        needs.namespaces.push_back(set->ns);
        for (const EntryWrite& write : set->entries) bulk_entry(set->ns, write.key_path, false);
    }
    if (auto* remove = std::get_if<BulkDelete>(&request)) {
        needs.namespaces.push_back(remove->ns);
        for (const std::string& key : remove->keys) bulk_entry(remove->ns, key, remove->purge);
    }
}

void add_name_needs(const Request& request, const NamespaceRow& ns, Needs& needs) {
    const auto* update = std::get_if<UpdateNamespace>(&request);
    if (update != nullptr && update->name) needs.lookups.push_back(NamespaceName{ns.application_id, *update->name});
    if (std::holds_alternative<RestoreNamespace>(request)) {
        needs.lookups.push_back(NamespaceName{ns.application_id, ns.name});
    }
}

Planned plan_write(Operation& operation, Overlay& overlay, const PlanContext& context) {
    if (std::holds_alternative<CreateToken>(operation.request) || std::holds_alternative<RevokeToken>(operation.request))
        return plan_token_write(operation, overlay, context);
    const NamespaceRef* entry_namespace = std::visit(
        []<class R>(const R& request) -> const NamespaceRef* {
            if constexpr (std::is_same_v<R, PutEntry> || std::is_same_v<R, PatchEntry> || std::is_same_v<R, DeleteEntry> ||
                          std::is_same_v<R, RotateEntry> || std::is_same_v<R, RollbackEntry> ||
                          std::is_same_v<R, BulkSet> || std::is_same_v<R, BulkDelete>) {
                return &request.ns;
            }
            return nullptr;
        },
        operation.request);
    return entry_namespace != nullptr ? plan_entry_write(operation, *entry_namespace, overlay, context)
                                      : plan_namespace_write(operation, overlay, context);
}

Error denied(Permission permission) {
    return {Errc::permission_denied, "This needs the permission " + std::string(to_string(permission)) + "."};
}

Result<void> require(const Rights& rights, Permission permission) {
    if (rights.allows(permission)) return {};
    return denied(permission);
}

Result<void> require(const Rights& rights, Permission permission, std::string_view key_path) {
    if (rights.allows(permission, key_path)) return {};
    Error error = denied(permission);
    error.key_path = key_path;
    return error;
}

Error namespace_not_found() { return {Errc::not_found, "There is no such namespace."}; }

Error tampered_namespace() {
    return {Errc::integrity, "The namespace's row was changed outside the store; nothing in it is served."};
}

void mark_failed(AuditRecord& record, const Error& error) {
    // What is not text is not worth keeping, and not every storage could keep it.
    for (std::string* text : {&record.key_path, &record.operation}) {
        if (!check_prefix(*text)) text->clear();
    }
    record.success = false;
    record.reason = code_name(error.code);
}

AuditRecord failure_record(const Operation& operation, const Error& error, Time now, const NamespaceRow* ns) {
    AuditRecord record = make_record(operation.actor, describe(operation.request), now, ns);
    mark_failed(record, error);
    return record;
}

}  // namespace kv
