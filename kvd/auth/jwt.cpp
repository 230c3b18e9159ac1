#include "kvd/auth/jwt.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "json/json.h"
#include "kvd/framing.h"
#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;

constexpr std::size_t token_bytes_max = 8u << 10;
constexpr std::size_t kid_bytes_max = 255;
constexpr double seconds_max = 9007199254740992.0 / 1e6;  // 2^53 microseconds: the year 2255
constexpr kv::json::Limits claims_limits{16, 4096, 256};

Error refused(const char* why) { return {Errc::unauthenticated, std::string("the JWT ") + why}; }

// The parts of a token, still encoded.
struct Parts {
    std::string_view header, payload, signature;
};

std::optional<Parts> split(std::string_view token) {
    const std::size_t first = token.find('.');
    const std::size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
    if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos) return std::nullopt;
    return Parts{token.substr(0, first), token.substr(first + 1, second - first - 1), token.substr(second + 1)};
}

std::optional<Node> read_object(std::string_view encoded) {
    const auto text = kv::base64url_decode(encoded);
    if (!text) return std::nullopt;
    auto node = kv::json::parse(*text, claims_limits);
    if (!node || node->kind != Kind::object) return std::nullopt;
    return *std::move(node);
}

// ---- the header ----

struct Header {
    Jwks::Algorithm algorithm{};
    std::optional<std::string> kid;
};

bool is_jwt_type(std::string_view type) {
    constexpr std::string_view prefix = "application/";
    if (equals_ignoring_case(type.substr(0, prefix.size()), prefix)) type.remove_prefix(prefix.size());
    return equals_ignoring_case(type, "jwt") || equals_ignoring_case(type, "at+jwt");
}

Result<Header> read_header(const Node& node) {
    for (const char* name : {"crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc"})
        if (node.find(name) != nullptr) return refused("has a header that is not taken here");
    const Node* alg = node.find("alg");
    const auto algorithm = alg != nullptr && alg->kind == Kind::string ? Jwks::parse_algorithm(alg->text) : std::nullopt;
    if (!algorithm) return refused("is signed in a way that is not taken here");
    Header header{*algorithm, {}};
    if (const Node* type = node.find("typ"); type != nullptr && !(type->kind == Kind::string && is_jwt_type(type->text)))
        return refused("is of another type");
    if (const Node* kid = node.find("kid")) {
        if (kid->kind != Kind::string || kid->text.size() > kid_bytes_max) return refused("names its key in a way that is none");
        header.kid = kid->text;
    }
    return header;
}

// ---- the claims ----

// NumericDate (RFC 7519, section 2), perhaps with a fraction.
std::optional<kv::Time> read_time(const Node* node) {
    if (node == nullptr || node->kind != Kind::number) return std::nullopt;
    double seconds = 0;
    const char* const end = node->text.data() + node->text.size();
    const auto read = std::from_chars(node->text.data(), end, seconds);
    if (read.ec != std::errc() || read.ptr != end || !std::isfinite(seconds) || seconds < 0 || seconds > seconds_max) return std::nullopt;
    return kv::Time(std::chrono::microseconds(static_cast<std::int64_t>(seconds * 1e6)));
}

bool is_text(const Node* node, std::string_view text) { return node != nullptr && node->kind == Kind::string && node->text == text; }

bool is_for(const Node* audience, const std::string& ours) {
    if (audience == nullptr || audience->kind != Kind::array) return is_text(audience, ours);
    const bool are_texts = std::all_of(audience->items.begin(), audience->items.end(), [](const Node& item) { return item.kind == Kind::string; });
    return are_texts && std::any_of(audience->items.begin(), audience->items.end(), [&](const Node& item) { return item.text == ours; });
}

Result<void> check_times(const Node& claims, const JwtRules& rules, kv::Time now, JwtClaims& known) {
    const auto expires = read_time(claims.find("exp"));
    const auto begins = read_time(claims.find("nbf"));
    if (!expires || !begins) return refused("must have exp and nbf");
    if (*expires <= *begins) return refused("ends before it begins");
    known.expires_at = *expires + rules.leeway;
    if (now >= known.expires_at) return refused("has expired");
    if (now + rules.leeway < *begins) return refused("does not hold yet");
    if (const Node* issued = claims.find("iat")) {
        const auto at = read_time(issued);
        if (!at || *at > now + rules.leeway) return refused("was issued in the future");
    }
    return {};
}

// An array of strings, or one with spaces between them, as OAuth writes scopes (RFC 8693, section 4.2).
std::optional<std::vector<std::string>> read_names(const Node& node) {
    std::vector<std::string> names;
    if (node.kind == Kind::string) {
        for (std::string_view rest = node.text; !rest.empty();) {
            const std::size_t space = std::min(rest.find(' '), rest.size());
            if (space > 0) names.emplace_back(rest.substr(0, space));
            rest.remove_prefix(std::min(space + 1, rest.size()));
        }
        return names;
    }
    if (node.kind != Kind::array) return std::nullopt;
    for (const Node& item : node.items) {
        if (item.kind != Kind::string) return std::nullopt;
        names.push_back(item.text);
    }
    return names;
}

