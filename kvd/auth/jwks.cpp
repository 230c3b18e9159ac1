#include "kvd/auth/jwks.h"

#include <cjose/cjose.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <utility>

#include "json/json.h"
#include "kvd/auth/grants.h"
#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;
using Algorithm = Jwks::Algorithm;

constexpr std::size_t keys_max = 64;
constexpr std::size_t modulus_bits_min = 2048;
constexpr std::size_t modulus_bits_max = 16384;
constexpr std::size_t exponent_bytes_max = 4;
constexpr std::size_t coordinate_bytes = 32;  // P-256
constexpr std::size_t secret_bytes_min = 32;
constexpr std::size_t kid_bytes_max = 255;

struct ReleaseJwk {
    void operator()(cjose_jwk_t* key) const { cjose_jwk_release(key); }
};
struct ReleaseJws {
    void operator()(cjose_jws_t* token) const { cjose_jws_release(token); }
};

bool is_text(const Node* node, std::string_view text) { return node != nullptr && node->kind == Kind::string && node->text == text; }

// Whether the key is meant for what we do with it. `kinds`: the algorithms of its kty.
bool is_of_use(const Node& key, const std::vector<Algorithm>& kinds) {
    if (const Node* use = key.find("use"); use != nullptr && !is_text(use, "sig")) return false;
    if (const Node* operations = key.find("key_ops"); operations != nullptr) {
        const auto verifies = [](const Node& item) { return is_text(&item, "verify"); };
        if (operations->kind != Kind::array || std::none_of(operations->items.begin(), operations->items.end(), verifies)) return false;
    }
    const Node* named = key.find("alg");
    if (named == nullptr) return true;
    const auto algorithm = named->kind == Kind::string ? Jwks::parse_algorithm(named->text) : std::nullopt;
    return algorithm && std::find(kinds.begin(), kinds.end(), *algorithm) != kinds.end();
}

// A number in base64url (RFC 7518, section 2): without leading zeros unless it has a fixed width.
Result<std::string> read_number(const Node& key, const std::string& where, const char* name) {
    const Node* node = key.find(name);
    const auto bytes = node != nullptr && node->kind == Kind::string ? kv::base64url_decode(node->text) : std::nullopt;
    if (!bytes || bytes->empty()) return wrong(where + "." + name, "must be a number in base64url");
    return *bytes;
}

std::size_t bits_of(std::string_view number) {
    return number.size() * 8 - static_cast<std::size_t>(std::countl_zero(static_cast<std::uint8_t>(number.front())));
}

// What libcjose is given of a key: the public numbers, and nothing else of what stood there.
Result<std::string> public_rsa(const Node& key, const std::string& where, std::size_t& signature_bytes) {
    KV_TRY(const std::string modulus, read_number(key, where, "n"));
    KV_TRY(const std::string exponent, read_number(key, where, "e"));
    if (modulus.front() == '\0' || bits_of(modulus) < modulus_bits_min || bits_of(modulus) > modulus_bits_max)
        return wrong(where + ".n", "must have 2048 to 16384 bits");
    const bool is_odd = (exponent.back() & 1) != 0;
    if (exponent.front() == '\0' || exponent.size() > exponent_bytes_max || !is_odd || exponent == "\1")
        return wrong(where + ".e", "must be odd, above 1 and of 32 bits at most");
    signature_bytes = modulus.size();
    return R"({"kty":"RSA","n":")" + key.find("n")->text + R"(","e":")" + key.find("e")->text + "\"}";
}

Result<std::string> public_ec(const Node& key, const std::string& where, std::size_t& signature_bytes) {
    for (const char* name : {"x", "y"}) {
        KV_TRY(const std::string coordinate, read_number(key, where, name));
        if (coordinate.size() != coordinate_bytes) return wrong(where + "." + name, "must have 32 bytes");
    }
    signature_bytes = 2 * coordinate_bytes;
    return R"({"kty":"EC","crv":"P-256","x":")" + key.find("x")->text + R"(","y":")" + key.find("y")->text + "\"}";
}

}  // namespace

// libcjose says nothing of threads, so that a key is used by one at a time.
class Jwks::Key {
public:
    std::optional<std::string> kid;
    std::vector<Algorithm> algorithms;
    std::size_t signature_bytes = 0;
    std::unique_ptr<cjose_jwk_t, ReleaseJwk> jwk;
    mutable std::mutex mutex;

    bool is_for(Algorithm algorithm) const { return std::find(algorithms.begin(), algorithms.end(), algorithm) != algorithms.end(); }
    bool meets(const Key& other) const {
        return kid == other.kid && std::any_of(algorithms.begin(), algorithms.end(), [&](Algorithm one) { return other.is_for(one); });
    }
};

