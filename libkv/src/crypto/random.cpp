#include "crypto/random.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <chrono>
#include <string_view>

#include "crypto/key_memory.h"

namespace kv::crypto {
namespace {

constexpr std::string_view alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view hex = "0123456789abcdef";
constexpr std::string_view base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

// What one can see and type: 0x21 to 0x7E.
constexpr auto ascii = [] {
    std::array<char, 0x7e - 0x21 + 1> characters{};
    for (std::size_t i = 0; i < characters.size(); ++i) characters[i] = static_cast<char>(0x21 + i);
    return characters;
}();

std::string_view characters_of(Generate::Alphabet alphabet) {
    switch (alphabet) {
        case Generate::Alphabet::alphanumeric: return alphanumeric;
        case Generate::Alphabet::hex: return hex;
        case Generate::Alphabet::base64url: return base64url;
        case Generate::Alphabet::ascii: return {ascii.data(), ascii.size()};
    }
    assert(false);
    return alphanumeric;
}

}  // namespace

void random_bytes(void* out, std::size_t size) {
    require_sodium();
    randombytes_buf(out, size);
}

Uuid make_uuid(Time now) {
    using std::chrono::milliseconds;
    const std::int64_t since_epoch = std::chrono::floor<milliseconds>(now).time_since_epoch().count();
    const auto stamp = static_cast<std::uint64_t>(std::max<std::int64_t>(since_epoch, 0));
    Uuid id;
    for (std::size_t i = 0; i < 6; ++i) id.bytes[i] = static_cast<std::uint8_t>(stamp >> (40 - 8 * i) & 0xff);
    random_bytes(&id.bytes[6], 10);
    id.bytes[6] = static_cast<std::uint8_t>(0x70 | (id.bytes[6] & 0x0f));  // version 7
    id.bytes[8] = static_cast<std::uint8_t>(0x80 | (id.bytes[8] & 0x3f));  // the RFC's variant
    return id;
}

SecretBytes random_text(const Generate& generate) {
    const std::string_view characters = characters_of(generate.alphabet);
    // Bytes from here on would give the first characters an advantage, and are drawn again.
    const std::size_t end = 256 - 256 % characters.size();
    SecretBytes text = SecretBytes::of_size(generate.length);
    std::array<std::uint8_t, 64> drawn;
    for (std::size_t at = 0; at < text.size();) {
        random_bytes(drawn.data(), drawn.size());
        for (std::size_t i = 0; i < drawn.size() && at < text.size(); ++i) {
            if (drawn[i] < end) text.mutable_data()[at++] = characters[drawn[i] % characters.size()];
        }
    }
    secure_wipe(drawn.data(), drawn.size());
    return text;
}

SecretBytes random_token() {
    constexpr std::string_view prefix = "kvt_";
    constexpr std::uint32_t characters = 43;  // 258 bits
    const SecretBytes random = random_text({characters, Generate::Alphabet::base64url});
    SecretBytes token = SecretBytes::of_size(prefix.size() + random.size());
    std::copy(prefix.begin(), prefix.end(), token.mutable_data());
    std::copy(random.reveal().begin(), random.reveal().end(), token.mutable_data() + prefix.size());
    return token;
}

}  // namespace kv::crypto