Result<void> read_granted(const Node& claims, const JwtRules& rules, JwtClaims& known) {
    Grants all;
    if (const Node* permissions = claims.find(rules.permissions_claim)) {
        const auto names = read_names(*permissions);
        if (!names) return refused("has permissions that are none");
        all = grants_of_permissions(*names, known.application_id);
        known.says_grants = true;
    }
    if (const Node* grants = claims.find(rules.grants_claim)) {
        auto read = read_grants(*grants, rules.grants_claim);
        if (!read) return refused("has grants that are none");
        for (kv::Grant& grant : limited_to(*std::move(read), known.application_id)) all.push_back(std::move(grant));
        known.says_grants = true;
    }
    known.grants = std::make_shared<const Grants>(std::move(all));
    return {};
}

Result<JwtClaims> read_claims(const Node& claims, const JwtRules& rules, kv::Time now) {
    JwtClaims known;
    if (!is_text(claims.find("iss"), rules.issuer)) return refused("is of another issuer");
    if (!is_for(claims.find("aud"), rules.audience)) return refused("is for another audience");
    KV_CHECK(check_times(claims, rules, now, known));
    const Node* subject = claims.find("sub");
    auto user = subject != nullptr ? read_identifier(*subject, "sub") : Error{};
    if (!user) return refused("must name its user: sub");
    known.user_id = *std::move(user);
    if (const Node* application = claims.find(rules.application_claim); application != nullptr && application->kind != Kind::null) {
        auto id = read_identifier(*application, rules.application_claim);
        if (!id || *id == "*") return refused("names an application that is none");
        known.application_id = *std::move(id);
    }
    KV_CHECK(read_granted(claims, rules, known));
    return known;
}

}  // namespace

Result<JwtClaims> verify_jwt(std::string_view token, const Jwks& keys, const JwtRules& rules, kv::Time now) {
    const auto parts = token.size() <= token_bytes_max ? split(token) : std::nullopt;
    const auto header_node = parts ? read_object(parts->header) : std::nullopt;
    const auto signature = parts ? kv::base64url_decode(parts->signature) : std::nullopt;
    if (!header_node || !signature) return refused("is malformed");
    KV_TRY(const Header header, read_header(*header_node));
    const Jwks::Key* key = keys.find(header.algorithm, header.kid);
    if (key == nullptr) return Error{.code = Errc::unauthenticated, .message = "the JWT is signed by a key that is not known", .field = "kid"};
    if (!Jwks::verify(*key, header.algorithm, token, signature->size())) return refused("has a wrong signature");
    const auto claims = read_object(parts->payload);
    if (!claims) return refused("is malformed");
    return read_claims(*claims, rules, now);
}

bool JwtVerifier::is_jwt(std::string_view token) noexcept { return token.starts_with("ey") && std::count(token.begin(), token.end(), '.') == 2; }

Result<std::shared_ptr<const JwtClaims>> JwtVerifier::verify(std::string_view token, const TokenHash& hash, kv::Time now) {
    if (auto known = find(hash, now)) return known;
    std::shared_ptr<const Jwks> keys;
    std::uint64_t generation = 0;
    {
        std::lock_guard lock(mutex_);
        keys = keys_;
        generation = generation_.load(std::memory_order_relaxed);
    }
    if (!keys) return Error{Errc::unavailable, "the key set for JWTs is not there yet"};
    auto claims = verify_jwt(token, *keys, rules_, now);
    if (!claims) {
        if (claims.error().field == "kid") unknown_keys_.fetch_add(1, std::memory_order_relaxed);
        return Error{claims.error().code, claims.error().message};
    }
    constexpr std::size_t bytes_shown = 6;
    claims->credential_id = "jwt:" + kv::hex_encode({reinterpret_cast<const char*>(hash.data()), bytes_shown});
    claims->generation = generation;
    auto kept = std::make_shared<const JwtClaims>(*std::move(claims));
    remember(hash, kept, now);
    return kept;
}

std::shared_ptr<const JwtClaims> JwtVerifier::find(const TokenHash& hash, kv::Time now) const {
    const Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    const auto found = shard.tokens.find(hash);
    if (found == shard.tokens.end()) return nullptr;
    return holds(*found->second, now) ? found->second : nullptr;
}

void JwtVerifier::remember(const TokenHash& hash, std::shared_ptr<const JwtClaims> claims, kv::Time now) {
    Shard& shard = shard_of(hash);
    std::lock_guard lock(shard.mutex);
    if (shard.tokens.size() >= tokens_max / shard_count) {
        const std::uint64_t generation = generation_.load(std::memory_order_relaxed);
        std::erase_if(shard.tokens, [&](const auto& item) { return item.second->expires_at <= now || item.second->generation != generation; });
        // Still full: every other one goes, whichever.
        bool goes = false;
        if (shard.tokens.size() >= tokens_max / shard_count) std::erase_if(shard.tokens, [&](const auto&) { return goes = !goes; });
    }
    shard.tokens.insert_or_assign(hash, std::move(claims));
}

void JwtVerifier::replace(std::shared_ptr<const Jwks> keys) {
    std::lock_guard lock(mutex_);
    keys_ = std::move(keys);
    generation_.fetch_add(1, std::memory_order_release);
}

bool JwtVerifier::has_keys() const {
    std::lock_guard lock(mutex_);
    return keys_ != nullptr;
}

}  // namespace kvd
