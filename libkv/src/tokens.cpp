#include "tokens.h"

#include <algorithm>

#include "bytes.h"
#include "grants_json.h"

namespace kv {

Uuid token_id(const Mac& hash) {
    Uuid id;
    std::copy_n(hash.begin(), id.bytes.size(), id.bytes.begin());
    id.bytes[6] = static_cast<std::uint8_t>(0x80 | (id.bytes[6] & 0x0f));
    id.bytes[8] = static_cast<std::uint8_t>(0x80 | (id.bytes[8] & 0x3f));
    return id;
}

std::string token_subject(const Uuid& id) { return "tokens/" + id.to_string(); }

// Begins as no namespace's canonical form does, which the same key vouches for.
std::string canonical(const TokenRow& row) {
    constexpr std::uint8_t format = 0x81;
    BytesWriter out;
    out.u8(format);
    out.uuid(row.id);
    out.raw({reinterpret_cast<const char*>(row.hash.data()), row.hash.size()});
    out.string(row.name);
    out.string(row.user_id);
    out.string(row.grants);
    out.time(row.created_at);
    out.string(row.created_by);
    out.optional(row.expires_at, [&](Time time) { out.time(time); });
    return out.take();
}

Result<Token> show_token(const TokenRow& row) {
    auto grants = parse_grants(row.grants);
    if (!grants) return Error{Errc::integrity, "The token's row was changed outside the store."};
    return Token{row.id, row.name, row.user_id, *std::move(grants), row.created_at, row.created_by, row.expires_at, row.last_used_at};
}

}  // namespace kv
