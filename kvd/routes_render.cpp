#include <utility>

#include "kvd/header_fields.h"
#include "kvd/json.h"
#include "kvd/query.h"
#include "kvd/route_parts.h"
#include "kvd/status.h"
#include "kvd/watch_stream.h"
#include "kvd/web/assets.h"

// kv::Reply -> HTTP response.
namespace kvd {
namespace {

constexpr const char* json_type = "application/json";

// The viewer's page may run its own scripts and talk to this server, and nothing else.
constexpr const char* content_security_policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

void add_etag(HttpResponse& response, const std::string& etag) {
    if (!etag.empty()) response.headers.emplace_back("ETag", '"' + etag + '"');
}

HttpResponse content(unsigned status, std::string content_type, std::string body) {
    HttpResponse response;
    response.status = status;
    response.content_type = std::move(content_type);
    response.body = std::move(body);
    return response;
}

// A conditional read: the body, or 304 where the caller has it already. `write` runs only if it is wanted.
template <class Reply, class Write>
HttpResponse read_reply(const Reply& reply, Write write) {
    HttpResponse response;
    if (reply.not_modified) response.status = 304;
    else response = content(200, json_type, write());
    add_etag(response, reply.etag);
    return response;
}

bool has_parameter(const RouteMatch& match, const HttpRequest& request, std::string_view name) {
    kv::Result<Query> query = Query::parse(request.query, match.route->query);
    return query && query->text(name).has_value();
}

}  // namespace

namespace render {

HttpResponse namespace_list(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    const auto& list = std::get<kv::NamespaceList>(reply);
    return read_reply(list, [&] { return write_json(list); });
}

HttpResponse namespace_one(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    const auto& one = std::get<kv::NamespaceReply>(reply);
    return read_reply(one, [&] { return write_json(one.ns); });
}

HttpResponse namespace_created(const RouteMatch& match, const HttpRequest&, kv::Reply reply) {
    const auto& one = std::get<kv::NamespaceReply>(reply);
    HttpResponse response = content(201, json_type, write_json(one.ns));
    add_etag(response, one.etag);
    response.headers.emplace_back("Location", std::string(match.route->pattern) + '/' + one.ns.id.to_string());
    return response;
}

HttpResponse entry_list(const RouteMatch& match, const HttpRequest& request, kv::Reply reply) {
    const auto& list = std::get<kv::EntryList>(reply);
    HttpResponse response = read_reply(list, [&] { return write_json(list, has_parameter(match, request, "delimiter")); });
    // Also where there is no body to say it: whoever polls with it would otherwise ask for the same one again.
    response.headers.emplace_back("X-Revision", std::to_string(list.revision));
    return response;
}

HttpResponse watch(const RouteMatch& match, const HttpRequest& request, kv::Reply reply) {
    auto& begun = std::get<kv::WatchReply>(reply);
    const kv::Result<Query> query = Query::parse(request.query, match.route->query);
    const std::optional<std::uint64_t> asked = query ? watch_position(*query, request).value_or(std::nullopt) : std::nullopt;
    return watch_response(std::move(begun.watch), asked.value_or(begun.revision), request.watch_terms);
}

HttpResponse entry_read(const RouteMatch&, const HttpRequest& request, kv::Reply reply) {
    const auto& one = std::get<kv::EntryReply>(reply);
    HttpResponse response = read_reply(one, [&] {
        if (wants_bytes(request) && one.entry.value) return std::string(one.entry.value->reveal());
        return write_json(one.entry);
    });
    if (!one.not_modified && wants_bytes(request)) response.content_type = "application/octet-stream";
    response.headers.emplace_back("Vary", "Accept");
    return response;
}

HttpResponse entry_written(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    const auto& one = std::get<kv::EntryReply>(reply);
    HttpResponse response = content(one.created ? 201 : 200, json_type, write_json(one.entry));
    add_etag(response, one.etag);
    return response;
}

HttpResponse bulk_got(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    const auto& got = std::get<kv::BulkGetReply>(reply);
    return read_reply(got, [&] { return write_json(got); });
}

HttpResponse bulk_set(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    return content(200, json_type, write_json(std::get<kv::BulkSetReply>(reply)));
}

HttpResponse bulk_deleted(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    return content(200, json_type, write_json(std::get<kv::BulkDeleteReply>(reply)));
}

HttpResponse version_list(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    const auto& list = std::get<kv::VersionList>(reply);
    return read_reply(list, [&] { return write_json(list); });
}

HttpResponse audit_list(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    return content(200, json_type, write_json(std::get<kv::AuditList>(reply)));
}

HttpResponse token_list(const RouteMatch&, const HttpRequest&, kv::Reply reply) {
    return content(200, json_type, write_json(std::get<kv::TokenList>(reply)));
}

HttpResponse token_created(const RouteMatch& match, const HttpRequest&, kv::Reply reply) {
    const auto& made = std::get<kv::TokenReply>(reply);
    HttpResponse response = content(201, json_type, write_json(made));
    response.headers.emplace_back("Location", std::string(match.route->pattern) + '/' + made.token.id.to_string());
    return response;
}

HttpResponse exported(const RouteMatch& match, const HttpRequest& request, kv::Reply reply) {
    const auto& text = std::get<kv::ExportReply>(reply);
    HttpResponse response = read_reply(text, [&] { return std::string(text.text.reveal()); });
    kv::Result<Query> query = Query::parse(request.query, match.route->query);
    bool is_json = query && query->text("format") == "json";
    if (!text.not_modified && !is_json) response.content_type = "text/plain; charset=utf-8";
    return response;
}

HttpResponse no_content(const RouteMatch&, const HttpRequest&, kv::Reply) {
    HttpResponse response;
    response.status = 204;
    return response;
}

HttpResponse openapi(const RouteMatch&, const HttpRequest&) {
    return content(200, json_type, std::string(web::openapi_json()));
}

HttpResponse viewer(const RouteMatch& match, const HttpRequest& request) {
    std::optional<web::Asset> asset = web::viewer_asset(match.key, accepts_gzip(request.accept_encoding));
    if (!asset) return problem({kv::Errc::not_found, "no such file"}, request.request_id);
    HttpResponse response = content(200, std::string(asset->content_type), std::string(asset->bytes));
    response.headers.emplace_back("Content-Security-Policy", content_security_policy);
    response.headers.emplace_back("Referrer-Policy", "no-referrer");
    response.headers.emplace_back("Vary", "Accept-Encoding");
    if (asset->gzip) response.headers.emplace_back("Content-Encoding", "gzip");
    return response;
}

}  // namespace render

namespace {

// What only a host program meets is our fault where it reaches a request; its words are no caller's business.
kv::Error shown_for(const kv::Error& error) {
    if (static_cast<int>(error.code) < static_cast<int>(kv::Errc::locked)) return error;
    if (error.code != kv::Errc::wrong_key) return {kv::Errc::internal, "the server cannot do this now"};
    // Another server, or this one started otherwise, can: a data key is not wrapped by the new master key yet.
    return {kv::Errc::unavailable, "the server runs without the master key that opens this: it needs KV_MASTER_KEY_PREVIOUS"};
}

}  // namespace

HttpResponse problem(const kv::Error& error, std::string_view request_id) {
    const kv::Error shown = shown_for(error);
    unsigned status = http_status(shown.code);
    HttpResponse response = content(status, "application/problem+json", write_problem(shown, status, request_id));
    if (status == 503 || status == 429) response.headers.emplace_back("Retry-After", "1");
    if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return response;
}

}  // namespace kvd
