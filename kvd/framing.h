#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kv/result.h"

// HTTP/1 framing, judged before anything else looks at a request. Nothing here touches a socket: sessions feed bytes
// in, so that every rule is tested split at every byte. Beast reads the request line and the header fields; bodies it
// never sees, because it decodes in ways that let one request hide in another.
namespace kvd {

struct FramingLimits {
    std::size_t head_bytes_max = 16u << 10;  // request line, header fields and the empty line
    std::size_t target_bytes_max = 8u << 10;
};

// Finds the end of a header block in a buffer that grows.
class HeadScanner {
public:
    explicit HeadScanner(const FramingLimits& limits) : limits_(limits) {}

    // `input` is everything since the first byte of the request; what earlier calls saw is not looked at again. Gives
    // the size of the block with its empty line, or 0: more is needed. Fails as soon as the input cannot become a
    // request: a bare LF, a first byte no method has, a limit.
    kv::Result<std::size_t> scan(std::string_view input);
    void reset() noexcept { scanned_ = line_begin_ = 0; }

private:
    FramingLimits limits_;
    std::size_t scanned_ = 0;
    std::size_t line_begin_ = 0;
};

// A header block that holds to every rule. Views point into the block.
struct Head {
    std::string_view method;
    std::string_view path;   // raw, before '?'
    std::string_view query;  // raw, after '?'
    bool has_query = false;
    bool is_http_1_0 = false;
    bool keeps_alive = false;  // as the client asked
    std::string_view authorization;
    std::string_view content_type;
    std::string_view if_match;
    std::string_view if_none_match;
    std::string_view last_event_id;
    std::string_view expect;
    std::string_view origin;
    std::string_view cors_method;  // Access-Control-Request-Method
    std::string_view request_id;  // empty unless 1–128 visible ASCII characters
    std::optional<std::string_view> user_id;         // X-User-Id
    std::optional<std::string_view> application_id;  // X-Application-Id
    bool is_identity_ambiguous = false;              // Presented::is_ambiguous
    std::string forwarded_for;    // X-Forwarded-For, joined
    std::string accept;           // repeated fields joined: a list, RFC 9110 section 5.3
    std::string accept_encoding;  // the same
    std::optional<std::uint64_t> content_length;
    bool is_chunked = false;

    bool has_body() const noexcept { return is_chunked || content_length.value_or(0) > 0; }
    bool has_length() const noexcept { return is_chunked || content_length.has_value(); }
};

// `block` is what HeadScanner found. Fails with invalid_request or target_too_long.
kv::Result<Head> parse_head(std::string_view block, const FramingLimits& limits = {});

// Appends to a body, wiping what a reallocation leaves behind. Never reserves more than twice what has arrived: a
// declared length alone costs no memory.
void append_wiped(std::string& body, std::string_view bytes);

// Decodes a chunked body strictly: sizes of 1 to 8 hex digits, no extensions, no trailers.
class ChunkedDecoder {
public:
    enum class Status : std::uint8_t { more, done, malformed, too_large };

    explicit ChunkedDecoder(std::size_t body_bytes_max) : body_bytes_max_(body_bytes_max) {}

    // Takes bytes off the front of `input` and appends data to `body`. After `done` the rest of `input` belongs to the
    // next request; after an error nothing can be told from it.
    Status feed(std::string_view& input, std::string& body);

private:
    enum class State : std::uint8_t { size, size_lf, data, data_cr, data_lf, last_cr, last_lf, done, failed };

    Status take_size_byte(char byte, std::size_t body_bytes);
    Status expect(char byte, char wanted, State next);

    std::size_t body_bytes_max_;
    std::uint64_t left_ = 0;  // of the chunk at hand
    int digits_ = 0;
    State state_ = State::size;
};

// ASCII only: what header names and tokens need, whatever the locale. `lower` is in lower case.
bool equals_ignoring_case(std::string_view text, std::string_view lower) noexcept;
bool is_visible_ascii(std::string_view text) noexcept;

}  // namespace kvd
