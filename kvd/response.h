#pragma once
#include <string>
#include <string_view>

#include "kvd/http.h"

namespace kvd {

// What the head of a response tells besides the response itself.
struct ResponseFrame {
    std::string_view request_id;
    bool is_closing = false;
    bool is_http_1_0 = false;  // asked so
};

// Writes status line and header fields, the empty line included, over `out`. Adds the fields that a status asks for
// (WWW-Authenticate, Retry-After) where the response has them not.
void render_response_head(HttpResponse& response, const ResponseFrame& frame, std::string& out);

// What stands before a chunk of `size` bytes, and behind the one before it (`follows`). Size 0 is the end of the body.
void append_chunk_head(std::string& out, std::size_t size, bool follows);

// False where HTTP allows no body.
bool has_content(unsigned status) noexcept;

}  // namespace kvd
