#include "text.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace kv {
namespace {

constexpr std::string_view base64_alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view base64url_alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::string_view hex_alphabet = "0123456789abcdef";

// Characters outside an alphabet map to this: its high bits survive an OR of any digits, so a whole group of
// characters is checked with one comparison.
constexpr std::uint8_t no_digit = 0xff;

using DigitTable = std::array<std::uint8_t, 256>;

constexpr DigitTable make_digits(std::string_view alphabet) {
    DigitTable table{};
    for (auto& digit : table) digit = no_digit;
    for (std::size_t i = 0; i < alphabet.size(); ++i) {
        table[static_cast<std::uint8_t>(alphabet[i])] = static_cast<std::uint8_t>(i);
    }
    return table;
}

constexpr DigitTable make_hex_digits() {
    DigitTable table = make_digits(hex_alphabet);
    for (std::uint8_t i = 10; i < 16; ++i) table[static_cast<std::size_t>('A') + i - 10] = i;
    return table;
}

constexpr DigitTable base64_digits = make_digits(base64_alphabet);
constexpr DigitTable base64url_digits = make_digits(base64url_alphabet);
constexpr DigitTable hex_digits = make_hex_digits();

std::uint8_t byte_at(std::string_view text, std::size_t at) { return static_cast<std::uint8_t>(text[at]); }

std::uint64_t load_eight(const char* bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes, sizeof word);
    return word;
}

constexpr std::uint64_t repeat(std::uint8_t byte) { return 0x0101'0101'0101'0101u * byte; }

std::size_t skip_ascii(std::string_view text, std::size_t at) {
    while (at + 8 <= text.size() && (load_eight(text.data() + at) & repeat(0x80)) == 0) at += 8;
    while (at < text.size() && byte_at(text, at) < 0x80) ++at;
    return at;
}

// Passes groups of eight without a control character or a byte beyond ASCII; stops at the first group that is not so.
std::size_t skip_printable_ascii(std::string_view text, std::size_t at) {
    for (; at + 8 <= text.size(); at += 8) {
        const std::uint64_t word = load_eight(text.data() + at);
        const std::uint64_t del = word ^ repeat(0x7f);
        // Among bytes below 0x80, one that is less than what is subtracted borrows and gets its high bit set.
        if ((((word - repeat(0x20)) | (del - repeat(1)) | word) & repeat(0x80)) != 0) break;
    }
    return at;
}

// The length of the sequence of two to four bytes at `at`; 0 if it is none. The range of the second byte is what rules
// out long forms, surrogates and code points above U+10FFFF (RFC 3629 section 4).
std::size_t sequence_length(std::string_view text, std::size_t at) {
    const std::uint8_t lead = byte_at(text, at);
    std::size_t length = 0;
    std::uint8_t second_min = 0x80;
    std::uint8_t second_max = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
        length = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        length = 3;
        if (lead == 0xe0) second_min = 0xa0;
        if (lead == 0xed) second_max = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        length = 4;
        if (lead == 0xf0) second_min = 0x90;
        if (lead == 0xf4) second_max = 0x8f;
    }
    if (length == 0 || text.size() - at < length) return 0;
    if (byte_at(text, at + 1) < second_min || byte_at(text, at + 1) > second_max) return 0;
    for (std::size_t i = 2; i < length; ++i) {
        if ((byte_at(text, at + i) & 0xc0) != 0x80) return 0;
    }
    return length;
}

std::uint32_t join(std::uint8_t a, std::uint8_t b, std::uint8_t c) {
    return static_cast<std::uint32_t>(a << 16 | b << 8 | c);
}

// Writes whole groups and the one or two bytes left; returns how many characters.
std::size_t encode_base64(std::string_view bytes, std::string_view alphabet, char* out) {
    char* const start = out;
    std::size_t at = 0;
    for (; at + 3 <= bytes.size(); at += 3) {
        const std::uint32_t group = join(byte_at(bytes, at), byte_at(bytes, at + 1), byte_at(bytes, at + 2));
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = alphabet[group >> 6 & 63];
        *out++ = alphabet[group & 63];
    }
    const std::size_t left = bytes.size() - at;
    if (left == 0) return static_cast<std::size_t>(out - start);
    const std::uint32_t group = join(byte_at(bytes, at), left == 2 ? byte_at(bytes, at + 1) : std::uint8_t{0}, 0);
    *out++ = alphabet[group >> 18];
    *out++ = alphabet[group >> 12 & 63];
    if (left == 2) *out++ = alphabet[group >> 6 & 63];
    return static_cast<std::size_t>(out - start);
}

