#include "kvd/auth/tokens.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <utility>

#include "json/json.h"
#include "kvd/auth/gateway.h"
#include "kvd/auth/grants.h"
#include "kvd/files.h"
#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;

kv::Time now() { return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()); }

Result<TokenHash> read_hash(const Node& node, const std::string& where) {
    const auto bytes = node.kind == Kind::string ? kv::hex_decode(node.text) : std::nullopt;
    TokenHash hash;
    if (!bytes || bytes->size() != hash.size()) return wrong(where, "must be the 64 hex digits of a SHA-256");
    std::memcpy(hash.data(), bytes->reveal().data(), hash.size());
    return hash;
}

std::string credential_id(const TokenHash& hash) {
    constexpr std::size_t bytes_shown = 6;
    return "token:" + kv::hex_encode({reinterpret_cast<const char*>(hash.data()), bytes_shown});
}

// What a certificate is called in the tokens file: with its kind, as Peer::names has it.
Result<std::string> read_certificate_name(const Node& node, const std::string& where) {
    KV_TRY(std::string name, read_identifier(node, where));
    if (is_certificate_name(name)) return name;
    return wrong(where, "must be a subject alternative name like DNS:worker-7.example, URI:spiffe://example/worker or IP:10.0.0.7");
}

Result<Credential> read_credential(const Node& node, const std::string& where) {
    Credential credential;
    KV_TRY(credential.user_id, read_identifier(*node.find("userId"), where + ".userId"));
    if (const Node* expires = node.find("expiresAt"); expires != nullptr && expires->kind != Kind::null) {
        credential.expires_at = expires->kind == Kind::string ? kv::parse_time(expires->text) : std::nullopt;
        if (!credential.expires_at) return wrong(where + ".expiresAt", "must be an RFC 3339 time");
    }
    KV_TRY(Grants grants, read_grants(*node.find("grants"), where + ".grants"));
    credential.grants = std::make_shared<const Grants>(std::move(grants));
    return credential;
}

void identify_as(const Credential& credential, kv::Actor& actor) {
    actor.user_id = credential.user_id;
    actor.credential_id = credential.credential_id;
    actor.grants = credential.grants;
}

std::string line_of(std::string_view user_id, std::string_view member, std::string_view value, std::string_view expires_at,
                    const std::vector<std::string>& grants) {
    kv::json::Writer out;
    out.begin_object();
    out.member("userId", user_id);
    out.member(member, value);
    if (!expires_at.empty()) out.member("expiresAt", expires_at);
    out.key("grants");
    out.begin_array();
    for (const std::string& grant : grants) out.raw(grant);
    out.end_array();
    out.end_object();
    return out.take();
}

void write_list(kv::json::Writer& out, std::string_view name, std::string_view items) {
    out.key(name);
    out.begin_array();
    while (!items.empty()) {
        const std::size_t comma = std::min(items.find(','), items.size());
        out.string(items.substr(0, comma));
        items.remove_prefix(std::min(comma + 1, items.size()));
    }
    out.end_array();
}

// "name=value;name=value" as a JSON grant.
Result<std::string> grant_of_pairs(std::string_view text) {
    std::string_view permissions, application = "*", ns = "*", keys = "*";
    while (!text.empty()) {
        const std::string_view pair = text.substr(0, text.find(';'));
        text.remove_prefix(std::min(pair.size() + 1, text.size()));
        const std::size_t equals = pair.find('=');
        const std::string_view name = pair.substr(0, equals);
        const std::string_view value = equals == std::string_view::npos ? "" : pair.substr(equals + 1);
        if (name == "permissions")
            permissions = value;
        else if (name == "applicationId")
            application = value;
        else if (name == "namespaceId")
            ns = value;
        else if (name == "keys")
            keys = value;
        else
            return wrong("--grant", "unknown member \"" + std::string(name) + "\"");
    }
    kv::json::Writer out;
    out.begin_object();
    write_list(out, "permissions", permissions);
    out.member("applicationId", application);
    out.member("namespaceId", ns);
    write_list(out, "keys", keys);
    out.end_object();
    return out.take();
}

}  // namespace

TokenHash hash_token(std::string_view token) {
    // Looked up once: EVP_sha256() alone would make OpenSSL search its providers for every request.
    static EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    TokenHash hash{};
    unsigned size = 0;
    if (sha256 == nullptr || EVP_Digest(token.data(), token.size(), hash.data(), &size, sha256, nullptr) != 1 ||
        size != hash.size())
        kv::throw_exception(Error{Errc::internal, "SHA-256 is not available"});
    return hash;
}

std::size_t HashOfHash::operator()(const TokenHash& hash) const noexcept {
    std::size_t value = 0;
    std::memcpy(&value, hash.data(), sizeof value);
    return value;
}

Result<TokenTable> TokenTable::parse(std::string_view json) {
    KV_TRY(const Node document, kv::json::parse(json));
    if (document.kind != Kind::array) return wrong("tokens", "the file must hold one JSON array");
    TokenTable table;
    for (std::size_t i = 0; i < document.items.size(); ++i) {
        const std::string where = "tokens[" + std::to_string(i) + "]";
        KV_CHECK(table.add(document.items[i], where));
    }
    return table;
}

