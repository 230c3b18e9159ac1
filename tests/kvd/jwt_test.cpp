#include "kvd/auth/jwt.h"

#include <doctest/doctest.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "text.h"

// Tokens are made here with OpenSSL alone, so that they may be as wrong as a test wants.
namespace {

using kvd::Jwks;
using kvd::JwtClaims;
using kvd::JwtRules;

const kv::Time now = *kv::parse_time("2026-06-01T12:00:00Z");
const long long clock_seconds = std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
const JwtRules rules{"https://issuer.example", "kvd"};

std::string base64url(std::string_view bytes) { return kv::base64url_encode(bytes); }

struct KeyPair {
    std::shared_ptr<EVP_PKEY> key;
    bool is_rsa = false;

    static KeyPair rsa(unsigned bits = 2048) { return {{EVP_RSA_gen(bits), EVP_PKEY_free}, true}; }
    static KeyPair ec(const char* curve = "P-256") { return {{EVP_EC_gen(curve), EVP_PKEY_free}, false}; }

    std::string number(const char* name, int width = 0) const {
        BIGNUM* value = nullptr;
        REQUIRE(EVP_PKEY_get_bn_param(key.get(), name, &value) == 1);
        std::string bytes(static_cast<std::size_t>(width != 0 ? width : BN_num_bytes(value)), '\0');
        BN_bn2binpad(value, reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
        BN_free(value);
        return base64url(bytes);
    }
    // `more`: further members, each with a comma before it.
    std::string jwk(const std::string& more = "") const {
        if (is_rsa) return R"({"kty":"RSA","n":")" + number(OSSL_PKEY_PARAM_RSA_N) + R"(","e":")" + number(OSSL_PKEY_PARAM_RSA_E) + "\"" + more + "}";
        return R"({"kty":"EC","crv":"P-256","x":")" + number(OSSL_PKEY_PARAM_EC_PUB_X, 32) + R"(","y":")" + number(OSSL_PKEY_PARAM_EC_PUB_Y, 32) + "\"" + more + "}";
    }
    std::string public_pem() const {
        BIO* memory = BIO_new(BIO_s_mem());
        PEM_write_bio_PUBKEY(memory, key.get());
        char* text = nullptr;
        const long size = BIO_get_mem_data(memory, &text);
        std::string pem(text, static_cast<std::size_t>(size));
        BIO_free(memory);
        return pem;
    }

    std::string sign(const std::string& input, bool is_pss = false, const EVP_MD* digest = EVP_sha256()) const {
        const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
        EVP_PKEY_CTX* parameters = nullptr;
        REQUIRE(EVP_DigestSignInit(context.get(), &parameters, digest, nullptr, key.get()) == 1);
        if (is_pss) {
            EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING);
            EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST);
        }
        std::string signature(1024, '\0');
        std::size_t size = signature.size();
        const auto* bytes = reinterpret_cast<const unsigned char*>(input.data());
        REQUIRE(EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size, bytes, input.size()) == 1);
        signature.resize(size);
        return is_rsa ? signature : raw_ecdsa(signature);
    }

    // R and S, 32 bytes each (RFC 7518, section 3.4), of what OpenSSL gives as ASN.1.
    static std::string raw_ecdsa(const std::string& der) {
        const auto* at = reinterpret_cast<const unsigned char*>(der.data());
        ECDSA_SIG* parts = d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size()));
        std::string raw(64, '\0');
        BN_bn2binpad(ECDSA_SIG_get0_r(parts), reinterpret_cast<unsigned char*>(raw.data()), 32);
        BN_bn2binpad(ECDSA_SIG_get0_s(parts), reinterpret_cast<unsigned char*>(raw.data()) + 32, 32);
        ECDSA_SIG_free(parts);
        return raw;
    }
};

std::string hmac(const std::string& secret, const std::string& input) {
    unsigned char out[32];
    unsigned size = 0;
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), reinterpret_cast<const unsigned char*>(input.data()), input.size(), out, &size);
    return {reinterpret_cast<char*>(out), size};
}

