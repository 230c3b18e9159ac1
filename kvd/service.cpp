#include "kvd/service.h"

#include <utility>

#include "kvd/gate.h"
#include "kvd/json.h"
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

bool reads(const HttpRequest& request) { return request.method == "GET" || request.method == "HEAD"; }

// 503 whatever the code: a load balancer looks at nothing else. Operators get the code and our words for it.
HttpResponse unready(const Error& error, std::string_view request_id) {
    const bool is_shown = static_cast<int>(error.code) < static_cast<int>(Errc::locked);
    const Error shown{is_shown ? error.code : Errc::unavailable, error.message};
    HttpResponse response = problem({Errc::unavailable, {}}, request_id);
    response.body = write_problem(shown, response.status, request_id);
    return response;
}

}  // namespace

Service::~Service() = default;

std::optional<HttpResponse> Health::answer(const HttpRequest& request) const {
    const bool asks_ready = request.path == "/readyz";
    if (!asks_ready && request.path != "/healthz") return std::nullopt;
    if (!reads(request)) return method_not_allowed(request, "GET, HEAD");
    if (asks_ready) {
        if (kv::Result<void> is_ready = ready_(); !is_ready) return unready(is_ready.error(), request.request_id);
    }
    HttpResponse response;
    response.content_type = "application/json";
    response.body = asks_ready ? R"({"status":"ready"})" : R"({"status":"alive"})";
    return response;
}

ApiService::ApiService(Router& router, Gate& gate, const Health& health, const Limits& limits, const WatchPace& pace, Cors cors)
    : router_(router), gate_(gate), health_(health), limits_(limits), pace_(pace), cors_(std::move(cors)) {}

Service::Verdict ApiService::judge(const HttpRequest& request, const Presented& presented) {
    if (auto answer = health_.answer(request))
        return answered(Metrics::operation_of(Metrics::health), *std::move(answer));
    const bool is_shared = !request.origin.empty() && cors_.allows(request.origin);
    Verdict verdict = is_shared && request.is_preflight ? answered(Metrics::operation_of(Metrics::preflight), Cors::preflight())
                                                        : judge_route(ListenerKind::api, request, presented, gate_, limits_);
    if (is_shared) verdict.cors_origin = request.origin;
    return verdict;
}

void ApiService::resolve(Verdict verdict, std::function<void(Verdict)> done) {
    gate_.resolve(std::move(verdict), std::move(done));
}

void ApiService::handle(Verdict&& verdict, HttpRequest&& request, Done done) {
    if (verdict.match.route->is_watch)
        request.watch_terms = std::make_shared<WatchTerms>(pace_, Standing(gate_.authenticator(), verdict.identity, verdict.actor));
    router_.handle(std::move(verdict.match), std::move(request), std::move(verdict.actor), std::move(done));
}

void ApiService::refuse(Verdict verdict, const HttpRequest& request, Error error, Done done) {
    router_.refuse(verdict.match.route, request, std::move(verdict.actor), std::move(error), std::move(done));
}

Service::Verdict judge_route(ListenerKind listener, const HttpRequest& request, const Presented& presented,
                             Gate& gate, const Limits& limits) {
    Service::Verdict verdict;
    verdict.operation = Metrics::operation_of(Metrics::no_route);
    auto found = match_route(request.method, request.path, listener);
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
    verdict.body_bytes_max = route.is_bulk ? limits.bulk_body_bytes_max : limits.body_bytes_max;
    verdict.actor.peer = request.peer;
    verdict.actor.request_id = request.request_id;
    if (route.needs_credential) gate.judge(presented, verdict);
    return verdict;
}

HttpResponse method_not_allowed(const HttpRequest& request, std::string allow) {
    HttpResponse response =
        problem(Error{Errc::method_not_allowed, "the resource has no such method"}, request.request_id);
    response.headers.emplace_back("Allow", std::move(allow));
    return response;
}

}  // namespace kvd