Result<void> TokenTable::add(const Node& node, const std::string& where) {
    const bool is_certificate = node.find("certificateName") != nullptr;
    const std::string_view member = is_certificate ? "certificateName" : "tokenSha256";
    KV_CHECK(check_members(node, where, {"userId", member, "grants"}, {"expiresAt"}));
    const std::string place = where + "." + std::string(member);
    KV_TRY(Credential credential, read_credential(node, where));
    bool is_new = false;
    if (is_certificate) {
        KV_TRY(const std::string name, read_certificate_name(*node.find(member), place));
        credential.credential_id = "cert:" + name;
        is_new = certificates_.emplace(name, std::move(credential)).second;
    } else {
        KV_TRY(const TokenHash hash, read_hash(*node.find(member), place));
        credential.credential_id = credential_id(hash);
        is_new = credentials_.emplace(hash, std::move(credential)).second;
    }
    if (!is_new) return wrong(place, "stands in the file twice");
    return {};
}

void TokenTable::add_root(const TokenHash& hash) {
    Credential root{.user_id = "root", .credential_id = "root", .expires_at = {}, .grants = {}};
    root.grants = std::make_shared<const std::vector<kv::Grant>>(1, kv::Grant{.permissions = kv::PermissionSet::all()});
    credentials_.insert_or_assign(hash, std::move(root));
}

const Credential* TokenTable::find(const TokenHash& hash, kv::Time at) const {
    const auto found = credentials_.find(hash);
    if (found == credentials_.end()) return nullptr;
    const Credential& credential = found->second;
    return credential.expires_at && *credential.expires_at <= at ? nullptr : &credential;
}

const Credential* TokenTable::find_certificate(const std::string& name, kv::Time at) const {
    const auto found = certificates_.find(name);
    if (found == certificates_.end()) return nullptr;
    const Credential& credential = found->second;
    return credential.expires_at && *credential.expires_at <= at ? nullptr : &credential;
}

std::size_t TokenTable::usable(kv::Time at) const {
    const auto is_usable = [at](const auto& item) { return !item.second.expires_at || *item.second.expires_at > at; };
    return static_cast<std::size_t>(std::count_if(credentials_.begin(), credentials_.end(), is_usable) +
                                    std::count_if(certificates_.begin(), certificates_.end(), is_usable));
}

Result<TokenTable> TokenStore::read() const {
    TokenTable table;
    if (!source_.path.empty()) {
        constexpr std::size_t tokens_bytes_max = 64u << 20;
        KV_TRY(const kv::SecretBytes text, read_file(source_.path, tokens_bytes_max));
        auto parsed = TokenTable::parse(text.reveal());
        if (!parsed) {
            parsed.error().message = source_.path + ": " + parsed.error().message;
            return std::move(parsed).error();
        }
        table = *std::move(parsed);
    }
    if (source_.root_token) table.add_root(*source_.root_token);
    return table;
}

Result<std::unique_ptr<TokenStore>> TokenStore::open(Source source) {
    std::unique_ptr<TokenStore> store(new TokenStore(std::move(source)));
    KV_CHECK(store->reload());
    return store;
}

Result<void> TokenStore::reload() {
    KV_TRY(TokenTable table, read());
    const std::unique_lock lock(mutex_);
    std::swap(table_, table);
    return {};
}

bool TokenStore::identify(const TokenHash& hash, kv::Actor& actor) const {
    const std::shared_lock lock(mutex_);
    const Credential* credential = table_.find(hash, now());
    if (credential == nullptr) return false;
    identify_as(*credential, actor);
    return true;
}

bool TokenStore::identify_certificate(const std::string& name, kv::Actor& actor) const {
    const std::shared_lock lock(mutex_);
    const Credential* credential = table_.find_certificate(name, now());
    if (credential == nullptr) return false;
    identify_as(*credential, actor);
    return true;
}

std::size_t TokenStore::usable() const {
    const std::shared_lock lock(mutex_);
    return table_.usable(now());
}

kv::SecretBytes generate_token() {
    constexpr std::size_t token_bytes = 32;
    kv::SecretBytes random = kv::SecretBytes::of_size(token_bytes);
    if (RAND_bytes(reinterpret_cast<unsigned char*>(random.mutable_data()), static_cast<int>(token_bytes)) != 1)
        kv::throw_exception(Error{Errc::internal, "no random bytes"});
    std::string text = "kvt_" + kv::base64url_encode(random.reveal());
    kv::SecretBytes token(text);
    kv::json::wipe(text);
    return token;
}

Result<std::string> parse_grant(std::string_view text) {
    std::string json;
    if (!text.empty() && text.front() == '{') {
        json = text;
    } else {
        KV_TRY(json, grant_of_pairs(text == "*" ? "permissions=*" : text));
    }
    KV_TRY(const Node node, kv::json::parse(json));
    KV_TRY(const kv::Grant grant, read_grant(node, "--grant"));
    static_cast<void>(grant);
    return json;
}

std::string token_line(std::string_view user_id, const TokenHash& hash, std::string_view expires_at,
                       const std::vector<std::string>& grants) {
    return line_of(user_id, "tokenSha256", kv::hex_encode({reinterpret_cast<const char*>(hash.data()), hash.size()}), expires_at, grants);
}

std::string certificate_line(std::string_view user_id, std::string_view name, std::string_view expires_at,
                             const std::vector<std::string>& grants) {
    return line_of(user_id, "certificateName", name, expires_at, grants);
}

}  // namespace kvd
