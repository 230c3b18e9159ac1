#include "cursor.h"

#include <optional>

#include "bytes.h"
#include "text.h"

namespace kv {
namespace {

// Cursor: base64url of format 1 | MAC, cut to 16 bytes, which no one guesses | position.
constexpr char format = 1;
constexpr std::size_t mac_bytes = 16;
constexpr std::size_t header_bytes = 1 + mac_bytes;

Mac mac_of(const crypto::Keyring& keys, std::string_view epoch, std::string_view binding, std::string_view position) {
    BytesWriter writer;
    writer.u8(format);
    writer.string(epoch);
    writer.string(binding);
    writer.string(position);
    return keys.cursor_mac(writer.str());
}

Error invalid() {
    Error error{Errc::invalid_cursor, "the cursor is not one this store gave out for this query", {}};
    error.field = "cursor";
    return error;
}

}  // namespace

std::string make_cursor(const crypto::Keyring& keys, std::string_view epoch, std::string_view binding, std::string_view position) {
    const Mac mac = mac_of(keys, epoch, binding, position);
    std::string cursor(1, format);
    cursor.append(mac.begin(), mac.begin() + mac_bytes);
    cursor.append(position);
    return base64url_encode(cursor);
}

Result<std::string> read_cursor(const crypto::Keyring& keys, std::string_view epoch, std::string_view binding, std::string_view cursor) {
    const std::optional<std::string> bytes = base64url_decode(cursor);
    if (!bytes || bytes->size() < header_bytes || bytes->front() != format) return invalid();
    std::string position = bytes->substr(header_bytes);
    const Mac mac = mac_of(keys, epoch, binding, position);
    const auto* given = reinterpret_cast<const std::uint8_t*>(bytes->data()) + 1;
    if (!crypto::equal({mac.data(), mac_bytes}, {given, mac_bytes})) return invalid();
    return position;
}

}  // namespace kv
