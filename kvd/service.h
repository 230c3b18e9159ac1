#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string_view>

#include "kvd/auth/authenticator.h"
#include "kvd/cors.h"
#include "kvd/routes.h"
#include "kvd/watch_stream.h"

namespace kvd {

class Gate;

// What a listener serves. A session asks judge() as soon as it has the head, reads the body the verdict allows, then
// hands over to handle(). Threads: any.
class Service {
public:
    using Done = std::function<void(HttpResponse)>;

    struct Verdict {
        std::size_t operation = 0;           // index into Metrics
        std::optional<HttpResponse> answer;  // all there is to say; handle() and refuse() must not follow
        std::optional<kv::Error> refusal;    // to be given to refuse()
        RouteMatch match;
        kv::Actor actor;
        Identity identity;        // the ground for it, where one was needed and is good
        bool is_open = false;     // who asks is not known yet: resolve() comes first
        std::chrono::milliseconds wait{0};  // before it is acted upon
        std::string cors_origin;  // whose pages may read the answer
        bool has_body = false;    // may have one
        bool needs_body = false;  // and must say how long it is
        std::size_t body_bytes_max = 0;
    };

    virtual ~Service();
    // `request` lacks its body still.
    virtual Verdict judge(const HttpRequest& request, const Presented& presented) = 0;
    // For a verdict that is open: calls `done` once, from any thread, perhaps before it returns, with one that is not.
    virtual void resolve(Verdict verdict, std::function<void(Verdict)> done) = 0;
    // Both call `done` once, from any thread, perhaps before they return.
    virtual void handle(Verdict&& verdict, HttpRequest&& request, Done done) = 0;
    virtual void refuse(Verdict verdict, const HttpRequest& request, kv::Error error, Done done) = 0;
};

// /healthz and /readyz, which both listeners have.
class Health {
public:
    using Ready = std::function<kv::Result<void>()>;

    explicit Health(Ready ready) : ready_(std::move(ready)) {}
    std::optional<HttpResponse> answer(const HttpRequest& request) const;
    kv::Result<void> ready() const { return ready_(); }

private:
    Ready ready_;
};

// The API: routes behind credentials, and health. Borrows everything.
class ApiService final : public Service {
public:
    ApiService(Router& router, Gate& gate, const Health& health, const Limits& limits, const WatchPace& pace = {}, Cors cors = {});

    Verdict judge(const HttpRequest& request, const Presented& presented) override;
    void resolve(Verdict verdict, std::function<void(Verdict)> done) override;
    void handle(Verdict&& verdict, HttpRequest&& request, Done done) override;
    void refuse(Verdict verdict, const HttpRequest& request, kv::Error error, Done done) override;

private:
    Router& router_;
    Gate& gate_;
    const Health& health_;
    Limits limits_;
    WatchPace pace_;
    const Cors cors_;
};

// What every listener does with a request for one of its routes: finds the route, and who asks.
Service::Verdict judge_route(ListenerKind listener, const HttpRequest& request, const Presented& presented,
                             Gate& gate, const Limits& limits);
// A method that a resource without a row in the table does not take.
HttpResponse method_not_allowed(const HttpRequest& request, std::string allow);

}  // namespace kvd
