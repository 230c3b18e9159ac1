#include <set>

#include "fuzz.h"
#include "kvd/header_fields.h"
#include "kvd/query.h"
#include "kvd/route_parts.h"
#include "text.h"

// The small texts of a request, and keys and times as text: what is read is what stands there, once, and nothing else is read.
// Broken on purpose: the second of two equal query parameters taken (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

std::string form_encode(std::string_view text) {
    std::string out;
    for (const char c : text) out += c == ' ' ? "+" : "%" + hex_encode({&c, 1});
    return out;
}

void try_query(std::string_view text) {
    constexpr std::string_view known = "prefix limit cursor from";
    const auto query = kvd::Query::parse(text, known);
    if (!query) {
        KV_PROPERTY(query.error().code == Errc::invalid_request && is_valid_utf8(query.error().message));
        return;
    }
    std::string again;
    std::size_t parameters = 0;
    for (const char* name : {"prefix", "limit", "cursor", "from"}) {
        const auto value = query->text(name);
        if (!value) continue;
        ++parameters;
        KV_PROPERTY(is_valid_utf8(*value));
        again += std::string(again.empty() ? "" : "&") + name + "=" + form_encode(*value);
    }
    std::size_t written = 0;
    for (std::string_view rest = text; !rest.empty();) {
        const std::size_t end = std::min(rest.find('&'), rest.size());
        written += end > 0 ? 1 : 0;
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    KV_PROPERTY(parameters == written);
    const auto reread = kvd::Query::parse(again, known);
    KV_PROPERTY(reread.has_value());
    for (const char* name : {"prefix", "limit", "cursor", "from"}) KV_PROPERTY(reread->text(name) == query->text(name));
    if (const auto limit = query->integer("limit"); limit && *limit) {
        const std::string digits = query->text("limit").value();
        KV_PROPERTY(digits.find_first_not_of("0123456789") == std::string::npos);
        KV_PROPERTY(digits.find_first_not_of('0') == std::string::npos || std::to_string(**limit) == digits.substr(digits.find_first_not_of('0')));
    }
}

void try_tags(std::string_view text) {
    const auto tags = kvd::parse_entity_tags("If-Match", text);
    if (!tags) return;
    KV_PROPERTY(tags->any == (tags->strong.empty() && tags->weak.empty()));
    if (tags->any) return;
    std::string again;
    for (const std::string& tag : tags->strong) again += "\"" + tag + "\",";
    for (const std::string& tag : tags->weak) again += " W/\"" + tag + "\" ,";
    const auto reread = kvd::parse_entity_tags("If-Match", again);
    KV_PROPERTY(reread.has_value() && reread->strong == tags->strong && reread->weak == tags->weak);
}

// Where a watch begins: a number, or nothing.
void try_position(std::string_view text) {
    kvd::HttpRequest request;
    request.last_event_id = text;
    const auto position = kvd::watch_position(kvd::Query::parse("fromRevision=3", "fromRevision").value(), request);
    const bool is_number = text.find_first_not_of("0123456789") == std::string_view::npos;
    if (text.empty()) KV_PROPERTY(position && *position == 3u);
    if (!position) KV_PROPERTY(!is_number || text.size() > 19);
    if (text.empty() || !position) return;
    const std::string digits = std::to_string(**position);
    KV_PROPERTY(is_number && text.ends_with(digits) && text.substr(0, text.size() - digits.size()).find_first_not_of('0') == std::string_view::npos);
}

void try_preferences(std::string_view text) {
    // Never both ways.
    KV_PROPERTY(!(kvd::prefers(text, "application/json", "text/plain") && kvd::prefers(text, "text/plain", "application/json")));
    kvd::accepts_gzip(text);
    if (const auto type = kvd::parse_content_type(text)) {
        const auto again = kvd::parse_content_type(*type);
        KV_PROPERTY(again.has_value() && *again == *type);
    }
}

void try_time(std::string_view text) {
    const auto time = parse_time(text);
    if (!time) return;
    const std::string shown = format_time(*time);
    const auto again = parse_time(shown);
    KV_PROPERTY(again.has_value() && format_time(*again) == shown);
    KV_PROPERTY(std::chrono::abs(*again - *time) < std::chrono::milliseconds(1));
}

void try_keys(std::string_view text) {
    if (const auto key = parse_master_key(text)) {
        KV_PROPERTY(key->size() == master_key_bytes);
        KV_PROPERTY(parse_master_key(hex_encode(key->reveal()))->reveal() == key->reveal());
        KV_PROPERTY(parse_master_key(base64_encode(key->reveal()))->reveal() == key->reveal());
    }
    // One text for the same bytes.
    if (const auto bytes = base64_decode(text)) KV_PROPERTY(base64_encode(bytes->reveal()) == text);
    if (const auto bytes = base64url_decode(text)) KV_PROPERTY(base64url_encode(*bytes) == text);
    if (const auto id = Uuid::parse(text)) KV_PROPERTY(Uuid::parse(id->to_string()) == id);
    if (const auto pattern = KeyPattern::parse(text)) KV_PROPERTY(pattern->kind != KeyPattern::Kind::exact || pattern->matches(text));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::string text(input.rest());
    try_query(text);
    try_tags(text);
    try_preferences(text);
    try_position(text);
    try_time(text);
    try_keys(text);
    return 0;
}
