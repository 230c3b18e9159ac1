#include "kvd/auth/authenticator.h"

#include <chrono>
#include <utility>

#include "kvd/auth/grants.h"
#include "kvd/auth/jwt.h"
#include "kvd/auth/permission_service.h"
#include "kvd/auth/stored_tokens.h"
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

Error unknown_token() { return {Errc::unauthenticated, "the token is unknown or has expired"}; }

kv::Time now() { return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()); }

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
    if (parts_.jwt != nullptr && JwtVerifier::is_jwt(token)) return identify_jwt(token, finding);
    if (parts_.tokens->identify(finding.identity.hash, finding.actor)) return;
    if (parts_.stored != nullptr && StoredTokens::is_stored(token)) return identify_stored(finding);
    finding.refusal = unknown_token();
}

void Authenticator::identify_jwt(std::string_view token, Finding& finding) const {
    finding.identity.source = Identity::Source::jwt;
    auto verified = parts_.jwt->verify(token, finding.identity.hash, now());
    if (!verified) {
        finding.refusal = std::move(verified).error();
        return;
    }
    finding.identity.claims = *verified;
    const JwtClaims& claims = **verified;
    finding.actor.user_id = claims.user_id;
    finding.actor.credential_id = claims.credential_id;
    finding.actor.application_id = claims.application_id;
    finding.actor.grants = claims.grants;
    if (claims.says_grants || parts_.permissions == nullptr) return;
    finding.identity.user_id = claims.user_id;
    finding.identity.application_id = claims.application_id;
    find_grants(finding);
}

void Authenticator::identify_stored(Finding& finding) const {
    finding.identity.source = Identity::Source::stored_token;
    switch (parts_.stored->find(finding.identity.hash, finding.actor)) {
        case StoredTokens::State::present: return;
        case StoredTokens::State::absent: finding.refusal = unknown_token(); return;
        case StoredTokens::State::unknown: finding.is_open = true;
    }
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
    if (finding.identity.source == Identity::Source::stored_token) {
        const TokenHash hash = finding.identity.hash;
        return parts_.stored->ask(hash, [this, finding = std::move(finding), done = std::move(done)](kv::Result<void> asked) mutable {
            if (!asked) finding.refusal = std::move(asked).error();
            else if (parts_.stored->find(finding.identity.hash, finding.actor) != StoredTokens::State::present) finding.refusal = unknown_token();
            done(std::move(finding));
        });
    }
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
        case Identity::Source::stored_token:
            return review_stored(identity, actor);
        case Identity::Source::jwt:
            return review_jwt(identity, actor);
        case Identity::Source::none:
            break;
    }
    return Verdict::gone;
}

Authenticator::Verdict Authenticator::review_jwt(const Identity& identity, kv::Actor& actor) const {
    const auto& claims = identity.claims;
    if (!parts_.jwt->holds(*claims, now())) return Verdict::gone;
    actor.user_id = claims->user_id;
    actor.grants = identity.user_id.empty() ? claims->grants : parts_.permissions->follow(identity.user_id, identity.application_id);
    return actor.grants ? Verdict::valid : Verdict::gone;
}

// It is in use, so that it is asked about again and again: not to be known means that nobody could say.
Authenticator::Verdict Authenticator::review_stored(const Identity& identity, kv::Actor& actor) const {
    return parts_.stored->find(identity.hash, actor) == StoredTokens::State::present ? Verdict::valid : Verdict::gone;
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
