#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "crypto/keyring.h"
#include "kv/result.h"

namespace kv {

// Page cursors: base64url of a position and a MAC, bound to the store's epoch, the operation, the query and the user.
//
// `binding` is whatever must be the same on the next page (BytesWriter over operation, filters, user).
std::string make_cursor(const crypto::Keyring& keys, std::string_view epoch, std::string_view binding, std::string_view position);
// The position, or Errc::invalid_cursor (field "cursor").
Result<std::string> read_cursor(const crypto::Keyring& keys, std::string_view epoch, std::string_view binding, std::string_view cursor);

}  // namespace kv
