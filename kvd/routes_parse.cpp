#include <algorithm>
#include <charconv>
#include <cstdint>

#include "kvd/header_fields.h"
#include "kvd/json.h"
#include "kvd/query.h"
#include "kvd/route_parts.h"

// HTTP request -> kv::Request. What is judged here is HTTP and JSON alone; every rule about the operation is libkv's.
namespace kvd {
namespace {

constexpr std::string_view json_type = "application/json";
constexpr std::string_view merge_patch_type = "application/merge-patch+json";
constexpr std::string_view bytes_type = "application/octet-stream";

kv::Error fault(std::string_view field, std::string message) {
    kv::Error error{kv::Errc::invalid_request, std::move(message)};
    error.field = std::string(field);
    return error;
}

kv::Result<Query> query_of(const RouteMatch& match, const HttpRequest& request) {
    return Query::parse(request.query, match.route->query);
}

// An identifier that is neither form is one that no namespace has. It goes on as a name that cannot be: libkv answers so
// after it judged the rest, because what else is wrong with the request is a 400, which comes first.
kv::NamespaceRef namespace_of(const RouteMatch& match) {
    return kv::parse_namespace_ref(match.ns).value_or(kv::NamespaceName{});
}

kv::Error unsupported(std::string_view expected) {
    kv::Error error{kv::Errc::unsupported_media_type, "the body must be " + std::string(expected)};
    error.field = "Content-Type";
    return error;
}

kv::Result<void> require_json(const HttpRequest& request, std::string_view also = json_type) {
    if (request.content_type.empty()) return {};
    KV_TRY(std::string type, parse_content_type(request.content_type));
    if (type != json_type && type != also) return unsupported(json_type);
    return {};
}

// Where a body means nothing, one is refused: whoever sent it meant something.
kv::Result<void> require_no_body(const HttpRequest& request) {
    if (!request.body.empty()) return kv::Error{kv::Errc::invalid_request, "this route takes no body"};
    return {};
}

template <class T>
kv::Result<void> json_body(const HttpRequest& request, T& into) {
    KV_CHECK(require_json(request));
    return read_body(request.body, into);
}

// The body may be absent.
template <class T>
kv::Result<void> optional_json_body(const HttpRequest& request, T& into) {
    if (request.body.empty()) return {};
    return json_body(request, into);
}

kv::Result<kv::Page> page_of(const Query& query) {
    kv::Page page;
    KV_TRY(page.limit, query.integer("limit"));
    page.cursor = query.text("cursor").value_or("");
    return page;
}

// If-None-Match of a read. Comparison is weak there (RFC 9110 section 13.1.2), so that weak tags count; `*` goes through as it is.
kv::Result<std::vector<std::string>> none_match_of(const HttpRequest& request) {
    std::vector<std::string> tags;
    if (request.if_none_match.empty()) return tags;
    KV_TRY(EntityTags given, parse_entity_tags("If-None-Match", request.if_none_match));
    tags = std::move(given.strong);
    tags.insert(tags.end(), given.weak.begin(), given.weak.end());
    if (given.any) tags.emplace_back("*");
    return tags;
}

// If-Match and If-None-Match of a write, added to what the body asks for.
kv::Result<void> add_conditions(const HttpRequest& request, kv::Precondition& precondition) {
    if (!request.if_match.empty()) {
        KV_TRY(EntityTags given, parse_entity_tags("If-Match", request.if_match));
        precondition.if_match_any = given.any;
        // A weak tag never matches here (RFC 9110 section 13.1.1): with none but those the list is empty, and nothing can.
        if (!given.any) precondition.if_match = std::move(given.strong);
    }
    if (!request.if_none_match.empty()) {
        KV_TRY(EntityTags given, parse_entity_tags("If-None-Match", request.if_none_match));
        if (!given.any) return fault("If-None-Match", "a write takes only *");
        precondition.if_none_match_any = true;
    }
    return {};
}

kv::Result<bool> flag(const Query& query, std::string_view name) {
    KV_TRY(std::optional<bool> value, query.boolean(name));
    return value.value_or(false);
}

}  // namespace

kv::Result<std::optional<std::uint64_t>> watch_position(const Query& query, const HttpRequest& request) {
    KV_TRY(std::optional<std::uint64_t> position, query.integer("fromRevision"));
    const std::string& last = request.last_event_id;
    if (last.empty()) return position;
    std::uint64_t revision = 0;
    const auto [end, failure] = std::from_chars(last.data(), last.data() + last.size(), revision);
    if (failure != std::errc{} || end != last.data() + last.size()) return fault("Last-Event-ID", "must be the id of an event: a revision");
    return std::optional(revision);
}

bool wants_bytes(const HttpRequest& request) { return prefers(request.accept, bytes_type, json_type); }

namespace parse {

// ---- namespaces ----

kv::Result<kv::Request> list_namespaces(const RouteMatch& match, const HttpRequest& request) {
    kv::ListNamespaces list;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    list.application_id = query.text("applicationId");
    list.name = query.text("name");
    KV_TRY(list.deleted, flag(query, "deleted"));
    KV_TRY(list.page, page_of(query));
    KV_TRY(list.if_none_match, none_match_of(request));
    return kv::Request(std::move(list));
}

kv::Result<kv::Request> create_namespace(const RouteMatch& match, const HttpRequest& request) {
    kv::CreateNamespace create;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, create));
    return kv::Request(std::move(create));
}

