#include "kvd/gate.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kvd/metrics.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;

constexpr std::string_view unix_address = "unix";
// Within a second of what one may ask in it.
constexpr std::size_t burst_seconds = 2;
// People mistype, and programs are restarted with an old token, many at a time.
constexpr std::size_t failed_login_burst_seconds = 10;

}  // namespace

Gate::Gate(const Authenticator& authenticator, const Limits& limits, Metrics& metrics, TrustedProxies proxies)
    : authenticator_(authenticator),
      failed_login_wait_(limits.failed_login_wait),
      metrics_(metrics),
      proxies_(std::move(proxies)),
      callers_(limits.requests_per_caller, limits.requests_per_caller * burst_seconds),
      addresses_(limits.requests_per_address, limits.requests_per_address * burst_seconds),
      failed_logins_(limits.failed_logins, limits.failed_logins * failed_login_burst_seconds) {}

void Gate::judge(const Presented& presented, Service::Verdict& verdict) {
    Authenticator::Finding finding;
    finding.actor = std::move(verdict.actor);
    finding.actor.peer = proxies_.address_of(presented);
    // Whoever comes through a Unix socket has no address, unless a proxy tells one.
    if (finding.actor.peer != unix_address && !addresses_.admit(finding.actor.peer)) {
        metrics_.rate_limited.fetch_add(1, std::memory_order_relaxed);
        verdict.actor = std::move(finding.actor);
        verdict.refusal = Error{Errc::rate_limited, "too many requests from this address"};
        return;
    }
    authenticator_.identify(presented, finding);
    if (!finding.is_open) return settle(std::move(finding), verdict);
    verdict.actor = std::move(finding.actor);
    verdict.identity = std::move(finding.identity);
    verdict.is_open = true;
}

void Gate::resolve(Service::Verdict verdict, std::function<void(Service::Verdict)> done) {
    Authenticator::Finding finding{std::move(verdict.actor), std::move(verdict.identity), std::nullopt, true};
    // Shared because std::function copies what it holds.
    auto kept = std::make_shared<Service::Verdict>(std::move(verdict));
    authenticator_.resolve(std::move(finding), [this, kept, done = std::move(done)](Authenticator::Finding found) {
        settle(std::move(found), *kept);
        done(std::move(*kept));
    });
}

void Gate::settle(Authenticator::Finding finding, Service::Verdict& verdict) {
    verdict.actor = std::move(finding.actor);
    verdict.identity = std::move(finding.identity);
    verdict.refusal = std::move(finding.refusal);
    verdict.is_open = false;
    if (verdict.refusal && verdict.refusal->code == Errc::unauthenticated) {
        metrics_.failed_logins.fetch_add(1, std::memory_order_relaxed);
        if (!failed_logins_.admit(verdict.actor.peer)) verdict.wait = failed_login_wait_;
        return;
    }
    if (verdict.refusal || !callers_.is_on()) return;
    if (callers_.admit(verdict.actor.credential_id + ' ' + verdict.actor.user_id)) return;
    metrics_.rate_limited.fetch_add(1, std::memory_order_relaxed);
    verdict.refusal = Error{Errc::rate_limited, "too many requests with this credential"};
}

}  // namespace kvd
