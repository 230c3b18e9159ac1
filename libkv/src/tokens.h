#pragma once
#include <string>

#include "kv/storage.h"

// What a token's row says. Functions are pure.
namespace kv {

// The first half of the hash as a UUID of version 8 (RFC 9562, 5.8): whoever has the token has its id.
Uuid token_id(const Mac& hash);
// How the audit log names it, in place of a key path: "tokens/" and its id.
std::string token_subject(const Uuid& id);
// What its MAC is over.
std::string canonical(const TokenRow& row);
// Errc::integrity if its grants do not read.
Result<Token> show_token(const TokenRow& row);

}  // namespace kv
