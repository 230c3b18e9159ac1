#include "kvd/header_fields.h"

#include <algorithm>

namespace kvd {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result) c = lower(c);
    return result;
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

// Takes what stands before `separator` off the front of `text`.
std::string_view take(std::string_view& text, char separator) {
    std::size_t end = std::min(text.find(separator), text.size());
    std::string_view front = trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    return front;
}

// RFC 9110 section 12.4.2, in thousandths. What does not parse weighs nothing.
int weight(std::string_view text) {
    if (text.empty() || (text[0] != '0' && text[0] != '1') || text.size() > 5) return 0;
    int thousandths = (text[0] - '0') * 1000;
    if (text.size() > 1 && text[1] != '.') return 0;
    int unit = 100;
    for (char c : text.substr(std::min<std::size_t>(2, text.size()))) {
        if (c < '0' || c > '9') return 0;
        thousandths += (c - '0') * unit;
        unit /= 10;
    }
    return thousandths > 1000 ? 0 : thousandths;
}

// The weight that a list such as Accept gives to `name`; -1 where it does not name it.
int listed_weight(std::string_view list, std::string_view name) {
    while (!list.empty()) {
        std::string_view item = take(list, ',');
        if (lower(take(item, ';')) != name) continue;
        int found = 1000;
        while (!item.empty()) {
            std::string parameter = lower(take(item, ';'));
            if (parameter.starts_with("q=")) found = weight(std::string_view(parameter).substr(2));
        }
        return found;
    }
    return -1;
}

bool is_tag_character(char c) {
    auto byte = static_cast<unsigned char>(c);
    return byte == 0x21 || (byte >= 0x23 && byte != 0x7f);
}

}  // namespace

kv::Result<EntityTags> parse_entity_tags(std::string_view header, std::string_view text) {
    EntityTags tags;
    kv::Error malformed{kv::Errc::invalid_request, "must be * or a list of entity tags in double quotes"};
    malformed.field = std::string(header);
    text = trim(text);
    if (text == "*") {
        tags.any = true;
        return tags;
    }
    while (!text.empty()) {
        bool is_weak = text.starts_with("W/");
        if (is_weak) text.remove_prefix(2);
        if (text.empty() || text.front() != '"') return malformed;
        std::size_t end = text.find('"', 1);
        if (end == std::string_view::npos) return malformed;
        std::string_view tag = text.substr(1, end - 1);
        if (!std::all_of(tag.begin(), tag.end(), is_tag_character)) return malformed;
        (is_weak ? tags.weak : tags.strong).emplace_back(tag);
        text = trim(text.substr(end + 1));
        if (!text.empty() && text.front() != ',') return malformed;
        // Empty list elements are to be ignored (RFC 9110 section 5.6.1).
        while (!text.empty() && text.front() == ',') text = trim(text.substr(1));
    }
    if (tags.strong.empty() && tags.weak.empty()) return malformed;
    return tags;
}

kv::Result<std::string> parse_content_type(std::string_view text) {
    std::string type = lower(take(text, ';'));
    while (!text.empty()) {
        std::string parameter = lower(take(text, ';'));
        if (parameter.empty() || parameter.starts_with("charset=")) continue;
        kv::Error error{kv::Errc::unsupported_media_type, "the content type has a parameter other than charset"};
        error.field = "Content-Type";
        return error;
    }
    return type;
}

bool prefers(std::string_view accept, std::string_view type, std::string_view other) {
    int wanted = listed_weight(accept, type);
    return wanted > 0 && wanted > listed_weight(accept, other);
}

bool accepts_gzip(std::string_view accept_encoding) {
    int gzip = listed_weight(accept_encoding, "gzip");
    return gzip > 0 || (gzip < 0 && listed_weight(accept_encoding, "*") > 0);
}

}  // namespace kvd