const KeyPair& rsa_key() {
    static const KeyPair key = KeyPair::rsa();
    return key;
}
const KeyPair& ec_key() {
    static const KeyPair key = KeyPair::ec();
    return key;
}
const std::string secret = "a secret of thirty-two bytes or more";

std::string set_of(const std::vector<std::string>& keys) {
    std::string text;
    for (const std::string& key : keys) text += (text.empty() ? "" : ",") + key;
    return R"({"keys":[)" + text + "]}";
}

std::shared_ptr<const Jwks> keys_of(const std::vector<std::string>& keys) {
    auto parsed = Jwks::parse(set_of(keys));
    REQUIRE_MESSAGE(parsed, parsed.error().message);
    return *parsed;
}

const std::shared_ptr<const Jwks>& keys() {
    static const auto set = keys_of({rsa_key().jwk(R"(,"kid":"rsa")"), ec_key().jwk(R"(,"kid":"ec")")});
    return set;
}

// Claims that are good, but for those that `changes` replaces; null text: left out.
std::string claims(const std::vector<std::pair<std::string, const char*>>& changes = {}) {
    std::vector<std::pair<std::string, std::string>> members = {{"iss", R"("https://issuer.example")"}, {"aud", R"("kvd")"},
                                                                {"exp", std::to_string(clock_seconds + 300)}, {"nbf", std::to_string(clock_seconds - 10)},
                                                                {"sub", R"("ann")"}, {"application_id", R"("app")"}, {"permissions", R"(["kv-entry:read"])"}};
    for (const auto& [name, value] : changes) {
        std::erase_if(members, [&, wanted = name](const auto& member) { return member.first == wanted; });
        if (value != nullptr) members.emplace_back(name, value);
    }
    std::string text;
    for (const auto& [name, value] : members) text += (text.empty() ? "\"" : ",\"") + name + "\":" + value;
    return "{" + text + "}";
}

std::string at(long long seconds_from_now) { return std::to_string(clock_seconds + seconds_from_now); }

std::string joined(const std::string& header, const std::string& payload) { return base64url(header) + "." + base64url(payload); }

std::string es256(const std::string& payload, const std::string& header = R"({"alg":"ES256","kid":"ec"})") {
    const std::string input = joined(header, payload);
    return input + "." + base64url(ec_key().sign(input));
}
std::string rs256(const std::string& payload, const std::string& header = R"({"alg":"RS256","kid":"rsa"})", bool is_pss = false) {
    const std::string input = joined(header, payload);
    return input + "." + base64url(rsa_key().sign(input, is_pss));
}
std::string hs256(const std::string& payload, const std::string& key = secret, const std::string& header = R"({"alg":"HS256"})") {
    const std::string input = joined(header, payload);
    return input + "." + base64url(hmac(key, input));
}

kv::Result<JwtClaims> verify(const std::string& token, const std::shared_ptr<const Jwks>& set = keys()) { return kvd::verify_jwt(token, *set, rules, now); }

std::string changed(std::string token, std::size_t place, char to) {
    token[place] = token[place] == to ? 'B' : to;
    return token;
}

}  // namespace

TEST_CASE("good JWTs of every algorithm are taken") {
    for (const std::string& token : {es256(claims()), rs256(claims()), rs256(claims(), R"({"alg":"PS256","kid":"rsa","typ":"JWT"})", true)}) {
        const auto known = verify(token);
        REQUIRE_MESSAGE(known, known.error().message);
        CHECK(known->user_id == "ann");
        CHECK(known->application_id == "app");
        CHECK(known->says_grants);
        CHECK(known->expires_at == now + std::chrono::seconds(360));
        REQUIRE(known->grants->size() == 1);
        CHECK(known->grants->front().application_id == "app");
        CHECK(known->grants->front().permissions == kv::PermissionSet{kv::Permission::entry_read});
    }
    const auto set = Jwks::of_secret(kv::SecretBytes(secret));
    REQUIRE(set);
    CHECK(verify(hs256(claims()), *set));
    // Without a name where there is but one that fits.
    CHECK(verify(es256(claims(), R"({"alg":"ES256"})")));
    CHECK(verify(rs256(claims(), R"({"alg":"RS256","typ":"at+jwt"})")));
    CHECK(verify(es256(claims(), R"({"alg":"ES256","typ":"application/JWT","x5t":"abc"})")));
}

