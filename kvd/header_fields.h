#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kv/result.h"

namespace kvd {

// If-Match or If-None-Match (RFC 9110 section 13.1): `*`, or tags without their quotes.
struct EntityTags {
    bool any = false;
    std::vector<std::string> strong;
    std::vector<std::string> weak;
};
// Errc::invalid_request with the header's name in `field`.
kv::Result<EntityTags> parse_entity_tags(std::string_view header, std::string_view text);

// "Application/JSON; charset=utf-8" -> "application/json". Errc::unsupported_media_type for a parameter other than charset.
kv::Result<std::string> parse_content_type(std::string_view text);

// Accept names `type` itself with a larger weight than `other`; wildcards count for neither.
bool prefers(std::string_view accept, std::string_view type, std::string_view other);

// Accept-Encoding allows gzip.
bool accepts_gzip(std::string_view accept_encoding);

}  // namespace kvd
