#include "kvd/auth/sources.h"

#include <utility>

#include "kvd/config.h"
#include "kvd/log.h"

namespace kvd {
namespace {

std::unique_ptr<Fetcher> make_fetcher(const Settings& settings) {
    if (settings.permissions_url.empty()) return nullptr;
    Fetcher::Options options;
    options.ca_file = settings.services_ca;
    return std::make_unique<Fetcher>(std::move(options));
}

std::unique_ptr<PermissionService> make_permissions(const Settings& settings, kv::SecretBytes token, Fetcher* fetcher) {
    if (settings.permissions_url.empty()) return nullptr;
    PermissionService::Options options;
    options.url = settings.permissions_url;
    options.token = std::move(token);
    return std::make_unique<PermissionService>(std::move(options), *fetcher);
}

}  // namespace

IdentitySources::IdentitySources(const Settings& settings, Secrets secrets, TokenStore& tokens, Log&)
    : fetcher_(make_fetcher(settings)),
      permissions_(make_permissions(settings, std::move(secrets.permissions_token), fetcher_.get())),
      authenticator_({.tokens = &tokens,
                      .gateway = Gateway(settings.gateway_identity, split_list(settings.gateway_names)),
                      .permissions = permissions_.get()}) {}

IdentitySources::~IdentitySources() { stop(); }

bool IdentitySources::has_others(const Settings& settings) { return settings.gateway_identity || !settings.jwt_jwks.empty() || !settings.jwt_secret_file.empty(); }

IdentitySources::Stats IdentitySources::stats() const {
    Stats stats;
    if (permissions_) stats.permissions = permissions_->stats();
    return stats;
}

void IdentitySources::stop() {
    if (fetcher_) fetcher_->stop();
}

}  // namespace kvd