TEST_CASE("claims: audiences, times with leeway, permissions and grants, limited to the application") {
    CHECK(verify(es256(claims({{"aud", R"(["other","kvd"])"}}))));
    CHECK(verify(es256(claims({{"exp", at(-59).c_str()}, {"nbf", at(-100).c_str()}}))));
    CHECK(verify(es256(claims({{"nbf", at(59).c_str()}, {"iat", at(59).c_str()}}))));
    CHECK(verify(es256(claims({{"exp", (at(10) + ".5").c_str()}}))));
    const auto scopes = verify(es256(claims({{"permissions", R"("openid kv-entry:write kv-entry:read")"}})));
    REQUIRE(scopes);
    CHECK(scopes->grants->front().permissions == kv::PermissionSet{kv::Permission::entry_read, kv::Permission::entry_write});
    const auto granted = verify(es256(claims({{"permissions", nullptr}, {"kv_grants",
        R"([{"permissions":["*"],"applicationId":"*","namespaceId":"*","keys":["a/**"]},{"permissions":["*"],"applicationId":"other","namespaceId":"*","keys":["*"]}])"}})));
    REQUIRE(granted);
    REQUIRE(granted->grants->size() == 1);
    CHECK(granted->grants->front().application_id == "app");
    for (const char* application : {static_cast<const char*>(nullptr), "null"}) {
        const auto nothing = verify(es256(claims({{"application_id", application}})));
        REQUIRE(nothing);
        CHECK(nothing->application_id.empty());
        CHECK(nothing->grants->empty());
    }
    const auto silent = verify(es256(claims({{"permissions", nullptr}})));
    REQUIRE(silent);
    CHECK_FALSE(silent->says_grants);
    CHECK(silent->grants->empty());
}

TEST_CASE("hostile JWTs are refused") {
    // Broken on purpose, and noticed, one after the other: `crit` was passed over, and `nbf` was not asked for.
    const std::string good = es256(claims());
    const std::size_t first = good.find('.'), second = good.rfind('.');
    const std::string input = good.substr(0, second), header = good.substr(0, first), payload = good.substr(first + 1, second - first - 1);
    const std::string signature = ec_key().sign(input);
    const KeyPair stranger = KeyPair::ec();
    const auto with = [&](const char* name, const char* value) { return es256(claims({{name, value}})); };
    const auto headed = [&](const std::string& more) { return es256(claims(), R"({"alg":"ES256","kid":"ec")" + more + "}"); };
    const auto named = [&](const std::string& alg) { return es256(claims(), R"({"alg":)" + alg + R"(,"kid":"ec"})"); };
    const std::string none_input = joined(R"({"alg":"none"})", claims());
    const std::string as_hmac = joined(R"({"alg":"HS256","kid":"rsa"})", claims());
    const std::string es_input_by_stranger = input + "." + base64url(stranger.sign(input));
    const std::vector<std::pair<std::string, std::string>> hostile = {
        {"nothing", ""}, {"a dot", "."}, {"two dots", ".."}, {"no signature", input}, {"an empty signature", input + "."},
        {"one part", header}, {"four parts", good + ".x"}, {"five parts, as encrypted ones have", "a.b.c.d.e"},
        {"a NUL", good + std::string(1, '\0')}, {"a space before", " " + good}, {"a space behind", good + " "}, {"a line's end", good + "\n"},
        {"padding", good + "="}, {"padding of the header", header + "=." + payload + "." + base64url(signature)},
        {"base64 of the other kind", header + "." + payload + "+/." + base64url(signature)},
        {"bits behind the last byte", good.substr(0, good.size() - 1) + (good.back() == 'B' ? "C" : "B")},
        {"another signature", input + "." + base64url(std::string(64, '\1'))}, {"a signature of zeros", input + "." + base64url(std::string(64, '\0'))},
        {"a signature cut short", input + "." + base64url(signature.substr(0, 63))}, {"a signature too long", input + "." + base64url(signature + "x")},
        {"a signature behind zeros", input + "." + base64url(std::string(2, '\0') + signature)},
        {"another's signature", es_input_by_stranger}, {"a changed payload", changed(good, first + 10, 'A')}, {"a changed header", changed(good, 20, 'A')},
        {"alg none", none_input + "."}, {"alg None", joined(R"({"alg":"None"})", claims()) + "."}, {"alg NONE with a signature", joined(R"({"alg":"NONE"})", claims()) + "." + base64url(signature)},
        {"no alg", es256(claims(), R"({"kid":"ec"})")}, {"alg null", named("null")}, {"alg a number", named("1")}, {"alg a list", named(R"(["ES256"])")},
        {"alg of lower case", named(R"("es256")")}, {"alg unknown", named(R"("ES257")")}, {"alg ES384", named(R"("ES384")")}, {"alg EdDSA", named(R"("EdDSA")")},
        {"alg RS256 for an EC key", named(R"("RS256")")}, {"alg HS256 for an EC key", named(R"("HS256")")},
        {"HS256 with the RSA key's PEM as the secret", as_hmac + "." + base64url(hmac(rsa_key().public_pem(), as_hmac))},
        {"HS256 with the modulus as the secret", as_hmac + "." + base64url(hmac(rsa_key().number(OSSL_PKEY_PARAM_RSA_N), as_hmac))},
        {"HS256 with an empty secret", as_hmac + "." + base64url(hmac("", as_hmac))},
        {"PS256 that is RS256", rs256(claims(), R"({"alg":"PS256","kid":"rsa"})", false)}, {"RS256 that is PS256", rs256(claims(), R"({"alg":"RS256","kid":"rsa"})", true)},
        {"RS256 over SHA-512", [&] { const std::string i = joined(R"({"alg":"RS256","kid":"rsa"})", claims()); return i + "." + base64url(rsa_key().sign(i, false, EVP_sha512())); }()},
        {"ES256 as ASN.1", [&] { std::string der = "\x30\x44" + std::string("\x02\x20") + signature.substr(0, 32) + "\x02\x20" + signature.substr(32); return input + "." + base64url(der); }()},
        {"a kid that is unknown", es256(claims(), R"({"alg":"ES256","kid":"other"})")}, {"another key's kid", es256(claims(), R"({"alg":"ES256","kid":"rsa"})")},
        {"a kid that is no text", es256(claims(), R"({"alg":"ES256","kid":1})")}, {"a kid as a path", es256(claims(), R"({"alg":"ES256","kid":"../../dev/null"})")},
        {"a kid for a database", es256(claims(), R"({"alg":"ES256","kid":"ec' or '1'='1"})")}, {"a kid too long", es256(claims(), R"({"alg":"ES256","kid":")" + std::string(256, 'k') + "\"}")},
        {"crit", headed(R"(,"crit":["exp"])")}, {"an empty crit", headed(R"(,"crit":[])")}, {"its own key", headed(R"(,"jwk":)" + ec_key().jwk())},
        {"a place for the key", headed(R"(,"jku":"https://evil.example/keys")")}, {"a certificate", headed(R"(,"x5c":["abc"])")}, {"a place for a certificate", headed(R"(,"x5u":"https://evil.example")")},
        {"b64", headed(R"(,"b64":false)")}, {"compressed", headed(R"(,"zip":"DEF")")}, {"encrypted", headed(R"(,"enc":"A256GCM")")},
        {"another type", headed(R"(,"typ":"JOSE")")}, {"a type that is no text", headed(R"(,"typ":1)")}, {"alg twice", headed(R"(,"alg":"none")")},
        {"a header that is a list", es256(claims(), R"(["ES256"])")}, {"a header that is no JSON", es256(claims(), "alg=ES256")}, {"a header with more behind it", es256(claims(), R"({"alg":"ES256"} {})")},
        {"a payload that is a list", es256("[]")}, {"a payload that is no JSON", es256("sub=ann")}, {"a payload that is text", es256(R"("ann")")}, {"an empty payload", es256("")},
        {"a payload that is not UTF-8", es256(claims({{"x", "\"\xff\""}}))}, {"sub twice", es256(claims().insert(1, R"("sub":"root",)"))}, {"deep nesting", with("x", (std::string(100, '[') + std::string(100, ']')).c_str())},
        {"expired", with("exp", at(-61).c_str())}, {"just expired", with("exp", at(-60).c_str())}, {"no exp", with("exp", nullptr)}, {"exp as text", with("exp", ("\"" + at(300) + "\"").c_str())},
        {"exp null", with("exp", "null")}, {"exp negative", with("exp", "-1")}, {"exp beyond all times", with("exp", "1e300")}, {"exp beyond a double", with("exp", "1e999")}, {"exp true", with("exp", "true")},
        {"not yet", with("nbf", at(61).c_str())}, {"no nbf", with("nbf", nullptr)}, {"nbf as text", with("nbf", "\"0\"")}, {"nbf negative", with("nbf", "-1")}, {"it ends before it begins", es256(claims({{"exp", at(10).c_str()}, {"nbf", at(20).c_str()}}))},
        {"issued in the future", with("iat", at(61).c_str())}, {"iat as text", with("iat", "\"0\"")},
        {"another issuer", with("iss", R"("https://evil.example")")}, {"no issuer", with("iss", nullptr)}, {"issuers", with("iss", R"(["https://issuer.example"])")},
        {"an issuer with a slash more", with("iss", R"("https://issuer.example/")")}, {"another audience", with("aud", R"("other")")}, {"no audience", with("aud", nullptr)},
        {"an empty list of audiences", with("aud", "[]")}, {"audiences that are not all text", with("aud", R"(["kvd",1])")}, {"an audience that begins alike", with("aud", R"("kvd2")")},
        {"no user", with("sub", nullptr)}, {"an empty user", with("sub", R"("")")}, {"a user that is a number", with("sub", "1")}, {"a user of two lines", with("sub", R"("a\nb")")},
        {"a user too long", with("sub", ("\"" + std::string(256, 'u') + "\"").c_str())},
        {"every application", with("application_id", R"("*")")}, {"an application that is a number", with("application_id", "1")}, {"an empty application", with("application_id", R"("")")},
        {"permissions that are a number", with("permissions", "1")}, {"permissions that are no texts", with("permissions", "[1]")}, {"grants that are none", with("kv_grants", R"([{"permissions":["*"]}])")},
        {"grants that are text", with("kv_grants", R"("*")")}, {"too long", with("x", ("\"" + std::string(9000, 'x') + "\"").c_str())},
    };
    CHECK(hostile.size() >= 60);
    REQUIRE(verify(good));
    for (const auto& item : hostile) {
        const std::string &name = item.first, &token = item.second;  // clang 14 takes no binding into a CHECK
        const auto known = verify(token);
        CHECK_MESSAGE(!known, name);
        if (known) continue;
        CHECK_MESSAGE(known.error().code == kv::Errc::unauthenticated, name);
        // What it says may end up in a log.
        CHECK_MESSAGE((token.size() < 30 || known.error().message.find(token.substr(0, 12)) == std::string::npos), name);
    }
}

TEST_CASE("with a secret nothing but HS256 is taken, and a weak one not at all") {
    const auto set = *Jwks::of_secret(kv::SecretBytes(secret));
    CHECK_FALSE(verify(hs256(claims(), secret + "x"), set));
    CHECK_FALSE(verify(hs256(claims(), secret, R"({"alg":"HS384"})"), set));
    CHECK_FALSE(verify(es256(claims()), set));
    CHECK_FALSE(verify(joined(R"({"alg":"none"})", claims()) + ".", set));
    CHECK_FALSE(Jwks::of_secret(kv::SecretBytes("31 bytes are not enough for it.")));
}

TEST_CASE("key sets: what is of no use is passed over, what is wrong is said") {
    const std::string rsa = rsa_key().jwk(R"(,"kid":"r")"), ec = ec_key().jwk(R"(,"kid":"e")");
    const auto size = [](const std::vector<std::string>& list) { return keys_of(list)->size(); };
    CHECK(size({rsa, ec}) == 2);
    CHECK(size({ec, R"({"kty":"oct","k":"c2VjcmV0"})", R"({"kty":"OKP","crv":"Ed25519","x":"abc"})", R"({"kty":"EC","crv":"P-384","x":"a","y":"b"})"}) == 1);
    CHECK(size({ec, rsa_key().jwk(R"(,"use":"enc")"), rsa_key().jwk(R"(,"alg":"RSA-OAEP")"), rsa_key().jwk(R"(,"key_ops":["encrypt"])")}) == 1);
    const auto pinned = keys_of({rsa_key().jwk(R"(,"kid":"rsa","alg":"PS256","use":"sig","key_ops":["verify"])")});
    CHECK_FALSE(verify(rs256(claims()), pinned));
    CHECK(verify(rs256(claims(), R"({"alg":"PS256","kid":"rsa"})", true), pinned));
    // Two that fit, and a token that names neither.
    const KeyPair second = KeyPair::ec();
    for (const auto& set : {keys_of({ec_key().jwk(R"(,"kid":"ec")"), second.jwk(R"(,"kid":"two")")}), keys_of({second.jwk(R"(,"kid":"two")"), ec_key().jwk(R"(,"kid":"ec")")})})
        CHECK_FALSE(verify(es256(claims(), R"({"alg":"ES256"})"), set));
    // A name, and keys of which the one that fits has none: only where it is alone.
    CHECK(verify(es256(claims()), keys_of({ec_key().jwk()})));
    CHECK_FALSE(verify(es256(claims()), keys_of({ec_key().jwk(), rsa})));

    const auto wrong = [](const std::string& text) {
        const auto parsed = Jwks::parse(text);
        return parsed ? std::string("taken") : parsed.error().message;
    };
    const auto contains = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
    CHECK(contains(wrong(set_of({KeyPair::rsa(1024).jwk()})), "keys[0].n: must have 2048"));
    CHECK(contains(wrong(set_of({rsa, R"({"kty":"RSA","n":"!","e":"AQAB"})"})), "keys[1].n"));
    CHECK(contains(wrong(set_of({R"({"kty":"RSA","n":")" + rsa_key().number(OSSL_PKEY_PARAM_RSA_N) + R"(","e":"AQ"})"})), "keys[0].e"));
    CHECK(contains(wrong(set_of({rsa_key().jwk(R"(,"d":"abc")")})), "private"));
    CHECK(contains(wrong(set_of({ec, ec})), "keys[1].kid"));
    CHECK(contains(wrong(set_of({ec_key().jwk(R"(,"kid":")" + std::string(256, 'k') + "\"")})), "keys[0].kid"));
    CHECK(contains(wrong(set_of({R"({"kty":"EC","crv":"P-256","x":")" + base64url(std::string(32, '\1')) + R"(","y":")" + base64url(std::string(32, '\2')) + "\"}"})), "is no key"));
    CHECK(contains(wrong(set_of({R"({"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"})"})), "must have 32 bytes"));
    CHECK(contains(wrong(set_of({R"({"kty":"oct","k":"c2VjcmV0"})"})), "holds no key"));
    for (const char* text : {"", "{}", "[]", R"({"keys":{}})", R"({"keys":[1]})", R"({"keys":[{}]})", R"({"keys":[],"keys":[]})"}) CHECK(wrong(text) != "taken");
    CHECK(contains(wrong(set_of(std::vector<std::string>(65, R"({"kty":"x"})"))), "64"));
    CHECK(contains(wrong(std::string(257 << 10, ' ')), "256 KiB"));
}

TEST_CASE("a verified token is remembered until it expires or the key set is replaced") {
    kvd::JwtVerifier verifier(rules);
    const std::string token = es256(claims());
    const kvd::TokenHash hash = kvd::hash_token(token);
    CHECK(verifier.verify(token, hash, now).error().code == kv::Errc::unavailable);
    verifier.replace(keys());
    CHECK(verifier.find(hash, now) == nullptr);
    const auto known = verifier.verify(token, hash, now);
    REQUIRE(known);
    CHECK((*known)->credential_id.starts_with("jwt:"));
    CHECK(verifier.find(hash, now) == *known);
    CHECK(*verifier.verify(token, hash, now) == *known);
    CHECK(verifier.find(hash, now + std::chrono::seconds(359)) == *known);
    CHECK(verifier.find(hash, now + std::chrono::seconds(360)) == nullptr);
    CHECK_FALSE(verifier.verify(token, hash, now + std::chrono::seconds(360)));
    verifier.replace(keys_of({rsa_key().jwk(R"(,"kid":"rsa")")}));
    CHECK(verifier.find(hash, now) == nullptr);
    CHECK_FALSE(verifier.verify(token, hash, now));
    CHECK(verifier.unknown_keys() == 1);
    verifier.replace(keys());
    CHECK(verifier.verify(token, hash, now));
}

TEST_CASE("no more than 16384 tokens are remembered, and all are taken") {
    // Broken on purpose, and noticed: the memory was not looked at when it was full; nothing but expired ones was dropped.
    kvd::JwtVerifier verifier(rules);
    verifier.replace(*Jwks::of_secret(kv::SecretBytes(secret)));
    std::vector<kvd::TokenHash> hashes;
    for (int i = 0; i < 20'000; ++i) {
        const std::string token = hs256(claims({{"sub", ("\"user-" + std::to_string(i) + "\"").c_str()}}));
        hashes.push_back(kvd::hash_token(token));
        REQUIRE(verifier.verify(token, hashes.back(), now));
    }
    const auto remembered = std::count_if(hashes.begin(), hashes.end(), [&](const kvd::TokenHash& hash) { return verifier.find(hash, now) != nullptr; });
    CHECK(remembered <= 16'384);
    CHECK(remembered >= 8'192);
}

TEST_CASE("what looks like a JWT") {
    CHECK(kvd::JwtVerifier::is_jwt(es256(claims())));
    for (const char* text : {"", "kvt_abc", "ey.a", "a.b.c", "eyJ.a.b.c"}) CHECK_FALSE(kvd::JwtVerifier::is_jwt(text));
}

TEST_CASE("many threads verify with one key set, which is replaced meanwhile") {
    kvd::JwtVerifier verifier(rules);
    verifier.replace(keys());
    std::vector<std::string> tokens;
    for (int i = 0; i < 8; ++i) tokens.push_back(es256(claims({{"sub", ("\"user-" + std::to_string(i) + "\"").c_str()}})));
    std::atomic<int> refused{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
            for (int n = 0; n < 200; ++n) {
                const std::string& token = tokens[static_cast<std::size_t>(n + i) % tokens.size()];
                if (!verifier.verify(token, kvd::hash_token(token), now)) ++refused;
                if (i == 0 && n % 20 == 0) verifier.replace(keys());
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(refused == 0);
}
