#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json/json.h"

namespace kvd {

// One HTTP request, its framing already judged (framing.h): what routes read. Header members are empty where absent.
struct HttpRequest {
    std::string method;  // "GET"
    std::string path;    // raw, before '?': still percent-encoded, visible ASCII
    std::string query;   // raw, after '?'
    bool has_query = false;
    std::string content_type;
    std::string accept;
    std::string accept_encoding;
    std::string if_match;
    std::string if_none_match;
    std::string request_id;  // given and well-formed, or drawn
    std::string peer;        // "127.0.0.1"
    std::string body;        // decoded

    HttpRequest() = default;
    HttpRequest(HttpRequest&&) = default;
    HttpRequest& operator=(HttpRequest&&) = default;
    ~HttpRequest() { kv::json::wipe(body); }
};

// What goes back. The session adds Date-less framing, X-Request-Id, Cache-Control: no-store and X-Content-Type-Options: nosniff to every
// answer, and leaves the body out for HEAD (Content-Length stays).
struct HttpResponse {
    unsigned status = 200;
    std::string content_type;
    std::string body;
    std::vector<std::pair<std::string, std::string>> headers;  // ETag, Location, Allow, Retry-After...

    HttpResponse() = default;
    HttpResponse(HttpResponse&&) = default;
    HttpResponse& operator=(HttpResponse&&) = default;
    ~HttpResponse() { kv::json::wipe(body); }
};

}  // namespace kvd
