#include "kvd/service.h"

#include <utility>

#include "kvd/framing.h"
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

// What was found goes into the verdict; the error, if there is one, is to be refused.
void take_finding(Authenticator::Finding finding, Service::Verdict& verdict) {
    verdict.actor = std::move(finding.actor);
    verdict.identity = std::move(finding.identity);
    verdict.refusal = std::move(finding.refusal);
    verdict.is_open = finding.is_open;
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

ApiService::ApiService(Router& router, const Authenticator& authenticator, const Health& health, const Limits& limits, const WatchPace& pace)
    : router_(router), authenticator_(authenticator), health_(health), limits_(limits), pace_(pace) {}

Service::Verdict ApiService::judge(const HttpRequest& request, const Presented& presented) {
    if (auto answer = health_.answer(request))
        return answered(Metrics::operation_of(Metrics::health), *std::move(answer));
    return judge_route(ListenerKind::api, request, presented, authenticator_, limits_);
}

void ApiService::resolve(Verdict verdict, std::function<void(Verdict)> done) {
    resolve_verdict(std::move(verdict), authenticator_, std::move(done));
}

void ApiService::handle(Verdict&& verdict, HttpRequest&& request, Done done) {
    if (verdict.match.route->is_watch)
        request.watch_terms = std::make_shared<WatchTerms>(pace_, Standing(authenticator_, verdict.identity, verdict.actor));
    router_.handle(std::move(verdict.match), std::move(request), std::move(verdict.actor), std::move(done));
}

void ApiService::refuse(Verdict verdict, const HttpRequest& request, Error error, Done done) {
    router_.refuse(verdict.match.route, request, std::move(verdict.actor), std::move(error), std::move(done));
}

Service::Verdict judge_route(ListenerKind listener, const HttpRequest& request, const Presented& presented,
                             const Authenticator& authenticator, const Limits& limits) {
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
    if (!route.needs_credential) return verdict;
    Authenticator::Finding finding;
    finding.actor = std::move(verdict.actor);
    authenticator.identify(presented, finding);
    take_finding(std::move(finding), verdict);
    return verdict;
}

void resolve_verdict(Service::Verdict verdict, const Authenticator& authenticator, std::function<void(Service::Verdict)> done) {
    Authenticator::Finding finding{std::move(verdict.actor), std::move(verdict.identity), std::nullopt, true};
    // Shared because std::function copies what it holds.
    auto kept = std::make_shared<Service::Verdict>(std::move(verdict));
    authenticator.resolve(std::move(finding), [kept, done = std::move(done)](Authenticator::Finding found) {
        take_finding(std::move(found), *kept);
        done(std::move(*kept));
    });
}

HttpResponse method_not_allowed(const HttpRequest& request, std::string allow) {
    HttpResponse response =
        problem(Error{Errc::method_not_allowed, "the resource has no such method"}, request.request_id);
    response.headers.emplace_back("Allow", std::move(allow));
    return response;
}

}  // namespace kvd
