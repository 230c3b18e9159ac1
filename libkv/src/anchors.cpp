#include <algorithm>
#include <charconv>
#include <optional>

#include "kv/admin.h"
#include "text.h"

// Reads what kvd logs about heads out of logs in which anything may stand, and which others may have wrapped up again.
namespace kv {
namespace {

// What stands behind `before`, up to the first character that cannot belong to it.
std::optional<std::string_view> field(std::string_view line, std::string_view before, std::string_view characters) {
    const std::size_t at = line.find(before);
    if (at == std::string_view::npos) return std::nullopt;
    const std::string_view rest = line.substr(at + before.size());
    return rest.substr(0, std::min(rest.find_first_not_of(characters), rest.size()));
}

std::optional<AuditHead> make_head(std::string_view stream, std::string_view sequence, std::string_view mac) {
    AuditHead head;
    const auto id = Uuid::parse(stream);
    const auto bytes = hex_decode(mac);
    const auto parsed = std::from_chars(sequence.data(), sequence.data() + sequence.size(), head.sequence);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == sequence.data() + sequence.size();
    if (!id || !bytes || bytes->size() != head.mac.size() || !is_number) return std::nullopt;
    head.stream = *id;
    const std::string_view revealed = bytes->reveal();
    std::copy(revealed.begin(), revealed.end(), head.mac.begin());
    return head;
}

constexpr std::string_view id_characters = "0123456789abcdefABCDEF-";
constexpr std::string_view digits = "0123456789";
constexpr std::string_view hex_digits = "0123456789abcdefABCDEF";

std::optional<AuditHead> parse_fields(std::string_view line, std::string_view stream_name, std::string_view sequence_name,
                                      std::string_view mac_name) {
    const auto stream = field(line, stream_name, id_characters);
    const auto sequence = field(line, sequence_name, digits);
    const auto mac = field(line, mac_name, hex_digits);
    if (!stream || !sequence || !mac) return std::nullopt;
    return make_head(*stream, *sequence, *mac);
}

std::optional<AuditHead> parse_line(std::string_view line) {
    const std::size_t at = line.find("audit-head");
    if (at == std::string_view::npos) return std::nullopt;
    constexpr std::string_view text_message = "audit-head stream=";
    if (const std::size_t text = line.find(text_message); text != std::string_view::npos) {
        return parse_fields(line.substr(text), "stream=", "sequence=", "mac=");
    }
    // A collector that puts lines into JSON of its own escapes the quotes of ours.
    std::string plain(line);
    std::erase(plain, '\\');
    std::erase(plain, ' ');
    constexpr std::string_view json_message = "\"message\":\"audit-head\"";
    const std::size_t json = plain.find(json_message);
    if (json == std::string::npos) return std::nullopt;
    const std::string_view members = std::string_view(plain).substr(json);
    // A number may stand with or without quotes.
    auto head = parse_fields(members, "\"stream\":\"", "\"sequence\":\"", "\"mac\":\"");
    if (!head) head = parse_fields(members, "\"stream\":\"", "\"sequence\":", "\"mac\":\"");
    return head;
}

}  // namespace

std::vector<AuditHead> parse_anchors(std::string_view text) {
    std::vector<AuditHead> heads;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (auto head = parse_line(text.substr(0, end))) heads.push_back(*head);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return heads;
}

}  // namespace kv
