#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kv/store.h"
#include "kvd/http.h"

namespace kvd {

struct RouteMatch;

// Where a route is served: to everybody, or to those who run kvd.
enum class ListenerKind : std::uint8_t { api, admin };

// One row of the table: what HTTP.md lists.
struct Route {
    const char* method;      // "GET"; HEAD is served by GET rows that say so
    const char* pattern;     // "/api/v1/kv/{nsId}/entries/{key}/rotate", as in the OpenAPI document
    const char* operation;   // "entry.rotate": audit, metrics, OpenAPI operationId
    kv::AuditAction action;  // how a refusal of it is recorded
    kv::PermissionSet permissions;  // what a plain request of it needs; empty: none
    bool needs_credential;
    bool has_body;    // may have one
    bool needs_body;  // a request without Content-Length and without chunks is 411 instead of one with an empty body
    bool is_bulk;            // body limit 16 MiB instead of 2 MiB
    bool serves_head;
    const char* query;  // names of its query parameters, separated by spaces; any other is refused
    // Builds the kv::Request, or says what is wrong with the HTTP one.
    kv::Result<kv::Request> (*parse)(const RouteMatch& match, const HttpRequest& request);
    HttpResponse (*render)(const RouteMatch& match, const HttpRequest& request, kv::Reply reply);
    // Instead of parse and render: routes that answer by themselves (documents).
    HttpResponse (*answer)(const RouteMatch& match, const HttpRequest& request);
    // Routes of the admin listener have none of the three: kvd/admin.h reads and answers them.
    ListenerKind listener = ListenerKind::api;
    bool is_watch = false;  // answered for as long as somebody listens
};

// A request line that found its route; parameters are percent-decoded.
struct RouteMatch {
    const Route* route = nullptr;
    std::string ns;   // {id} or {nsId}: a namespace's, or a job's
    std::string key;  // {key}, or {file} of the viewer
    // A percent escape that is none. Only whoever proved who they are is told: handle() answers it.
    std::optional<kv::Error> fault;
};

// The whole table, in the order of HTTP.md.
std::span<const Route> route_table();

// The table as JSON: [{"method", "pattern", "operation", "action", "permissions", "needsCredential", "hasBody", "needsBody", "servesHead", "query",
// "listener"}].
std::string routes_json();

struct Limits {
    std::size_t body_bytes_max = 2u << 20;
    std::size_t bulk_body_bytes_max = 16u << 20;
};

// Finds the route: a match, or not_found / method_not_allowed (with the Allow list in `allow`). The grammar of a key is not judged
// here but by libkv, after the credential.
struct NoRoute {
    kv::Error error;
    std::string allow;
};
std::variant<RouteMatch, NoRoute> match_route(std::string_view method, std::string_view raw_path,
                                              ListenerKind listener = ListenerKind::api);

// Router turns matched requests into operations of a client. Threads: any.
class Router {
public:
    // Borrows the client.
    explicit Router(kv::Client& client);

    // Parses, submits, renders. `done` is called once, from any thread, perhaps before this returns. `request` moves
    // in and lives until then. A body that does not parse is answered as a problem and recorded (kv::RecordRefusal).
    void handle(RouteMatch&& match, HttpRequest&& request, kv::Actor&& actor, std::function<void(HttpResponse)> done);

    // Records a refusal that happened before a request existed (no credential, body too large), and answers it. The
    // answer waits for the audit row.
    void refuse(const Route* route, const HttpRequest& request, kv::Actor actor, kv::Error error,
                std::function<void(HttpResponse)> done);

private:
    void refuse(kv::RecordRefusal refusal, std::string request_id, kv::Actor actor, kv::Error error,
                std::function<void(HttpResponse)> done);

    kv::Client& client_;
};

// application/problem+json for an error, headers included (Allow is the caller's). Never shows Error::detail.
HttpResponse problem(const kv::Error& error, std::string_view request_id);

}  // namespace kvd
