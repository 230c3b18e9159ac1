#include "kvd/response.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <utility>

#include "kvd/framing.h"

namespace kvd {
namespace {

// The statuses of HTTP.md, the usual ones first.
constexpr std::pair<unsigned, std::string_view> reason_phrases[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {507, "Insufficient Storage"},
};

std::string_view reason_phrase(unsigned status) {
    for (const auto& [number, phrase] : reason_phrases)
        if (number == status) return phrase;
    return "Status";
}

void append_number(std::string& out, std::uint64_t number) {
    std::array<char, 20> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    out.append(digits.data(), end);
}

bool has_header(const HttpResponse& response, std::string_view lower) {
    return std::any_of(response.headers.begin(), response.headers.end(),
                       [lower](const auto& header) { return equals_ignoring_case(header.first, lower); });
}

// What every answer of a status carries, whoever made it.
void add_status_headers(HttpResponse& response) {
    if (response.status == 401 && !has_header(response, "www-authenticate"))
        response.headers.emplace_back("WWW-Authenticate", "Bearer");
    if ((response.status == 503 || response.status == 429) && !has_header(response, "retry-after"))
        response.headers.emplace_back("Retry-After", "1");
}

void append_hex(std::string& out, std::uint64_t number) {
    std::array<char, 16> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number, 16).ptr;
    out.append(digits.data(), end);
}

}  // namespace

BodySource::~BodySource() = default;

bool has_content(unsigned status) noexcept { return status != 204 && status != 304; }

void render_response_head(HttpResponse& response, const ResponseFrame& frame, std::string& out) {
    add_status_headers(response);
    out.clear();
    out += "HTTP/1.1 ";
    append_number(out, response.status);
    out += ' ';
    out += reason_phrase(response.status);
    if (has_content(response.status)) {
        if (!response.content_type.empty()) {
            out += "\r\nContent-Type: ";
            out += response.content_type;
        }
        if (response.source) {
            out += "\r\nTransfer-Encoding: chunked";
        } else {
            out += "\r\nContent-Length: ";
            append_number(out, response.body.size());
        }
    }
    out += "\r\nX-Request-Id: ";
    out += frame.request_id;
    out += "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
    for (const auto& [name, value] : response.headers) {
        // A line break in a value would let its author write headers of his own.
        if (value.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) continue;
        out += name;
        out += ": ";
        out += value;
        out += "\r\n";
    }
    if (frame.is_closing) {
        out += "Connection: close\r\n";
    } else if (frame.is_http_1_0) {
        out += "Connection: keep-alive\r\n";
    }
    out += "\r\n";
}

void append_chunk_head(std::string& out, std::size_t size, bool follows) {
    if (follows) out += "\r\n";
    append_hex(out, size);
    out += size == 0 ? "\r\n\r\n" : "\r\n";
}

}  // namespace kvd