kv::Result<kv::Request> get_namespace(const RouteMatch& match, const HttpRequest& request) {
    kv::GetNamespace get;
    KV_CHECK(query_of(match, request));
    KV_CHECK(require_no_body(request));
    KV_TRY(get.if_none_match, none_match_of(request));
    get.ns = namespace_of(match);
    return kv::Request(std::move(get));
}

kv::Result<kv::Request> update_namespace(const RouteMatch& match, const HttpRequest& request) {
    kv::UpdateNamespace update;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, update));
    KV_CHECK(add_conditions(request, update.precondition));
    update.ns = namespace_of(match);
    return kv::Request(std::move(update));
}

kv::Result<kv::Request> delete_namespace(const RouteMatch& match, const HttpRequest& request) {
    kv::DeleteNamespace remove;
    KV_TRY(Query query, query_of(match, request));
    KV_TRY(remove.purge, flag(query, "purge"));
    KV_CHECK(optional_json_body(request, remove.precondition));
    KV_CHECK(add_conditions(request, remove.precondition));
    remove.ns = namespace_of(match);
    return kv::Request(std::move(remove));
}

kv::Result<kv::Request> restore_namespace(const RouteMatch& match, const HttpRequest& request) {
    kv::RestoreNamespace restore;
    KV_CHECK(query_of(match, request));
    if (!request.body.empty()) {
        KV_CHECK(require_json(request));
        KV_CHECK(read_empty_body(request.body));
    }
    // By id alone: the name of a deleted namespace may be another's by now.
    std::optional<kv::Uuid> id = kv::Uuid::parse(match.ns);
    if (!id) return kv::Error{kv::Errc::not_found, "no such namespace"};
    restore.ns = *id;
    return kv::Request(restore);
}

// ---- tokens ----

kv::Result<kv::Request> list_tokens(const RouteMatch& match, const HttpRequest& request) {
    kv::ListTokens list;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    KV_TRY(list.page, page_of(query));
    return kv::Request(std::move(list));
}

kv::Result<kv::Request> create_token(const RouteMatch& match, const HttpRequest& request) {
    kv::CreateToken create;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, create));
    return kv::Request(std::move(create));
}

kv::Result<kv::Request> revoke_token(const RouteMatch& match, const HttpRequest& request) {
    KV_CHECK(query_of(match, request));
    if (!request.body.empty()) {
        KV_CHECK(require_json(request));
        KV_CHECK(read_empty_body(request.body));
    }
    // What is no id is that of no token; libkv answers so after it judged who asks.
    return kv::Request(kv::RevokeToken{kv::Uuid::parse(match.ns).value_or(kv::Uuid{})});
}

// ---- entries ----

