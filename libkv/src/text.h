#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "kv/secret.h"

namespace kv {

// RFC 3629: shortest form, no surrogates, nothing above U+10FFFF.
bool is_valid_utf8(std::string_view text) noexcept;
// How many bytes of `text` come before the first that is not UTF-8; all, if it is valid.
std::size_t valid_utf8_prefix(std::string_view text) noexcept;
// True if there is a code point of Unicode category Cc: U+0000..U+001F, U+007F..U+009F. `text` is valid UTF-8.
bool has_control_character(std::string_view text) noexcept;

// RFC 4648 section 4, padded and strict: no white space, canonical trailing bits.
std::string base64_encode(std::string_view bytes);
std::optional<SecretBytes> base64_decode(std::string_view text);
std::size_t base64_encoded_size(std::size_t bytes) noexcept;
// RFC 4648 section 5 without padding.
std::string base64url_encode(std::string_view bytes);
std::optional<std::string> base64url_decode(std::string_view text);
std::string hex_encode(std::string_view bytes);
std::optional<SecretBytes> hex_decode(std::string_view text);

}  // namespace kv
