#include "kvd/auth/sources.h"

#include <chrono>
#include <utility>

#include "kvd/config.h"
#include "kvd/log.h"

namespace kvd {
namespace {

constexpr std::chrono::minutes refresh_each(5);

bool needs_fetcher(const Settings& settings) { return !settings.permissions_url.empty() || KeySource::is_url(settings.jwt_jwks); }

JwtRules rules_of(const Settings& settings) {
    JwtRules rules;
    rules.issuer = settings.jwt_issuer;
    rules.audience = settings.jwt_audience;
    rules.permissions_claim = settings.jwt_permissions_claim;
    rules.grants_claim = settings.jwt_grants_claim;
    rules.application_claim = settings.jwt_application_claim;
    return rules;
}

}  // namespace

IdentitySources::IdentitySources(const Settings& settings, Secrets secrets, TokenStore& tokens, kv::Store& store, Log& log)
    : stored_(std::make_unique<StoredTokens>(store)), refresh_due_(std::chrono::steady_clock::now() + refresh_each) {
    if (needs_fetcher(settings)) {
        Fetcher::Options options;
        options.ca_file = settings.services_ca;
        fetcher_ = std::make_unique<Fetcher>(std::move(options));
    }
    if (!settings.permissions_url.empty()) {
        PermissionService::Options options;
        options.url = settings.permissions_url;
        options.token = std::move(secrets.permissions_token);
        permissions_ = std::make_unique<PermissionService>(std::move(options), *fetcher_);
    }
    if (secrets.jwt_secret || !settings.jwt_jwks.empty()) jwt_ = std::make_unique<JwtVerifier>(rules_of(settings));
    if (secrets.jwt_secret) jwt_->replace(std::move(secrets.jwt_secret));
    if (!settings.jwt_jwks.empty()) {
        keys_ = std::make_unique<KeySource>(settings.jwt_jwks, KeySource::is_url(settings.jwt_jwks) ? fetcher_.get() : nullptr, *jwt_, log);
        keys_->open();
    }
    authenticator_ = std::make_unique<Authenticator>(Authenticator::Parts{.tokens = &tokens,
                                                                          .gateway = Gateway(settings.gateway_identity, split_list(settings.gateway_names)),
                                                                          .permissions = permissions_.get(),
                                                                          .jwt = jwt_.get(),
                                                                          .stored = stored_.get()});
}

IdentitySources::~IdentitySources() { stop(); }

bool IdentitySources::has_others(const Settings& settings) {
    return settings.gateway_identity || !settings.jwt_jwks.empty() || !settings.jwt_secret_file.empty();
}

IdentitySources::Stats IdentitySources::stats() const {
    Stats stats;
    if (permissions_) stats.permissions = permissions_->stats();
    if (keys_) stats.keys = keys_->stats();
    return stats;
}

void IdentitySources::reload() {
    if (keys_) keys_->refresh();
}

void IdentitySources::tick() {
    if (!keys_) return;
    const auto now = std::chrono::steady_clock::now();
    if (now < refresh_due_) return keys_->refresh_if_needed();
    refresh_due_ = now + refresh_each;
    keys_->refresh();
}

void IdentitySources::stop() {
    if (fetcher_) fetcher_->stop();
    stored_->stop();
}

}  // namespace kvd
