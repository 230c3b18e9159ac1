#pragma once
#include <memory>
#include <optional>

#include "kv/store.h"
#include "kvd/auth/authenticator.h"
#include "kvd/auth/fetcher.h"
#include "kvd/auth/jwt.h"
#include "kvd/auth/key_source.h"
#include "kvd/auth/permission_service.h"
#include "kvd/auth/stored_tokens.h"

namespace kvd {

class Log;
struct Settings;

// IdentitySources owns what tells who asks, as far as there are settings for it, and the authenticator over it.
//
// Threads: any, but for reload(), tick() and stop(). Borrows the tokens, the store and the log.
class IdentitySources {
public:
    struct Secrets {
        kv::SecretBytes permissions_token;          // empty: none is shown
        std::shared_ptr<const Jwks> jwt_secret = {};  // the one key of HS256; null: none
    };
    // `settings` were checked. May wait for a key set for some seconds.
    IdentitySources(const Settings& settings, Secrets secrets, TokenStore& tokens, kv::Store& store, Log& log);
    ~IdentitySources();
    IdentitySources(const IdentitySources&) = delete;
    IdentitySources& operator=(const IdentitySources&) = delete;

    const Authenticator& authenticator() const noexcept { return *authenticator_; }
    // Whether anybody can log in by other means than the tokens file and the store's tokens.
    static bool has_others(const Settings& settings);

    struct Stats {
        std::optional<PermissionService::Stats> permissions;  // empty: nobody is asked
        std::optional<KeySource::Stats> keys;                 // empty: there is no key set
    };
    Stats stats() const;

    // Reads again what comes from elsewhere: on SIGHUP.
    void reload();
    // The same every few minutes, and of what is missing every second.
    void tick();
    // Nobody is asked any more, and what was under way has failed. Before what those who wait for it use goes.
    void stop();

private:
    std::unique_ptr<Fetcher> fetcher_;  // null: nobody is asked for anything
    std::unique_ptr<PermissionService> permissions_;  // null: nobody is asked what was granted
    std::unique_ptr<JwtVerifier> jwt_;                // null: JWTs are not taken
    std::unique_ptr<KeySource> keys_;                 // null: there is no key set
    std::unique_ptr<StoredTokens> stored_;
    std::unique_ptr<Authenticator> authenticator_;
    std::chrono::steady_clock::time_point refresh_due_;
};

}  // namespace kvd
