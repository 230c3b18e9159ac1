#include <chrono>

#include "grants_json.h"
#include "plan_parts.h"
#include "tokens.h"

namespace kv {
namespace {

struct Scene {
    Operation& operation;
    Overlay& overlay;
    const PlanContext& context;
    Planned& planned;
};

void record_success(Scene& scene, const Uuid& id) {
    AuditRecord record = make_record(scene.operation.actor, describe(scene.operation.request), scene.context.now, nullptr);
    record.key_path = token_subject(id);
    scene.planned.audit.push_back(std::move(record));
}

Result<void> may_manage(const Actor& actor) {
    if (holds_anywhere(actor, Permission::token_admin)) return {};
    return denied(Permission::token_admin);
}

Result<Reply> plan_create(Scene& scene, const CreateToken& request) {
    KV_CHECK(may_manage(scene.operation.actor));
    for (std::size_t i = 0; i < request.grants.size(); ++i) {
        if (covers(scene.operation.actor, request.grants[i])) continue;
        Error error{Errc::permission_denied, "Nobody gives grants beyond their own."};
        error.field = "grants[" + std::to_string(i) + "]";
        return error;
    }
    if (!scene.operation.token) return Error{Errc::internal, "No token was drawn."};
    TokenRow row;
    row.hash = scene.operation.token_hash;
    row.id = token_id(row.hash);
    row.name = request.name;
    row.user_id = request.user_id;
    row.grants = write_grants(request.grants);
    row.created_at = scene.context.now;
    row.created_by = scene.operation.actor.user_id;
    if (request.ttl_seconds) row.expires_at = row.created_at + std::chrono::seconds(*request.ttl_seconds);
    TokenReply reply;
    KV_TRY(reply.token, show_token(row));
    reply.secret = *scene.operation.token;
    record_success(scene, row.id);
    scene.overlay.changes().tokens.push_back(std::move(row));
    return Reply(std::move(reply));
}

// Of a row that somebody edited nobody knows whose it was: whoever may do anything may remove it.
bool may_revoke(const Actor& actor, const TokenState& token) {
    if (!token.is_intact) return is_admin(actor);
    const auto grants = parse_grants(token.row.grants);
    return grants && covers(actor, *grants);
}

Result<Reply> plan_revoke(Scene& scene, const RevokeToken& request) {
    KV_CHECK(may_manage(scene.operation.actor));
    const TokenState* token = scene.overlay.find_token(request.id);
    if (token == nullptr || !may_revoke(scene.operation.actor, *token)) return Error{Errc::not_found, "There is no such token."};
    scene.overlay.changes().erase_tokens.push_back(request.id);
    record_success(scene, request.id);
    return Reply(Done{});
}

}  // namespace

Planned plan_token_write(Operation& operation, Overlay& overlay, const PlanContext& context) {
    Planned planned;
    Scene scene{operation, overlay, context, planned};
    const auto* create = std::get_if<CreateToken>(&operation.request);
    planned.reply = create != nullptr ? plan_create(scene, *create) : plan_revoke(scene, std::get<RevokeToken>(operation.request));
    if (planned.reply) return planned;
    planned.audit = {failure_record(operation, planned.reply.error(), context.now, nullptr)};
    if (create == nullptr) planned.audit.front().key_path = token_subject(std::get<RevokeToken>(operation.request).id);
    return planned;
}

}  // namespace kv
