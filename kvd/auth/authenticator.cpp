#include "kvd/auth/authenticator.h"

#include <utility>

#include "kvd/auth/grants.h"
#include "kvd/framing.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;

// RFC 6750: the scheme in any case, one space or more, the token. Empty: there is none.
std::string_view bearer_token(std::string_view authorization) {
    constexpr std::string_view scheme = "bearer ";
    if (!equals_ignoring_case(authorization.substr(0, scheme.size()), scheme)) return {};
    authorization.remove_prefix(scheme.size());
    while (!authorization.empty() && authorization.front() == ' ') authorization.remove_prefix(1);
    return authorization;
}

}  // namespace

void Authenticator::identify(const Presented& presented, Finding& finding) const {
    const std::string_view token = bearer_token(presented.authorization);
    if (token.empty()) {
        finding.refusal = Error{Errc::unauthenticated, "a bearer token is needed: Authorization: Bearer TOKEN"};
        return;
    }
    finding.identity.source = Identity::Source::token;
    finding.identity.hash = hash_token(token);
    if (!parts_.tokens->identify(finding.identity.hash, finding.actor))
        finding.refusal = Error{Errc::unauthenticated, "the token is unknown or has expired"};
}

void Authenticator::resolve(Finding finding, std::function<void(Finding)> done) const {
    finding.is_open = false;
    done(std::move(finding));
}

Authenticator::Verdict Authenticator::review(const Identity& identity, kv::Actor& actor) const {
    return parts_.tokens->identify(identity.hash, actor) ? Verdict::valid : Verdict::gone;
}

Standing::Standing(const Authenticator& authenticator, Identity identity, const kv::Actor& actor)
    : authenticator_(authenticator), identity_(std::move(identity)), user_id_(actor.user_id), grants_(actor.grants) {}

Standing::Verdict Standing::judge() {
    kv::Actor actor;
    if (authenticator_.review(identity_, actor) == Authenticator::Verdict::gone) return Verdict::gone;
    if (actor.grants != grants_) {
        if (actor.user_id != user_id_ || !are_equal(*actor.grants, *grants_)) return Verdict::changed;
        grants_ = actor.grants;  // what they come from was read again: they are told apart only once
    }
    return Verdict::valid;
}

}  // namespace kvd
