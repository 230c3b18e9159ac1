#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/result.h"
#include "kv/types.h"
#include "kvd/auth/gateway.h"
#include "kvd/auth/identity.h"

namespace kvd {

class JwtVerifier;
class PermissionService;
class StoredTokens;

// Authenticator finds out who asks and what they were granted, from whatever sources there are: a gateway's word for it, the
// token (a JWT, of the tokens file, of the store), the client's certificate, in this order.
//
// Threads: any. Borrows its parts.
class Authenticator {
public:
    struct Parts {
        const TokenStore* tokens = nullptr;        // never null
        Gateway gateway = Gateway();
        PermissionService* permissions = nullptr;  // null: nobody is asked what was granted
        JwtVerifier* jwt = nullptr;                // null: JWTs are not taken
        StoredTokens* stored = nullptr;            // null: the store has no tokens
    };
    // What is known of who asks. Neither refused nor open: `actor` has user, credential and grants.
    struct Finding {
        kv::Actor actor;
        Identity identity;
        std::optional<kv::Error> refusal;
        bool is_open = false;  // it must be asked for: resolve()
    };

    explicit Authenticator(Parts parts) : parts_(std::move(parts)) {}

    // Judges without waiting. `finding.actor` has peer and request id already.
    void identify(const Presented& presented, Finding& finding) const;
    // For what is open: calls `done` once, from any thread, perhaps before it returns, with a finding that is not.
    void resolve(Finding finding, std::function<void(Finding)> done) const;

    enum class Verdict : std::uint8_t { valid, gone };
    // Whether an identity that was let in still stands; sets `actor` as identify() would now. Where that must be asked for, the
    // last answer counts as long as it may be kept.
    Verdict review(const Identity& identity, kv::Actor& actor) const;

private:
    void identify_user(GatewayUser user, Finding& finding) const;
    void identify_token(std::string_view token, Finding& finding) const;
    bool identify_certificate(const Peer& peer, Finding& finding) const;
    void identify_jwt(std::string_view token, Finding& finding) const;
    void identify_stored(Finding& finding) const;
    Verdict review_stored(const Identity& identity, kv::Actor& actor) const;
    Verdict review_jwt(const Identity& identity, kv::Actor& actor) const;
    void find_grants(Finding& finding) const;

    const Parts parts_;
};

// Standing is what a request was let in by, for an answer that goes on: it may be taken away meanwhile. Borrows the
// authenticator. Threads: one at a time.
class Standing {
public:
    enum class Verdict : std::uint8_t { valid, gone, changed };

    // `actor` as it was found.
    Standing(const Authenticator& authenticator, Identity identity, const kv::Actor& actor);
    // `gone`: the credential is not known any more, or has expired. `changed`: it stands for another user, or has other grants.
    Verdict judge();

private:
    const Authenticator& authenticator_;
    Identity identity_;
    std::string user_id_;
    std::shared_ptr<const std::vector<kv::Grant>> grants_;
};

}  // namespace kvd
