#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "kv/clock.h"
#include "kv/result.h"

namespace kvd {

// Decodes every percent escape once; empty if one is malformed. The result may hold any byte.
std::optional<std::string> percent_decode(std::string_view text);

// Query is the query part of one request, read strictly: a parameter that the route does not know, one given twice, a malformed
// escape and text that is not UTF-8 are errors, named in `field`. '+' is a space.
class Query {
public:
    // `known`: the names the route takes, separated by spaces.
    static kv::Result<Query> parse(std::string_view raw, std::string_view known);

    std::optional<std::string> text(std::string_view name) const;
    // "true" or "false".
    kv::Result<std::optional<bool>> boolean(std::string_view name) const;
    // Decimal digits.
    kv::Result<std::optional<std::uint64_t>> integer(std::string_view name) const;
    // RFC 3339.
    kv::Result<std::optional<kv::Time>> time(std::string_view name) const;

private:
    std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace kvd
