#include "kvd/routes.h"

#include <array>
#include <exception>
#include <memory>
#include <new>

#include "json/json.h"
#include "kvd/query.h"
#include "kvd/route_parts.h"
#include "kvd/turn.h"
#include "text.h"

namespace kvd {
namespace {

#define BASE "/api/v1/kv"

using kv::AuditAction;
using kv::Permission;

constexpr kv::PermissionSet none = {};
constexpr kv::PermissionSet namespace_read = {Permission::namespace_read};
constexpr kv::PermissionSet namespace_write = {Permission::namespace_write};
constexpr kv::PermissionSet namespace_delete = {Permission::namespace_delete};
constexpr kv::PermissionSet entry_read = {Permission::entry_read};
constexpr kv::PermissionSet entry_write = {Permission::entry_write};
constexpr kv::PermissionSet entry_delete = {Permission::entry_delete};
constexpr kv::PermissionSet secret_rotate = {Permission::secret_rotate};
constexpr kv::PermissionSet audit_read = {Permission::audit_read};
constexpr kv::PermissionSet token_admin = {Permission::token_admin};
constexpr kv::PermissionSet admin = {Permission::admin};

// What the rows of the table below have in common, so that a row says only what is its own.
constexpr Route read_route(const char* method, const char* pattern, const char* operation, kv::PermissionSet permissions,
                           const char* query, parse::Parse* parse, render::Render* render) {
    return {method, pattern, operation, AuditAction::read, permissions, true, false, false, false, false, query, parse, render, nullptr};
}
constexpr Route write_route(const char* method, const char* pattern, const char* operation, AuditAction action,
                            kv::PermissionSet permissions, const char* query, parse::Parse* parse, render::Render* render) {
    return {method, pattern, operation, action, permissions, true, true, true, false, false, query, parse, render, nullptr};
}
constexpr Route bulk_route(const char* pattern, const char* operation, AuditAction action, kv::PermissionSet permissions,
                           parse::Parse* parse, render::Render* render) {
    return {"POST", pattern, operation, action, permissions, true, true, true, true, false, "", parse, render, nullptr};
}
constexpr Route document_route(const char* pattern, const char* operation, render::Answer* answer) {
    return {"GET", pattern, operation, AuditAction::read, none, false, false, false, false, false, "", nullptr, nullptr, answer};
}
constexpr Route admin_route(const char* method, const char* pattern, const char* operation, AuditAction action, bool has_body) {
    return {method, pattern, operation, action, admin, true, has_body, has_body, false, false, "", nullptr, nullptr, nullptr, ListenerKind::admin};
}
constexpr Route body_optional(Route route) {
    route.needs_body = false;
    return route;
}
constexpr Route watch_route(Route route) {
    route.is_watch = true;
    return route;
}
constexpr Route with_head(Route route) {
    route.serves_head = true;
    return route;
}

constexpr const char* namespaces = BASE "/namespaces";
constexpr const char* one_namespace = BASE "/namespaces/{id}";
constexpr const char* entries = BASE "/{nsId}/entries";
constexpr const char* one_entry = BASE "/{nsId}/entries/{key}";
constexpr const char* rotate_entry = BASE "/{nsId}/entries/{key}/rotate";
constexpr const char* entry_versions = BASE "/{nsId}/entries/{key}/versions";
constexpr const char* rollback_entry = BASE "/{nsId}/entries/{key}/rollback";

constexpr Route routes[] = {
    read_route("GET", namespaces, "namespace.list", namespace_read, "applicationId name deleted limit cursor",
               parse::list_namespaces, render::namespace_list),
    write_route("POST", namespaces, "namespace.create", AuditAction::write, namespace_write, "", parse::create_namespace,
                render::namespace_created),
    read_route("GET", one_namespace, "namespace.get", namespace_read, "", parse::get_namespace, render::namespace_one),
    write_route("PUT", one_namespace, "namespace.update", AuditAction::write, namespace_write, "", parse::update_namespace,
                render::namespace_one),
    body_optional(write_route("DELETE", one_namespace, "namespace.delete", AuditAction::delete_, namespace_delete, "purge",
                              parse::delete_namespace, render::no_content)),
    body_optional(write_route("POST", BASE "/namespaces/{id}/restore", "namespace.restore", AuditAction::write,
                              namespace_delete, "", parse::restore_namespace, render::namespace_one)),

    read_route("GET", entries, "entry.list", namespace_read, "prefix delimiter includeValues expiringBefore limit cursor waitRevision timeoutSeconds",
               parse::list_entries, render::entry_list),
    with_head(read_route("GET", one_entry, "entry.get", entry_read, "version", parse::get_entry, render::entry_read)),
    write_route("PUT", one_entry, "entry.put", AuditAction::write, entry_write, "includeValue", parse::put_entry,
                render::entry_written),
    write_route("PATCH", one_entry, "entry.patch", AuditAction::write, entry_write, "", parse::patch_entry,
                render::entry_written),
    body_optional(write_route("DELETE", one_entry, "entry.delete", AuditAction::delete_, entry_delete, "purge",
                              parse::delete_entry, render::no_content)),

    watch_route(read_route("GET", BASE "/{nsId}/watch", "entry.watch", namespace_read, "prefix fromRevision", parse::watch_entries,
                           render::watch)),

    bulk_route(BASE "/{nsId}/bulk/get", "bulk.get", AuditAction::read, entry_read, parse::bulk_get, render::bulk_got),
    bulk_route(BASE "/{nsId}/bulk/set", "bulk.set", AuditAction::write, entry_write, parse::bulk_set, render::bulk_set),
    bulk_route(BASE "/{nsId}/bulk/delete", "bulk.delete", AuditAction::delete_, entry_delete, parse::bulk_delete,
               render::bulk_deleted),

    write_route("POST", rotate_entry, "entry.rotate", AuditAction::rotate, secret_rotate, "includeValue", parse::rotate,
                render::entry_written),
    read_route("GET", entry_versions, "entry.versions", entry_read, "includeValues limit cursor", parse::list_versions,
               render::version_list),
    body_optional(write_route("POST", rollback_entry, "entry.rollback", AuditAction::rollback, secret_rotate,
                              "includeValue", parse::rollback, render::entry_written)),

    read_route("GET", BASE "/audit", "audit.list", audit_read,
               "namespaceId keyPath userId credentialId action operation success from to order limit cursor",
               parse::list_audit, render::audit_list),
    read_route("GET", BASE "/{nsId}/export", "entry.export", entry_read, "prefix format", parse::export_entries,
               render::exported),
    read_route("GET", BASE "/tokens", "token.list", token_admin, "limit cursor", parse::list_tokens, render::token_list),
    write_route("POST", BASE "/tokens", "token.create", AuditAction::write, token_admin, "", parse::create_token, render::token_created),
    body_optional(write_route("DELETE", BASE "/tokens/{id}", "token.revoke", AuditAction::delete_, token_admin, "", parse::revoke_token,
                              render::no_content)),
    document_route(BASE "/openapi.json", "document.openapi", render::openapi),
    document_route(BASE "/swagger-ui", "document.viewer", render::viewer),
    document_route(BASE "/swagger-ui/{file}", "document.viewerFile", render::viewer),

    body_optional(admin_route("POST", BASE "/admin/verify", "admin.verify", AuditAction::write, true)),
    admin_route("GET", BASE "/admin/jobs/{id}", "admin.job", AuditAction::read, false),
    admin_route("GET", BASE "/admin/backup", "admin.backup", AuditAction::read, false),
    body_optional(admin_route("POST", BASE "/admin/rotate-data-key/{nsId}", "namespace.rotate-key", AuditAction::rotate, true)),
    admin_route("POST", BASE "/admin/forget-master-key", "admin.forget-master-key", AuditAction::write, true),
};

#undef BASE

// ---- matching ----

constexpr std::string_view base = "/api/v1/kv";

// What stands between the slashes behind the base. A path may have more than any pattern: those are not told apart.
struct Segments {
    explicit Segments(std::string_view whole) : path(whole) {
        std::string_view left = whole;
        while (!left.empty() && left.front() == '/' && count < list.size()) {
            starts[count] = whole.size() - left.size() + 1;
            const std::size_t end = std::min(left.find('/', 1), left.size());
            list[count++] = left.substr(1, end - 1);
            left.remove_prefix(end);
        }
        is_whole = left.empty();
    }
    std::string_view rest_from(std::size_t index) const { return path.substr(starts[index]); }

