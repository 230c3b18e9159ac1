#include "kvd/service.h"

#include <utility>

#include "kvd/auth/tokens.h"
#include "kvd/framing.h"
#include "kvd/metrics.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;

Service::Verdict answered(std::size_t operation, HttpResponse answer) {
    Service::Verdict verdict;
    verdict.operation = operation;
    verdict.answer = std::move(answer);
    return verdict;
}

HttpResponse not_allowed(const HttpRequest& request, std::string allow) {
    HttpResponse response =
        problem(Error{Errc::method_not_allowed, "the resource has no such method"}, request.request_id);
    response.headers.emplace_back("Allow", std::move(allow));
    return response;
}

bool reads(const HttpRequest& request) { return request.method == "GET" || request.method == "HEAD"; }

}  // namespace

Service::~Service() = default;

std::optional<HttpResponse> Health::answer(const HttpRequest& request) const {
    const bool asks_ready = request.path == "/readyz";
    if (!asks_ready && request.path != "/healthz") return std::nullopt;
    if (!reads(request)) return not_allowed(request, "GET, HEAD");
    if (asks_ready) {
        if (kv::Result<void> ready = ready_(); !ready) return problem(ready.error(), request.request_id);
    }
    HttpResponse response;
    response.content_type = "application/json";
    response.body = asks_ready ? R"({"status":"ready"})" : R"({"status":"alive"})";
    return response;
}

ApiService::ApiService(Router& router, const TokenStore& tokens, const Health& health, const Limits& limits)
    : router_(router), tokens_(tokens), health_(health), limits_(limits) {}

// RFC 6750: the scheme in any case, one space or more, the token.
std::optional<Error> ApiService::authenticate(const HttpRequest& request, std::string_view authorization,
                                              kv::Actor& actor) const {
    actor.peer = request.peer;
    actor.request_id = request.request_id;
    constexpr std::string_view scheme = "bearer ";
    if (!equals_ignoring_case(authorization.substr(0, scheme.size()), scheme))
        return Error{Errc::unauthenticated, "a bearer token is needed: Authorization: Bearer TOKEN"};
    authorization.remove_prefix(scheme.size());
    while (!authorization.empty() && authorization.front() == ' ') authorization.remove_prefix(1);
    if (!tokens_.identify(authorization, actor))
        return Error{Errc::unauthenticated, "the token is unknown or has expired"};
    return std::nullopt;
}

Service::Verdict ApiService::judge(const HttpRequest& request, std::string_view authorization) {
    if (auto answer = health_.answer(request))
        return answered(Metrics::operation_of(Metrics::health), *std::move(answer));

    Verdict verdict;
    verdict.operation = Metrics::operation_of(Metrics::no_route);
    auto found = match_route(request.method, request.path);
    if (auto* none = std::get_if<NoRoute>(&found)) {
        verdict.answer = problem(none->error, request.request_id);
        if (!none->allow.empty()) verdict.answer->headers.emplace_back("Allow", std::move(none->allow));
        return verdict;
    }
    verdict.match = std::get<RouteMatch>(std::move(found));
    const Route& route = *verdict.match.route;
    verdict.operation = static_cast<std::size_t>(&route - route_table().data());
    verdict.has_body = route.has_body;
    verdict.needs_body = route.needs_body;
    verdict.body_bytes_max = route.is_bulk ? limits_.bulk_body_bytes_max : limits_.body_bytes_max;
    if (route.needs_credential) {
        verdict.refusal = authenticate(request, authorization, verdict.actor);
    } else {
        verdict.actor.peer = request.peer;
        verdict.actor.request_id = request.request_id;
    }
    return verdict;
}

void ApiService::handle(Verdict verdict, HttpRequest request, Done done) {
    router_.handle(std::move(verdict.match), std::move(request), std::move(verdict.actor), std::move(done));
}

void ApiService::refuse(Verdict verdict, const HttpRequest& request, Error error, Done done) {
    router_.refuse(verdict.match.route, request, std::move(verdict.actor), std::move(error), std::move(done));
}

Service::Verdict AdminService::judge(const HttpRequest& request, std::string_view) {
    if (auto answer = health_.answer(request))
        return answered(Metrics::operation_of(Metrics::health), *std::move(answer));
    if (request.path != "/metrics")
        return answered(Metrics::operation_of(Metrics::no_route),
                        problem(Error{Errc::not_found, "there is nothing at this path"}, request.request_id));
    if (!reads(request)) return answered(Metrics::operation_of(Metrics::metrics), not_allowed(request, "GET, HEAD"));
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_.render();
    return answered(Metrics::operation_of(Metrics::metrics), std::move(response));
}

// Everything was answered by judge(); a refusal can only be for the framing of a body nobody wants.
void AdminService::handle(Verdict, HttpRequest request, Done done) {
    done(problem(Error{Errc::not_found, "there is nothing at this path"}, request.request_id));
}

void AdminService::refuse(Verdict, const HttpRequest& request, Error error, Done done) {
    done(problem(error, request.request_id));
}

}  // namespace kvd
