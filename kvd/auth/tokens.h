#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/clock.h"
#include "kv/secret.h"
#include "kv/types.h"

namespace kv::json {
struct Node;
}

namespace kvd {

using kv::TokenHash;  // the token itself is kept nowhere

TokenHash hash_token(std::string_view token);

// For tables by it.
struct HashOfHash {
    std::size_t operator()(const TokenHash& hash) const noexcept;
};

// Whom a token stands for.
struct Credential {
    std::string user_id;
    std::string credential_id;  // "token:" and the first 12 hex digits of the hash, or "root"
    std::optional<kv::Time> expires_at;
    // Shared because requests under way outlive a reload.
    std::shared_ptr<const std::vector<kv::Grant>> grants;
};

// Every credential there is, by hash.
class TokenTable {
public:
    // Reads the text of a tokens file. Errors name the place ("tokens[3].grants[0].keys") and what is wrong with it.
    static kv::Result<TokenTable> parse(std::string_view json);

    // A token with every permission everywhere.
    void add_root(const TokenHash& hash);

    // Empty if nobody has this token, or it has expired.
    const Credential* find(const TokenHash& hash, kv::Time now) const;
    // The same by the name of a certificate.
    const Credential* find_certificate(const std::string& name, kv::Time now) const;
    std::size_t usable(kv::Time now) const;
    std::size_t size() const noexcept { return credentials_.size() + certificates_.size(); }

private:
    kv::Result<void> add(const kv::json::Node& node, const std::string& where);

    std::unordered_map<TokenHash, Credential, HashOfHash> credentials_;
    std::unordered_map<std::string, Credential> certificates_;  // by name
};

// TokenStore holds the table in use and reads it again on request. Threads: any.
class TokenStore {
public:
    struct Source {
        std::string path;  // of the tokens file; empty: none
        std::optional<TokenHash> root_token;
    };
    static kv::Result<std::unique_ptr<TokenStore>> open(Source source);

    // Sets user, credential and grants; false if the token is not known or has expired.
    bool identify(const TokenHash& hash, kv::Actor& actor) const;
    bool identify(std::string_view token, kv::Actor& actor) const { return identify(hash_token(token), actor); }
    // The same by the name of a client's certificate, which was verified: "DNS:worker-7.example".
    bool identify_certificate(const std::string& name, kv::Actor& actor) const;
    // A file that does not read leaves everything as it was.
    kv::Result<void> reload();
    std::size_t usable() const;

private:
    explicit TokenStore(Source source) : source_(std::move(source)) {}
    kv::Result<TokenTable> read() const;

    Source source_;
    mutable std::shared_mutex mutex_;
    TokenTable table_;
};

// ---- for `kvd token` ----

// A new token: 256 random bits.
kv::SecretBytes generate_token();
// A grant as the command line gives it: "*", a JSON object as in the tokens file, or
// "permissions=kv-entry:read,kv-entry:write;applicationId=app-1;namespaceId=app-1~production;keys=config/**". What the last
// form leaves out is "*". Gives the JSON object.
kv::Result<std::string> parse_grant(std::string_view text);
// One element of the tokens file. `grants` are JSON objects; `expires_at` is RFC 3339 or empty.
std::string token_line(std::string_view user_id, const TokenHash& hash, std::string_view expires_at,
                       const std::vector<std::string>& grants);
// The same for whoever shows a certificate of that name.
std::string certificate_line(std::string_view user_id, std::string_view name, std::string_view expires_at,
                             const std::vector<std::string>& grants);

}  // namespace kvd
