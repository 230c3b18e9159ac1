#include "kvd/auth/authenticator.h"

#include <utility>

#include "kvd/auth/grants.h"
#include "kvd/auth/permission_service.h"
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
    auto user = parts_.gateway.judge(presented);
    if (!user) {
        finding.refusal = std::move(user).error();
        return;
    }
    if (*user) return identify_user(**std::move(user), finding);
    if (presented.authorization.empty() && identify_certificate(*presented.peer, finding)) return;
    const std::string_view token = bearer_token(presented.authorization);
    if (token.empty()) {
        finding.refusal = Error{Errc::unauthenticated, "a bearer token is needed: Authorization: Bearer TOKEN"};
        return;
    }
    identify_token(token, finding);
}

void Authenticator::identify_user(GatewayUser user, Finding& finding) const {
    finding.identity.source = Identity::Source::gateway;
    finding.identity.user_id = std::move(user.user_id);
    finding.identity.application_id = std::move(user.application_id);
    finding.actor.user_id = finding.identity.user_id;
    finding.actor.credential_id = "gateway";
    find_grants(finding);
}

void Authenticator::identify_token(std::string_view token, Finding& finding) const {
    finding.identity.source = Identity::Source::token;
    finding.identity.hash = hash_token(token);
    if (!parts_.tokens->identify(finding.identity.hash, finding.actor))
        finding.refusal = Error{Errc::unauthenticated, "the token is unknown or has expired"};
}

// The first of its names that the tokens file knows.
bool Authenticator::identify_certificate(const Peer& peer, Finding& finding) const {
    for (const std::string& name : peer.names) {
        if (!parts_.tokens->identify_certificate(name, finding.actor)) continue;
        finding.identity.source = Identity::Source::certificate;
        finding.identity.user_id = name;
        return true;
    }
    return false;
}

void Authenticator::find_grants(Finding& finding) const {
    finding.actor.application_id = finding.identity.application_id;
    finding.actor.grants = parts_.permissions->find(finding.identity.user_id, finding.identity.application_id);
    finding.is_open = !finding.actor.grants;
}

void Authenticator::resolve(Finding finding, std::function<void(Finding)> done) const {
    finding.is_open = false;
    const Identity& identity = finding.identity;
    const std::string user_id = identity.user_id, application_id = identity.application_id;
    parts_.permissions->ask(user_id, application_id, [finding = std::move(finding), done = std::move(done)](auto grants) mutable {
        if (grants) finding.actor.grants = *std::move(grants);
        else finding.refusal = std::move(grants).error();
        done(std::move(finding));
    });
}

Authenticator::Verdict Authenticator::review(const Identity& identity, kv::Actor& actor) const {
    switch (identity.source) {
        case Identity::Source::token:
            return parts_.tokens->identify(identity.hash, actor) ? Verdict::valid : Verdict::gone;
        case Identity::Source::certificate:
            return parts_.tokens->identify_certificate(identity.user_id, actor) ? Verdict::valid : Verdict::gone;
        case Identity::Source::gateway:
            actor.user_id = identity.user_id;
            actor.grants = parts_.permissions->follow(identity.user_id, identity.application_id);
            return actor.grants ? Verdict::valid : Verdict::gone;
        default:
            return Verdict::gone;
    }
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