kv::Result<kv::Request> list_entries(const RouteMatch& match, const HttpRequest& request) {
    kv::ListEntries list;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    list.prefix = query.text("prefix").value_or("");
    std::optional<std::string> delimiter = query.text("delimiter");
    if (delimiter && *delimiter != "/") return fault("delimiter", "must be /");
    list.fold_folders = delimiter.has_value();
    KV_TRY(list.include_values, flag(query, "includeValues"));
    KV_TRY(list.expiring_before, query.time("expiringBefore"));
    KV_TRY(list.page, page_of(query));
    KV_TRY(list.if_none_match, none_match_of(request));
    KV_TRY(list.wait_revision, query.integer("waitRevision"));
    KV_TRY(const std::optional<std::uint64_t> seconds, query.integer("timeoutSeconds"));
    if (seconds && !list.wait_revision) return fault("timeoutSeconds", "means nothing without waitRevision");
    if (seconds) list.wait_seconds = static_cast<std::int64_t>(std::min<std::uint64_t>(*seconds, INT32_MAX));
    list.ns = namespace_of(match);
    return kv::Request(std::move(list));
}

kv::Result<kv::Request> watch_entries(const RouteMatch& match, const HttpRequest& request) {
    kv::WatchEntries watch;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    watch.prefix = query.text("prefix").value_or("");
    KV_TRY(watch.from_revision, watch_position(query, request));
    if (request.is_http_1_0)
        return kv::Error{kv::Errc::invalid_request, "a watch is answered in pieces, whose end only HTTP/1.1 can tell"};
    watch.ns = namespace_of(match);
    return kv::Request(std::move(watch));
}

kv::Result<kv::Request> get_entry(const RouteMatch& match, const HttpRequest& request) {
    kv::GetEntry get;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    KV_TRY(get.version, query.integer("version"));
    KV_TRY(get.if_none_match, none_match_of(request));
    get.key_path = match.key;
    get.ns = namespace_of(match);
    return kv::Request(std::move(get));
}

kv::Result<kv::Request> put_entry(const RouteMatch& match, const HttpRequest& request) {
    kv::PutEntry put;
    KV_TRY(Query query, query_of(match, request));
    KV_TRY(put.include_value, flag(query, "includeValue"));
    KV_TRY(std::string type, parse_content_type(request.content_type));
    if (type == bytes_type) {
        put.write.value = kv::ValueInput::bytes(request.body);
    } else if (type.empty() || type == json_type) {
        KV_CHECK(read_body(request.body, put.write));
    } else {
        return unsupported("application/json or application/octet-stream");
    }
    KV_CHECK(add_conditions(request, put.write.precondition));
    put.write.key_path = match.key;
    put.ns = namespace_of(match);
    return kv::Request(std::move(put));
}

kv::Result<kv::Request> patch_entry(const RouteMatch& match, const HttpRequest& request) {
    kv::PatchEntry patch;
    KV_CHECK(query_of(match, request));
    KV_CHECK(require_json(request, merge_patch_type));
    KV_CHECK(read_body(request.body, patch));
    KV_CHECK(add_conditions(request, patch.precondition));
    patch.key_path = match.key;
    patch.ns = namespace_of(match);
    return kv::Request(std::move(patch));
}

kv::Result<kv::Request> delete_entry(const RouteMatch& match, const HttpRequest& request) {
    kv::DeleteEntry remove;
    KV_TRY(Query query, query_of(match, request));
    KV_TRY(remove.purge, flag(query, "purge"));
    KV_CHECK(optional_json_body(request, remove.precondition));
    KV_CHECK(add_conditions(request, remove.precondition));
    remove.key_path = match.key;
    remove.ns = namespace_of(match);
    return kv::Request(std::move(remove));
}

// ---- bulk ----

kv::Result<kv::Request> bulk_get(const RouteMatch& match, const HttpRequest& request) {
    kv::BulkGet get;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, get));
    KV_TRY(get.if_none_match, none_match_of(request));
    get.ns = namespace_of(match);
    return kv::Request(std::move(get));
}

