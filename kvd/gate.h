#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <string_view>

#include "kvd/auth/gateway.h"
#include "kvd/limiter.h"
#include "kvd/service.h"

namespace kvd {

class Metrics;

// Gate judges who gets in before anything of a request but its head is read: who asks (Authenticator), and whether they ask too
// often. What it refuses is recorded like every denial.
//
// Threads: any. Borrows the authenticator and the metrics.
class Gate {
public:
    struct Limits {
        std::size_t requests_per_caller = 0;   // a second, of one credential; 0: no limit
        std::size_t requests_per_address = 0;  // a second, of one address
        std::size_t failed_logins = 10;        // a second, of one address: further ones are answered late. 0: never
        std::chrono::milliseconds failed_login_wait = std::chrono::seconds(1);
    };

    Gate(const Authenticator& authenticator, const Limits& limits, Metrics& metrics, TrustedProxies proxies = {});

    // `verdict` has its route, and of its actor the request's id; it gets the rest.
    void judge(const Presented& presented, Service::Verdict& verdict);
    // What is open is found out: calls `done` once, from any thread, perhaps before it returns.
    void resolve(Service::Verdict verdict, std::function<void(Service::Verdict)> done);
    const Authenticator& authenticator() const noexcept { return authenticator_; }

private:
    void settle(Authenticator::Finding finding, Service::Verdict& verdict);

    const Authenticator& authenticator_;
    const std::chrono::milliseconds failed_login_wait_;
    Metrics& metrics_;
    const TrustedProxies proxies_;
    RateLimiter callers_;
    RateLimiter addresses_;
    RateLimiter failed_logins_;
};

}  // namespace kvd
