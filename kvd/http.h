#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json/json.h"
#include "kv/result.h"

namespace kvd {

struct WatchTerms;

// One HTTP request, its framing already judged (framing.h): what routes read. Header members are empty where absent.
struct HttpRequest {
    std::string method;  // "GET"
    std::string path;    // raw, before '?': still percent-encoded, visible ASCII
    std::string query;   // raw, after '?'
    bool has_query = false;
    bool is_http_1_0 = false;  // and so cannot take an answer in pieces
    std::string content_type;
    std::string accept;
    std::string accept_encoding;
    std::string if_match;
    std::string if_none_match;
    std::string last_event_id;
    std::string origin;        // of the page that asks
    bool is_preflight = false;  // a browser asks what such a page may do
    std::string request_id;  // given and well-formed, or drawn
    std::string peer;        // "127.0.0.1"
    std::string body;        // decoded
    // Where the answer may be a watch. Shared because the answer keeps it.
    std::shared_ptr<WatchTerms> watch_terms;

    HttpRequest() = default;
    HttpRequest(HttpRequest&&) = default;
    HttpRequest& operator=(HttpRequest&&) = default;
    ~HttpRequest() { kv::json::wipe(body); }
};

// A body that is made while it is sent: each piece is asked for when the one before is written, so that a slow reader holds one
// piece and what the source itself holds. Making a piece may wait for a disk, which a thread that serves connections must not
// do: so the answer may come later, and from another thread.
class BodySource {
public:
    struct Piece {
        std::string bytes;  // empty only where it is the last
        bool is_last = false;
    };
    using Done = std::function<void(kv::Result<Piece>)>;

    virtual ~BodySource();
    // Calls `done` once, from any thread, perhaps before it returns. Not called again before that, nor after the last piece or an
    // error.
    virtual void next(Done done) = 0;
};

// What goes back. The session adds Date-less framing, X-Request-Id, Cache-Control: no-store and X-Content-Type-Options: nosniff to every
// answer, and leaves the body out for HEAD (Content-Length stays).
struct HttpResponse {
    unsigned status = 200;
    std::string content_type;
    std::string body;
    std::vector<std::pair<std::string, std::string>> headers;  // ETag, Location, Allow, Retry-After...
    // If set, `body` is the first piece and the rest comes from here: with chunked coding, cut off without its end if the source
    // fails. Shared because std::function copies what it holds.
    std::shared_ptr<BodySource> source;
    // The source ends when there is a reason to: its reader owes no rate, but must take something now and then.
    bool is_endless = false;
    // It came late because that was asked for: how long it took tells nothing of how fast we are.
    bool was_awaited = false;

    HttpResponse() = default;
    HttpResponse(HttpResponse&&) = default;
    HttpResponse& operator=(HttpResponse&&) = default;
    ~HttpResponse() { kv::json::wipe(body); }
};

}  // namespace kvd