kv::Result<kv::Request> bulk_set(const RouteMatch& match, const HttpRequest& request) {
    kv::BulkSet set;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, set));
    set.ns = namespace_of(match);
    return kv::Request(std::move(set));
}

kv::Result<kv::Request> bulk_delete(const RouteMatch& match, const HttpRequest& request) {
    kv::BulkDelete remove;
    KV_CHECK(query_of(match, request));
    KV_CHECK(json_body(request, remove));
    remove.ns = namespace_of(match);
    return kv::Request(std::move(remove));
}

// ---- secrets ----

kv::Result<kv::Request> rotate(const RouteMatch& match, const HttpRequest& request) {
    kv::RotateEntry rotate;
    KV_TRY(Query query, query_of(match, request));
    KV_TRY(rotate.include_value, flag(query, "includeValue"));
    KV_CHECK(json_body(request, rotate));
    KV_CHECK(add_conditions(request, rotate.precondition));
    rotate.key_path = match.key;
    rotate.ns = namespace_of(match);
    return kv::Request(std::move(rotate));
}

kv::Result<kv::Request> list_versions(const RouteMatch& match, const HttpRequest& request) {
    kv::ListVersions list;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    KV_TRY(list.include_values, flag(query, "includeValues"));
    KV_TRY(list.page, page_of(query));
    KV_TRY(list.if_none_match, none_match_of(request));
    list.key_path = match.key;
    list.ns = namespace_of(match);
    return kv::Request(std::move(list));
}

kv::Result<kv::Request> rollback(const RouteMatch& match, const HttpRequest& request) {
    kv::RollbackEntry rollback;
    KV_TRY(Query query, query_of(match, request));
    KV_TRY(rollback.include_value, flag(query, "includeValue"));
    KV_CHECK(optional_json_body(request, rollback));
    KV_CHECK(add_conditions(request, rollback.precondition));
    rollback.key_path = match.key;
    rollback.ns = namespace_of(match);
    return kv::Request(std::move(rollback));
}

// ---- around them ----

kv::Result<kv::Request> list_audit(const RouteMatch& match, const HttpRequest& request) {
    kv::ListAudit list;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    if (std::optional<std::string> text = query.text("namespaceId")) {
        list.ns = kv::parse_namespace_ref(*text);
        if (!list.ns) return fault("namespaceId", "must be a UUID or <applicationId>~<name>");
    }
    list.key_path = query.text("keyPath");
    list.user_id = query.text("userId");
    list.credential_id = query.text("credentialId");
    if (std::optional<std::string> text = query.text("action")) {
        list.action = kv::parse_audit_action(*text);
        if (!list.action) return fault("action", "must be READ, WRITE, DELETE, ROTATE or ROLLBACK");
    }
    list.operation = query.text("operation");
    KV_TRY(list.success, query.boolean("success"));
    KV_TRY(list.from, query.time("from"));
    KV_TRY(list.to, query.time("to"));
    std::string order = query.text("order").value_or("desc");
    if (order != "asc" && order != "desc") return fault("order", "must be desc or asc");
    list.newest_first = order == "desc";
    KV_TRY(list.page, page_of(query));
    return kv::Request(std::move(list));
}

kv::Result<kv::Request> export_entries(const RouteMatch& match, const HttpRequest& request) {
    using Format = kv::ExportEntries::Format;
    kv::ExportEntries wanted;
    KV_TRY(Query query, query_of(match, request));
    KV_CHECK(require_no_body(request));
    wanted.prefix = query.text("prefix").value_or("");
    std::string format = query.text("format").value_or("dotenv");
    if (format == "dotenv") wanted.format = Format::dotenv;
    else if (format == "json") wanted.format = Format::json;
    else if (format == "shell") wanted.format = Format::shell;
    else if (format == "yaml") wanted.format = Format::yaml;
    else return fault("format", "must be dotenv, json, shell or yaml");
    KV_TRY(wanted.if_none_match, none_match_of(request));
    wanted.ns = namespace_of(match);
    return kv::Request(std::move(wanted));
}

}  // namespace parse
}  // namespace kvd
