#include <openssl/hmac.h>

#include "fuzz.h"
#include "kvd/auth/jwt.h"
#include "text.h"

// JWTs with any header and any claims, signed well: what is taken says who asks and holds for a time; nothing is granted outside its
// application. And key sets: what is taken can be asked for its keys.
using namespace kv;
using namespace kv::fuzz;

namespace {

const std::string secret = "a secret of thirty-two bytes or more";
const kvd::JwtRules rules{"issuer", "kvd"};

std::string sign(std::string_view header, std::string_view claims) {
    const std::string input = base64url_encode(header) + "." + base64url_encode(claims);
    unsigned char mac[32];
    unsigned size = 0;
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), reinterpret_cast<const unsigned char*>(input.data()), input.size(), mac, &size);
    return input + "." + base64url_encode({reinterpret_cast<char*>(mac), size});
}

void check(const Result<kvd::JwtClaims>& claims, Time now) {
    if (!claims) {
        KV_PROPERTY(claims.error().code == Errc::unauthenticated && !claims.error().message.empty() && is_valid_utf8(claims.error().message));
        return;
    }
    KV_PROPERTY(!claims->user_id.empty() && claims->expires_at > now && claims->grants != nullptr);
    for (const Grant& grant : *claims->grants) KV_PROPERTY(!claims->application_id.empty() && grant.application_id == claims->application_id);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto keys = *kvd::Jwks::of_secret(SecretBytes(secret));
    static const Time now = *parse_time("2026-06-01T12:00:00Z");
    Input input(data, size);
    const std::string text(input.rest());
    const std::size_t line = std::min(text.find('\n'), text.size());
    check(kvd::verify_jwt(sign(text.substr(0, line), text.substr(std::min(line + 1, text.size()))), *keys, rules, now), now);
    check(kvd::verify_jwt(text, *keys, rules, now), now);
    if (const auto set = kvd::Jwks::parse(text)) KV_PROPERTY((*set)->size() > 0);
    return 0;
}