Jwks::Jwks() = default;
Jwks::~Jwks() = default;

std::optional<Algorithm> Jwks::parse_algorithm(std::string_view name) {
    if (name == "RS256") return Algorithm::rs256;
    if (name == "PS256") return Algorithm::ps256;
    if (name == "ES256") return Algorithm::es256;
    if (name == "HS256") return Algorithm::hs256;
    return std::nullopt;
}

Result<std::shared_ptr<const Jwks>> Jwks::parse(std::string_view json) {
    if (json.size() > set_bytes_max) return Error{Errc::invalid_request, "a key set has 256 KiB at most"};
    auto root = kv::json::parse(json);
    if (!root) return wrong("the key set", root.error().message);
    const Node* list = root->kind == Kind::object ? root->find("keys") : nullptr;
    if (list == nullptr || list->kind != Kind::array) return wrong("the key set", R"(must be an object like {"keys": [...]})");
    if (list->items.size() > keys_max) return wrong("keys", "are more than 64");
    const std::shared_ptr<Jwks> set(new Jwks());
    for (std::size_t i = 0; i < list->items.size(); ++i) {
        const Node& node = list->items[i];
        const std::string where = "keys[" + std::to_string(i) + "]";
        const Node* kty = node.kind == Kind::object ? node.find("kty") : nullptr;
        if (kty == nullptr || kty->kind != Kind::string) return wrong(where, "must be an object with a kty");
        const bool is_rsa = kty->text == "RSA";
        if (!is_rsa && !(kty->text == "EC" && is_text(node.find("crv"), "P-256"))) continue;
        auto key = std::make_unique<Key>();
        key->algorithms = is_rsa ? std::vector{Algorithm::rs256, Algorithm::ps256} : std::vector{Algorithm::es256};
        if (!is_of_use(node, key->algorithms)) continue;
        if (const Node* alg = node.find("alg")) key->algorithms = {*parse_algorithm(alg->text)};
        if (node.find("d") != nullptr) return wrong(where, "is a private key: whoever serves it gives it away");
        if (const Node* kid = node.find("kid")) {
            if (kid->kind != Kind::string || kid->text.size() > kid_bytes_max) return wrong(where + ".kid", "must be a string of 255 bytes at most");
            key->kid = kid->text;
        }
        KV_TRY(const std::string numbers, is_rsa ? public_rsa(node, where, key->signature_bytes) : public_ec(node, where, key->signature_bytes));
        key->jwk.reset(cjose_jwk_import(numbers.data(), numbers.size(), nullptr));
        if (!key->jwk) return wrong(where, "is no key");  // a point that is not on the curve
        for (const auto& other : set->keys_)
            if (key->kid && key->meets(*other)) return wrong(where + ".kid", "is another key's");
        set->keys_.push_back(std::move(key));
    }
    if (set->keys_.empty()) return wrong("the key set", "holds no key for RS256, PS256 or ES256");
    return std::shared_ptr<const Jwks>(set);
}

Result<std::shared_ptr<const Jwks>> Jwks::of_secret(const kv::SecretBytes& secret) {
    if (secret.size() < secret_bytes_min) return Error{Errc::invalid_request, "a secret for HS256 has 32 bytes at least (RFC 7518, section 3.2)"};
    auto key = std::make_unique<Key>();
    key->algorithms = {Algorithm::hs256};
    key->signature_bytes = 32;
    key->jwk.reset(cjose_jwk_create_oct_spec(reinterpret_cast<const std::uint8_t*>(secret.reveal().data()), secret.size(), nullptr));
    if (!key->jwk) return Error{Errc::unavailable, "Out of memory."};
    const std::shared_ptr<Jwks> set(new Jwks());
    set->keys_.push_back(std::move(key));
    return std::shared_ptr<const Jwks>(set);
}

const Jwks::Key* Jwks::find(Algorithm algorithm, const std::optional<std::string>& kid) const {
    const Key* found = nullptr;
    for (const auto& key : keys_) {
        if (!key->is_for(algorithm) || (kid && key->kid && key->kid != kid)) continue;
        if (kid && !key->kid && keys_.size() > 1) continue;  // a set of one needs no names
        if (found != nullptr) return nullptr;
        found = key.get();
    }
    return found;
}

bool Jwks::verify(const Key& key, Algorithm algorithm, std::string_view token, std::size_t signature_bytes) {
    if (!key.is_for(algorithm) || signature_bytes != key.signature_bytes) return false;
    const std::unique_ptr<cjose_jws_t, ReleaseJws> jws(cjose_jws_import(token.data(), token.size(), nullptr));
    if (!jws) return false;
    std::lock_guard lock(key.mutex);
    return cjose_jws_verify(jws.get(), key.jwk.get(), nullptr);
}

}  // namespace kvd
