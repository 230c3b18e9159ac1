#include "kvd/query.h"

#include <algorithm>
#include <charconv>

#include "text.h"

namespace kvd {
namespace {

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

kv::Error fault(std::string_view name, std::string message) {
    kv::Error error{kv::Errc::invalid_request, std::move(message)};
    // Long enough for every name we know; the rest of an unknown one helps nobody.
    error.field = std::string(name.substr(0, 64));
    return error;
}

// One name or value of the query: '+' is a space there, and nowhere else in a URL.
std::optional<std::string> form_decode(std::string_view text) {
    std::string spaced(text);
    std::replace(spaced.begin(), spaced.end(), '+', ' ');
    std::optional<std::string> decoded = percent_decode(spaced);
    if (decoded && !kv::is_valid_utf8(*decoded)) decoded.reset();
    return decoded;
}

bool lists(std::string_view names, std::string_view name) {
    while (!names.empty()) {
        std::size_t end = std::min(names.find(' '), names.size());
        if (names.substr(0, end) == name) return true;
        names.remove_prefix(std::min(end + 1, names.size()));
    }
    return false;
}

}  // namespace

std::optional<std::string> percent_decode(std::string_view text) {
    std::string decoded;
    decoded.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded.push_back(text[i]);
            continue;
        }
        if (text.size() - i < 3) return std::nullopt;
        int high = hex_digit(text[i + 1]);
        int low = hex_digit(text[i + 2]);
        if (high < 0 || low < 0) return std::nullopt;
        decoded.push_back(static_cast<char>(high << 4 | low));
        i += 2;
    }
    return decoded;
}

kv::Result<Query> Query::parse(std::string_view raw, std::string_view known) {
    Query query;
    while (!raw.empty()) {
        std::size_t end = std::min(raw.find('&'), raw.size());
        std::string_view pair = raw.substr(0, end);
        raw.remove_prefix(std::min(end + 1, raw.size()));
        if (pair.empty()) continue;

        std::size_t equals = std::min(pair.find('='), pair.size());
        std::optional<std::string> name = form_decode(pair.substr(0, equals));
        if (!name) return fault({}, "the name of a query parameter is not percent-encoded UTF-8");
        if (!lists(known, *name)) return fault(*name, "this route does not know the query parameter");
        std::optional<std::string> value = form_decode(pair.substr(std::min(equals + 1, pair.size())));
        if (!value) return fault(*name, "the query parameter is not percent-encoded UTF-8");
        if (!query.values_.emplace(*name, *std::move(value)).second) return fault(*name, "the query parameter is given twice");
    }
    return query;
}

std::optional<std::string> Query::text(std::string_view name) const {
    auto found = values_.find(name);
    if (found == values_.end()) return std::nullopt;
    return found->second;
}

kv::Result<std::optional<bool>> Query::boolean(std::string_view name) const {
    auto found = values_.find(name);
    if (found == values_.end()) return std::optional<bool>{};
    if (found->second == "true") return std::optional<bool>{true};
    if (found->second == "false") return std::optional<bool>{false};
    return fault(name, "must be true or false");
}

kv::Result<std::optional<std::uint64_t>> Query::integer(std::string_view name) const {
    auto found = values_.find(name);
    if (found == values_.end()) return std::optional<std::uint64_t>{};
    const std::string& text = found->second;
    std::uint64_t number = 0;
    auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failure != std::errc{} || end != text.data() + text.size()) return fault(name, "must be a whole number");
    return std::optional<std::uint64_t>{number};
}

kv::Result<std::optional<kv::Time>> Query::time(std::string_view name) const {
    auto found = values_.find(name);
    if (found == values_.end()) return std::optional<kv::Time>{};
    std::optional<kv::Time> time = kv::parse_time(found->second);
    if (!time) return fault(name, "must be an RFC 3339 time, as in 2024-01-15T10:00:00Z");
    return time;
}

}  // namespace kvd