    std::string_view path;
    std::array<std::string_view, 5> list;
    std::array<std::size_t, 5> starts{};
    std::size_t count = 0;
    bool is_whole = false;
};

// A pattern, taken apart once. `{key}` takes the rest of the path, of which `suffix` ("rotate") must be the end.
struct Pattern {
    explicit Pattern(const Route& route) : segments(std::string_view(route.pattern).substr(base.size())) {
        for (std::size_t i = 0; i < segments.count; ++i) {
            if (segments.list[i] != "{key}") continue;
            has_key = true;
            if (i + 1 < segments.count) suffix = segments.list[i + 1];
            segments.count = i;
        }
    }

    std::size_t length() const { return segments.path.size(); }

    Segments segments;
    bool has_key = false;
    std::string_view suffix;
};

const std::vector<Pattern>& patterns() {
    static const std::vector<Pattern> all(std::begin(routes), std::end(routes));
    return all;
}

// What a pattern's parameters stand for, still encoded.
struct RawParameters {
    std::string_view ns;
    std::string_view key;
};

std::optional<RawParameters> match_pattern(const Pattern& pattern, const Segments& path) {
    const std::size_t count = pattern.segments.count;
    if (pattern.has_key ? path.count <= count : path.count != count || !path.is_whole) return std::nullopt;
    RawParameters raw;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string_view wanted = pattern.segments.list[i];
        if (wanted == "{id}" || wanted == "{nsId}") raw.ns = path.list[i];
        else if (wanted == "{file}") raw.key = path.list[i];
        else if (wanted != path.list[i]) return std::nullopt;
    }
    if (pattern.has_key) raw.key = path.rest_from(count);
    return raw;
}

// Whether a decoded key ends in "/rotate". The key itself may not, which makes the path of an operation unambiguous.
bool has_suffix(std::string_view key, std::string_view suffix) {
    if (suffix.empty()) return true;
    return key.size() > suffix.size() && key.ends_with(suffix) && key[key.size() - suffix.size() - 1] == '/';
}

std::optional<kv::Error> decode(std::string_view raw, std::string& into, kv::Errc code, const char* field) {
    if (std::optional<std::string> decoded = percent_decode(raw)) {
        into = *std::move(decoded);
        return std::nullopt;
    }
    kv::Error fault{code, "the path has a malformed percent escape"};
    fault.field = field;
    return fault;
}

// The parameters of one path, decoded once however many routes it fits. A key that does not decode belongs to its
// route all the same: the escape is what its sender should hear of.
class Parameters {
public:
    // What stands where, by a route that fits.
    void read(const RawParameters& raw) {
        if (raw.key.data() == raw_.key.data() && raw.ns.data() == raw_.ns.data()) return;
        raw_ = raw;
        key_fault_ = decode(raw.key, key_, kv::Errc::invalid_key, "keyPath");
        if (key_fault_) key_ = raw.key;
    }
    const std::string& key() const { return key_; }
    RouteMatch take(const Route& route, std::string_view suffix) {
        RouteMatch match;
        match.route = &route;
        if (!suffix.empty()) key_.resize(key_.size() - suffix.size() - 1);
        if (!key_fault_) match.key = std::move(key_);
        match.fault = std::move(key_fault_);
        if (auto fault = decode(raw_.ns, match.ns, kv::Errc::invalid_request, "id")) match.fault = std::move(fault);
        return match;
    }

private:
    RawParameters raw_;
    std::string key_;
    std::optional<kv::Error> key_fault_;
};

bool serves(const Route& route, std::string_view method) {
    return method == route.method || (method == "HEAD" && route.serves_head);
}

void allow(std::string& list, const Route& route) {
    if (!list.empty()) list += ", ";
    list += route.method;
    if (route.serves_head) list += ", HEAD";
}

// Calls f(route, pattern) for every route of the listener that the path fits, whatever the method.
template <class F>
void for_each_fitting(const Segments& path, ListenerKind listener, Parameters& parameters, F f) {
    const std::vector<Pattern>& all = patterns();
    for (std::size_t i = 0; i < std::size(routes); ++i) {
        if (routes[i].listener != listener) continue;
        const Pattern& pattern = all[i];
        const std::optional<RawParameters> raw = match_pattern(pattern, path);
        if (!raw) continue;
        parameters.read(*raw);
        if (has_suffix(parameters.key(), pattern.suffix)) f(routes[i], pattern);
    }
}

// No route takes the method: which do others take, of the pattern that says most?
NoRoute no_route(const Segments& path, ListenerKind listener) {
    Parameters parameters;
    std::string allowed;
    std::size_t allowed_length = 0;
    for_each_fitting(path, listener, parameters, [&](const Route& route, const Pattern& pattern) {
        if (pattern.length() > allowed_length) allowed.clear();
        if (pattern.length() >= allowed_length) allow(allowed, route);
        allowed_length = std::max(allowed_length, pattern.length());
    });
    if (allowed.empty()) return {{kv::Errc::not_found, "no such route"}, {}};
    return {{kv::Errc::method_not_allowed, "this route does not take the method"}, std::move(allowed)};
}

// A key as an audit row may hold it: a request that is refused may have sent anything.
std::string recordable(const std::string& key) {
    constexpr std::size_t key_path_bytes_max = 1024;
    bool fits = key.size() <= key_path_bytes_max && kv::is_valid_utf8(key) && !kv::has_control_character(key);
    return fits ? key : std::string();
}

kv::RecordRefusal refusal_of(const Route* route, const std::string& key, kv::Errc reason) {
    kv::RecordRefusal refusal;
    refusal.operation = route ? route->operation : "request";
    if (route) refusal.action = route->action;
    refusal.key_path = recordable(key);
    refusal.reason = reason;
    return refusal;
}

kv::Error out_of_memory() { return {kv::Errc::unavailable, "Out of memory."}; }

// An exception of the standard library must not leave a completion, which runs on a thread of libkv.
template <class F>
HttpResponse guarded(const std::string& request_id, F respond) {
    try {
        return respond();
    } catch (const std::bad_alloc&) {
        return problem(out_of_memory(), request_id);
    } catch (const std::exception&) {
        return problem({kv::Errc::internal, "the answer could not be made"}, request_id);
    }
}

// A request on its way through libkv.
struct InFlight {
    RouteMatch match;
    HttpRequest request;
    std::function<void(HttpResponse)> done;
    bool waits = false;  // it is a long poll
};

bool waits(const kv::Request& request) {
    const auto* list = std::get_if<kv::ListEntries>(&request);
    return list != nullptr && list->wait_revision;
}

void answer(InFlight& flight, kv::Result<kv::Reply> reply) {
    flight.done(guarded(flight.request.request_id, [&] {
        if (!reply) return problem(reply.error(), flight.request.request_id);
        HttpResponse response = flight.match.route->render(flight.match, flight.request, *std::move(reply));
        response.was_awaited = flight.waits;
        return response;
    }));
}

kv::Result<kv::Request> parse_request(const RouteMatch& match, const HttpRequest& request) {
    if (match.fault) return *match.fault;
    try {
        return match.route->parse(match, request);
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (const std::exception&) {
        return kv::Error{kv::Errc::internal, "the request could not be read"};
    }
}

HttpResponse answer_document(const RouteMatch& match, const HttpRequest& request) {
    if (match.fault) return problem(*match.fault, request.request_id);
    if (kv::Result<Query> query = Query::parse(request.query, match.route->query); !query) {
        return problem(query.error(), request.request_id);
    }
    return match.route->answer(match, request);
}

void write_route(kv::json::Writer& out, const Route& route) {
    out.begin_object();
    out.member("method", route.method);
    out.member("pattern", route.pattern);
    out.member("operation", route.operation);
    out.member("action", kv::to_string(route.action));
    out.key("permissions");
    out.begin_array();
    for (int i = 0; i < kv::permission_count; ++i) {
        auto permission = static_cast<Permission>(i);
        if (route.permissions.contains(permission)) out.string(kv::to_string(permission));
    }
    out.end_array();
    out.member("needsCredential", route.needs_credential);
    out.member("hasBody", route.has_body);
    out.member("needsBody", route.needs_body);
    out.member("servesHead", route.serves_head);
    out.member("query", route.query);
    out.member("listener", route.listener == ListenerKind::admin ? "admin" : "api");
    out.end_object();
}

}  // namespace

std::span<const Route> route_table() { return routes; }

std::string routes_json() {
    kv::json::Writer out;
    out.begin_array();
    for (const Route& route : routes) write_route(out, route);
    out.end_array();
    return out.take();
}

std::variant<RouteMatch, NoRoute> match_route(std::string_view method, std::string_view raw_path, ListenerKind listener) {
    if (!raw_path.starts_with(base)) return NoRoute{{kv::Errc::not_found, "no such route"}, {}};
    const Segments path(raw_path.substr(base.size()));
    Parameters parameters;
    const Route* found = nullptr;
    const Pattern* found_pattern = nullptr;
    for_each_fitting(path, listener, parameters, [&](const Route& route, const Pattern& pattern) {
        // An operation's pattern says more than the one whose key would swallow its name.
        const bool is_better = found == nullptr || pattern.length() > found_pattern->length();
        if (!is_better || !serves(route, method)) return;
        found = &route;
        found_pattern = &pattern;
    });
    if (found == nullptr) return no_route(path, listener);
    parameters.read(*match_pattern(*found_pattern, path));
    return parameters.take(*found, found_pattern->suffix);
}

Router::Router(kv::Client& client) : client_(client) {}

void Router::handle(RouteMatch&& match, HttpRequest&& request, kv::Actor&& actor, std::function<void(HttpResponse)> done) {
    const Route& route = *match.route;
    if (route.answer) return done(guarded(request.request_id, [&] { return answer_document(match, request); }));

    kv::Result<kv::Request> parsed = parse_request(match, request);
    kv::json::wipe(request.body);
    if (!parsed) {
        kv::RecordRefusal refusal = refusal_of(&route, match.key, parsed.error().code);
        return refuse(std::move(refusal), request.request_id, std::move(actor), std::move(parsed).error(), std::move(done));
    }
    // Shared because std::function copies what it holds.
    auto flight = std::make_shared<InFlight>(InFlight{std::move(match), std::move(request), std::move(done), waits(*parsed)});
    Turn::submit(client_, {std::move(actor), *std::move(parsed),
                           [flight](kv::Result<kv::Reply> reply) { answer(*flight, std::move(reply)); }});
}

void Router::refuse(const Route* route, const HttpRequest& request, kv::Actor actor, kv::Error error,
                    std::function<void(HttpResponse)> done) {
    std::variant<RouteMatch, NoRoute> matched =
        match_route(request.method, request.path, route ? route->listener : ListenerKind::api);
    const auto* match = std::get_if<RouteMatch>(&matched);
    kv::RecordRefusal refusal = refusal_of(route, match ? match->key : std::string(), error.code);
    refuse(std::move(refusal), request.request_id, std::move(actor), std::move(error), std::move(done));
}

void Router::refuse(kv::RecordRefusal refusal, std::string request_id, kv::Actor actor, kv::Error error,
                    std::function<void(HttpResponse)> done) {
    // A refusal that cannot be recorded is not given: the caller hears of that instead.
    auto recorded = [request_id = std::move(request_id), error = std::move(error),
                     done = std::move(done)](kv::Result<kv::Reply> reply) {
        done(guarded(request_id, [&] { return problem(reply ? error : reply.error(), request_id); }));
    };
    Turn::submit(client_, {std::move(actor), kv::Request(std::move(refusal)), std::move(recorded)});
}

}  // namespace kvd