// Bytes that `digits` characters without padding stand for; one character alone stands for none.
std::size_t decoded_size(std::size_t characters) { return characters / 4 * 3 + characters % 4 * 3 / 4; }

// `text` has no padding, and `out` room for decoded_size(). False if a character is foreign or a bit is set that
// belongs to no byte, so that every byte string has exactly one text.
bool decode_base64(std::string_view text, const DigitTable& digits, char* out) {
    if (text.size() % 4 == 1) return false;
    std::size_t at = 0;
    for (; at + 4 <= text.size(); at += 4) {
        const std::uint32_t a = digits[byte_at(text, at)];
        const std::uint32_t b = digits[byte_at(text, at + 1)];
        const std::uint32_t c = digits[byte_at(text, at + 2)];
        const std::uint32_t d = digits[byte_at(text, at + 3)];
        if ((a | b | c | d) > 63) return false;
        const std::uint32_t group = a << 18 | b << 12 | c << 6 | d;
        *out++ = static_cast<char>(group >> 16);
        *out++ = static_cast<char>(group >> 8 & 0xff);
        *out++ = static_cast<char>(group & 0xff);
    }
    if (at == text.size()) return true;
    const std::uint32_t a = digits[byte_at(text, at)];
    const std::uint32_t b = digits[byte_at(text, at + 1)];
    const std::uint32_t c = text.size() - at == 3 ? digits[byte_at(text, at + 2)] : 0;
    if ((a | b | c) > 63) return false;
    const std::uint32_t group = a << 18 | b << 12 | c << 6;
    *out++ = static_cast<char>(group >> 16);
    if (text.size() - at == 2) return (group & 0xffff) == 0;
    *out = static_cast<char>(group >> 8 & 0xff);
    return (group & 0xff) == 0;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) noexcept {
    std::size_t at = skip_ascii(text, 0);
    while (at < text.size()) {
        const std::size_t length = sequence_length(text, at);
        if (length == 0) return at;
        at += length;
        if (at < text.size() && byte_at(text, at) < 0x80) at = skip_ascii(text, at);
    }
    return at;
}

bool is_valid_utf8(std::string_view text) noexcept { return valid_utf8_prefix(text) == text.size(); }

bool has_control_character(std::string_view text) noexcept {
    for (std::size_t at = skip_printable_ascii(text, 0); at < text.size(); ++at) {
        const std::uint8_t byte = byte_at(text, at);
        if (byte < 0x20 || byte == 0x7f) return true;
        // U+0080..U+009F are C2 80..C2 9F; C2 cannot be a later byte of a sequence.
        if (byte == 0xc2 && at + 1 < text.size() && byte_at(text, at + 1) < 0xa0) return true;
    }
    return false;
}

std::size_t base64_encoded_size(std::size_t bytes) noexcept { return (bytes + 2) / 3 * 4; }

std::string base64_encode(std::string_view bytes) {
    std::string text(base64_encoded_size(bytes.size()), '=');
    encode_base64(bytes, base64_alphabet, text.data());
    return text;
}

std::optional<SecretBytes> base64_decode(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    for (int padding = 0; padding < 2 && text.ends_with('='); ++padding) text.remove_suffix(1);
    SecretBytes bytes = SecretBytes::of_size(decoded_size(text.size()));
    if (!decode_base64(text, base64_digits, bytes.mutable_data())) return std::nullopt;
    return bytes;
}

std::string base64url_encode(std::string_view bytes) {
    std::string text(base64_encoded_size(bytes.size()), '=');
    text.resize(encode_base64(bytes, base64url_alphabet, text.data()));
    return text;
}

std::optional<std::string> base64url_decode(std::string_view text) {
    std::string bytes(decoded_size(text.size()), '\0');
    if (!decode_base64(text, base64url_digits, bytes.data())) return std::nullopt;
    return bytes;
}

std::string hex_encode(std::string_view bytes) {
    std::string text(bytes.size() * 2, '0');
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        text[2 * i] = hex_alphabet[byte_at(bytes, i) >> 4];
        text[2 * i + 1] = hex_alphabet[byte_at(bytes, i) & 15];
    }
    return text;
}

std::optional<SecretBytes> hex_decode(std::string_view text) {
    if (text.size() % 2 != 0) return std::nullopt;
    SecretBytes bytes = SecretBytes::of_size(text.size() / 2);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const std::uint8_t high = hex_digits[byte_at(text, 2 * i)];
        const std::uint8_t low = hex_digits[byte_at(text, 2 * i + 1)];
        if ((high | low) > 15) return std::nullopt;
        bytes.mutable_data()[i] = static_cast<char>(high << 4 | low);
    }
    return bytes;
}

}  // namespace kv
