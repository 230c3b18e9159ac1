#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kvd/http.h"
#include "kv/result.h"

namespace kvd {

// Cors lets pages of some origins use the API from a browser (WHATWG Fetch, section 3.3). Without origins, which is how kvd
// is started, browsers let no page of another origin read anything. Cookies are never taken, so credentials are not allowed for.
//
// Threads: any.
class Cors {
public:
    // "https://app.example,https://ops.example:8443": scheme, host and port as browsers write them. Errors name the bad one.
    static kv::Result<Cors> parse(std::string_view origins);
    Cors() = default;

    bool allows(std::string_view origin) const;
    // The answer to a preflight request of an origin that is allowed.
    static HttpResponse preflight();
    // What a page of `origin`, which is allowed, may read of the answer.
    static void add_to(HttpResponse& response, std::string_view origin);

private:
    std::vector<std::string> origins_;
};

}  // namespace kvd
