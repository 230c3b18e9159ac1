#pragma once
#include <memory>
#include <optional>
#include <string>

#include "kv/keys.h"
#include "kvd/amqp_settings.h"
#include "kvd/auth/jwks.h"
#include "kvd/auth/tokens.h"
#include "kvd/config.h"
#include "kvd/tls.h"

namespace kvd {

// What `kvd serve` needs besides settings: never printed, never logged.
struct ServeSecrets {
    std::shared_ptr<kv::KeyProvider> keys;           // shared with the store it opens
    std::shared_ptr<kv::KeyProvider> previous_keys;  // null: there are none
    std::unique_ptr<TokenStore> tokens;
    kv::SecretBytes dev_token;  // made up for --dev; empty otherwise
    bool needs_stored_token = false;  // nobody could log in but with a token that the store made
    std::shared_ptr<const Jwks> jwt_secret;  // the key of HS256; null: none
    kv::SecretBytes permissions_token;  // to be shown to the permission service; empty: none
    std::unique_ptr<Tls> tls;           // null: the API speaks plain HTTP
    std::optional<AmqpSettings> amqp;  // with its password; empty: no events are sent
};

// Reads key and tokens, or says what is missing and what to do about it.
kv::Result<ServeSecrets> load_secrets(const Settings& settings, SecretVariables variables);

// The master key, for a tool.
kv::Result<std::shared_ptr<kv::KeyProvider>> load_master_key(const SecretVariables& variables);
// The one before, while it is being changed; null if none is given.
kv::Result<std::shared_ptr<kv::KeyProvider>> load_previous_key(const SecretVariables& variables);

// Each gives the exit code.
int run_keygen(const Command& command);
int run_token(const Command& command);

}  // namespace kvd
