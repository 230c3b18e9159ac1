#pragma once
#include <cstdint>
#include <memory>

#include "kv/result.h"
#include "kv/secret.h"
#include "kvd/auth/authenticator.h"
#include "kvd/auth/fetcher.h"
#include "kvd/auth/permission_service.h"

namespace kvd {

class Log;
struct Settings;

// IdentitySources owns what tells who asks, as far as there are settings for it, and the authenticator over it.
//
// Threads: any, but for reload() and stop(). Borrows the tokens and the log.
class IdentitySources {
public:
    struct Secrets {
        kv::SecretBytes permissions_token;
    };
    // `settings` were checked.
    IdentitySources(const Settings& settings, Secrets secrets, TokenStore& tokens, Log& log);
    ~IdentitySources();
    IdentitySources(const IdentitySources&) = delete;
    IdentitySources& operator=(const IdentitySources&) = delete;

    const Authenticator& authenticator() const noexcept { return authenticator_; }
    // Whether anybody can log in by other means than the tokens file.
    static bool has_others(const Settings& settings);

    struct Stats {
        std::optional<PermissionService::Stats> permissions;  // empty: nobody is asked
    };
    Stats stats() const;

    // Nobody is asked any more, and what was under way has failed. Before what those who wait for it use goes.
    void stop();

private:
    std::unique_ptr<Fetcher> fetcher_;                 // null: nobody is asked for anything
    std::unique_ptr<PermissionService> permissions_;  // null: nobody is asked what was granted
    Authenticator authenticator_;
};

}  // namespace kvd
