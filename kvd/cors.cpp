#include "kvd/cors.h"

#include <algorithm>

namespace kvd {
namespace {

// Serialised as a browser does (WHATWG HTML, 7.1.1): lower case, no path, no user, no default port.
bool is_origin(std::string_view text) {
    const bool is_https = text.starts_with("https://");
    if (!is_https && !text.starts_with("http://")) return false;
    const std::string_view default_port = is_https ? ":443" : ":80";
    text.remove_prefix(is_https ? 8 : 7);
    const auto is_plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == ':' || c == '[' || c == ']' || c == '_';
    };
    return !text.empty() && text.front() != ':' && text.back() != ':' && std::all_of(text.begin(), text.end(), is_plain) &&
           !text.ends_with(default_port);
}

}  // namespace

kv::Result<Cors> Cors::parse(std::string_view origins) {
    Cors cors;
    while (!origins.empty()) {
        const std::string_view origin = origins.substr(0, origins.find(','));
        origins.remove_prefix(std::min(origin.size() + 1, origins.size()));
        if (!is_origin(origin))
            return kv::Error{kv::Errc::invalid_request, "\"" + std::string(origin) + "\" is no origin like https://app.example or http://localhost:3000"};
        cors.origins_.emplace_back(origin);
    }
    return cors;
}

bool Cors::allows(std::string_view origin) const {
    return std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

HttpResponse Cors::preflight() {
    HttpResponse response;
    response.status = 204;
    response.headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE"},
                        {"Access-Control-Allow-Headers", "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID, X-Request-Id"},
                        {"Access-Control-Max-Age", "600"}};
    return response;
}

void Cors::add_to(HttpResponse& response, std::string_view origin) {
    response.headers.emplace_back("Access-Control-Allow-Origin", std::string(origin));
    response.headers.emplace_back("Access-Control-Expose-Headers", "Allow, ETag, Location, Retry-After, X-Request-Id, X-Revision");
    response.headers.emplace_back("Vary", "Origin");
}

}  // namespace kvd
