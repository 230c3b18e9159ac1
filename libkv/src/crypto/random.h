#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "kv/request.h"
#include "kv/types.h"

namespace kv::crypto {

// From the kernel's generator.
void random_bytes(void* out, std::size_t size);

// RFC 9562 version 7: 48 bits of Unix milliseconds, then random.
Uuid make_uuid(Time now);

// `generate.length` characters, each drawn evenly from the alphabet (no modulo bias).
SecretBytes random_text(const Generate& generate);
// A new token: "kvt_" and 258 random bits.
SecretBytes random_token();

}  // namespace kv::crypto
