#include "kvd/framing.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <cstring>
#include <utility>

#include "json/json.h"

namespace kvd {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

using kv::Errc;
using kv::Error;
using kv::Result;

Error malformed(const char* what) { return Error{Errc::invalid_request, what}; }

bool is_token_character(char byte) noexcept {
    const auto letter = static_cast<char>(byte | 0x20);
    return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') ||
           (byte != '\0' && std::strchr("!#$%&'*+-.^_`|~", byte) != nullptr);
}

// What a host and port may be made of (RFC 3986 reg-name, IPv4, IPv6 in brackets).
bool is_host(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char byte) {
        const auto letter = static_cast<char>(byte | 0x20);
        return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') ||
               (byte != '\0' && std::strchr("-._~!$&'()*+;=%:[]", byte) != nullptr);
    });
}

// The bytes of the block, before anyone takes it apart: Beast joins folded lines and lets much else pass.
Result<void> check_bytes(std::string_view block) {
    for (std::size_t at = 0; at < block.size(); ++at) {
        const auto byte = static_cast<unsigned char>(block[at]);
        if (byte >= 0x20 && byte != 0x7f) continue;
        if (byte == '\t') continue;
        if (byte == '\r' && at + 1 < block.size() && block[at + 1] == '\n') {
            ++at;
            if (at + 1 < block.size() && (block[at + 1] == ' ' || block[at + 1] == '\t'))
                return malformed("a header line begins with white space");
            continue;
        }
        if (byte == '\0') return malformed("a NUL byte in the header");
        if (byte == '\n' || byte == '\r') return malformed("a line of the header does not end in CRLF");
        return malformed("a control byte in the header");
    }
    return {};
}

std::optional<std::uint64_t> parse_length(std::string_view text) {
    std::uint64_t length = 0;
    if (text.empty() || text.size() > 18) return std::nullopt;
    for (char byte : text) {
        if (byte < '0' || byte > '9') return std::nullopt;
        length = length * 10 + static_cast<std::uint64_t>(byte - '0');
    }
    return length;
}

// Beast's parser with our own callbacks: views into the block instead of a map of copies. It is given the header block
// alone, so the callbacks for bodies are never reached.
class HeadParser final : public http::basic_parser<true> {
public:
    struct Fields {
        std::optional<std::string_view> host, length, encoding, authorization, content_type, if_match, if_none_match,
            last_event_id, expect, request_id, origin, cors_method, user_id, application_id;
        std::string forwarded_for;
        bool is_identity_ambiguous = false;
        std::string accept;
        std::string accept_encoding;
    };

    std::string_view method, target;
    int version = 0;
    Fields fields;
    const char* repeated = nullptr;  // a field that must not be

private:
    static std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

    void on_request_impl(http::verb, beast::string_view method_text, beast::string_view target_text, int number,
                         beast::error_code&) override {
        method = view(method_text);
        target = view(target_text);
        version = number;
    }

    void once(std::optional<std::string_view>& field, std::string_view value, const char* name) {
        if (field) repeated = name;
        field = value;
    }

    static void append(std::string& list, std::string_view value) {
        if (!list.empty()) list += ", ";
        list += value;
    }

    void on_field_impl(http::field, beast::string_view name_text, beast::string_view value_text,
                       beast::error_code&) override {
        const std::string_view name = view(name_text);
        const std::string_view value = view(value_text);
        const auto is = [name](std::string_view lower) { return equals_ignoring_case(name, lower); };
        if (is("host")) return once(fields.host, value, "Host");
        if (is("content-length")) return once(fields.length, value, "Content-Length");
        if (is("transfer-encoding")) return once(fields.encoding, value, "Transfer-Encoding");
        if (is("authorization")) return once(fields.authorization, value, "Authorization");
        if (is("content-type")) return once(fields.content_type, value, "Content-Type");
        if (is("if-match")) return once(fields.if_match, value, "If-Match");
        if (is("if-none-match")) return once(fields.if_none_match, value, "If-None-Match");
        if (is("last-event-id")) return once(fields.last_event_id, value, "Last-Event-ID");
        if (is("expect")) return once(fields.expect, value, "Expect");
        if (is("x-request-id")) return once(fields.request_id, value, "X-Request-Id");
        if (is("origin")) return once(fields.origin, value, "Origin");
        if (is("access-control-request-method")) return once(fields.cors_method, value, "Access-Control-Request-Method");
        if (is("x-forwarded-for")) return append(fields.forwarded_for, value);
        if (is("connection")) fields.is_identity_ambiguous |= names_identity(value);
        if (is_identity(name)) return take_identity(name, value);
        if (is("accept")) return append(fields.accept, value);
        if (is("accept-encoding")) return append(fields.accept_encoding, value);
    }

    // Whoever handed the request on may have removed a field that Connection names, or read an underscore as a hyphen: what
    // came then is perhaps not what the other side meant.
    static bool is_identity(std::string_view name) {
        const auto is = [name](std::string_view field) {
            return std::equal(name.begin(), name.end(), field.begin(), field.end(), [](char a, char b) {
                return (a == '_' ? '-' : a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
            });
        };
        return is("x-user-id") || is("x-application-id");
    }

    void take_identity(std::string_view name, std::string_view value) {
        auto& field = equals_ignoring_case(name.substr(0, 3), "x-u") || equals_ignoring_case(name.substr(0, 3), "x_u") ? fields.user_id : fields.application_id;
        if (field || name.find('_') != std::string_view::npos) fields.is_identity_ambiguous = true;
        if (!field) field = value;
    }

    static bool names_identity(std::string_view list) {
        while (!list.empty()) {
            const std::size_t comma = std::min(list.find(','), list.size());
            std::string_view token = list.substr(0, comma);
            while (!token.empty() && (token.front() == ' ' || token.front() == '\t')) token.remove_prefix(1);
            while (!token.empty() && (token.back() == ' ' || token.back() == '\t')) token.remove_suffix(1);
            if (is_identity(token)) return true;
            list.remove_prefix(std::min(comma + 1, list.size()));
        }
        return false;
    }

    void on_response_impl(int, beast::string_view, int, beast::error_code&) override {}
    void on_header_impl(beast::error_code&) override {}
    void on_body_init_impl(boost::optional<std::uint64_t> const&, beast::error_code&) override {}
    std::size_t on_body_impl(beast::string_view body, beast::error_code&) override { return body.size(); }
    void on_chunk_header_impl(std::uint64_t, beast::string_view, beast::error_code&) override {}
    std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view body, beast::error_code&) override {
        return body.size();
    }
    void on_finish_impl(beast::error_code&) override {}
};

// Splits the target. An absolute one ("http://host/path", which a server must accept) loses scheme and authority: we
// serve one site, so the authority decides nothing.
Result<void> read_target(std::string_view target, Head& head) {
    if (!is_visible_ascii(target)) return malformed("the target holds bytes that must be percent-encoded");
    if (target.find('#') != std::string_view::npos) return malformed("the target holds a fragment");
    for (std::string_view scheme : {"http://", "https://"}) {
        if (!equals_ignoring_case(target.substr(0, scheme.size()), scheme)) continue;
        const std::size_t authority_end = std::min(target.find_first_of("/?", scheme.size()), target.size());
        const std::string_view authority = target.substr(scheme.size(), authority_end - scheme.size());
        if (authority.empty() || !is_host(authority)) return malformed("the target's authority is malformed");
        target.remove_prefix(authority_end);
        if (target.empty() || target.front() == '?') return malformed("the target has no path");
        break;
    }
    if (target.empty() || target.front() != '/') return malformed("the target is not a path");
    const std::size_t question = target.find('?');
    head.path = target.substr(0, question);
    head.has_query = question != std::string_view::npos;
    if (head.has_query) head.query = target.substr(question + 1);
    return {};
}

Result<void> read_host(const HeadParser::Fields& fields, const Head& head) {
    if (fields.host) {
        if (!is_host(*fields.host)) return malformed("the Host header is malformed");
        return {};
    }
    // Health checks of simple load balancers.
    if (head.is_http_1_0 && (head.path == "/healthz" || head.path == "/readyz")) return {};
    return malformed("there is no Host header");
}

Result<void> read_body_framing(const HeadParser::Fields& fields, Head& head) {
    if (fields.encoding) {
        if (*fields.encoding != "chunked") return malformed("Transfer-Encoding is not exactly \"chunked\"");
        if (head.is_http_1_0) return malformed("HTTP/1.0 has no Transfer-Encoding");
        if (fields.length) return malformed("both Content-Length and Transfer-Encoding");
        head.is_chunked = true;
    }
    if (fields.length) {
        head.content_length = parse_length(*fields.length);
        if (!head.content_length) return malformed("Content-Length is not one decimal number");
    }
    return {};
}

}  // namespace

bool equals_ignoring_case(std::string_view text, std::string_view lower) noexcept {
    if (text.size() != lower.size()) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char byte = text[i];
        if ((byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + ('a' - 'A')) : byte) != lower[i]) return false;
    }
    return true;
}

bool is_visible_ascii(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char byte) { return byte > 0x20 && byte < 0x7f; });
}

Result<std::size_t> HeadScanner::scan(std::string_view input) {
    // A TLS handshake or another protocol has no line ends to wait for.
    if (scanned_ == 0 && !input.empty() && !is_token_character(input.front()))
        return malformed("this is not the beginning of an HTTP request");
    while (scanned_ < input.size()) {
        const auto* newline =
            static_cast<const char*>(std::memchr(input.data() + scanned_, '\n', input.size() - scanned_));
        if (newline == nullptr) {
            scanned_ = input.size();
            break;
        }
        const auto at = static_cast<std::size_t>(newline - input.data());
        if (at == 0 || input[at - 1] != '\r') return malformed("a line of the header does not end in CRLF");
        const bool is_empty_line = at - line_begin_ == 1;
        scanned_ = at + 1;
        line_begin_ = scanned_;
        if (scanned_ > limits_.head_bytes_max) break;
        if (is_empty_line) return scanned_;
    }
    constexpr std::size_t method_bytes_max = 32;  // and the spaces: where the target must have ended
    if (line_begin_ == 0 && scanned_ > limits_.target_bytes_max + method_bytes_max)
        return Error{
            .code = Errc::target_too_long, .message = "the target is too long", .limit = limits_.target_bytes_max};
    if (scanned_ > limits_.head_bytes_max)
        return Error{.code = Errc::headers_too_large,
                     .message = "the header block is too large",
                     .limit = limits_.head_bytes_max};
    return std::size_t{0};
}

Result<Head> parse_head(std::string_view block, const FramingLimits& limits) {
    KV_CHECK(check_bytes(block));
    HeadParser parser;
    parser.header_limit(static_cast<std::uint32_t>(block.size() + 1));
    parser.body_limit(boost::none);
    beast::error_code error;
    const std::size_t used = parser.put(boost::asio::buffer(block.data(), block.size()), error);
    if (error || used != block.size() || !parser.is_header_done())
        return malformed("the request line or a header is malformed");
    if (parser.version != 10 && parser.version != 11) return malformed("this is neither HTTP/1.1 nor HTTP/1.0");
    if (parser.target.size() > limits.target_bytes_max)
        return Error{
            .code = Errc::target_too_long, .message = "the target is too long", .limit = limits.target_bytes_max};
    if (parser.repeated != nullptr)
        return Error{.code = Errc::invalid_request,
                     .message = "a header is repeated that may stand once",
                     .field = parser.repeated};

    Head head;
    head.method = parser.method;
    head.is_http_1_0 = parser.version == 10;
    head.keeps_alive = parser.keep_alive();
    KV_CHECK(read_target(parser.target, head));
    KV_CHECK(read_host(parser.fields, head));
    KV_CHECK(read_body_framing(parser.fields, head));
    HeadParser::Fields& fields = parser.fields;
    head.authorization = fields.authorization.value_or(std::string_view());
    head.content_type = fields.content_type.value_or(std::string_view());
    head.if_match = fields.if_match.value_or(std::string_view());
    head.if_none_match = fields.if_none_match.value_or(std::string_view());
    head.last_event_id = fields.last_event_id.value_or(std::string_view());
    if (!head.is_http_1_0) head.expect = fields.expect.value_or(std::string_view());  // 1.0 has no expectations
    head.user_id = fields.user_id;
    head.application_id = fields.application_id;
    head.is_identity_ambiguous = fields.is_identity_ambiguous;
    head.forwarded_for = std::move(fields.forwarded_for);
    head.origin = fields.origin.value_or(std::string_view());
    head.cors_method = fields.cors_method.value_or(std::string_view());
    head.accept = std::move(fields.accept);
    head.accept_encoding = std::move(fields.accept_encoding);
    constexpr std::size_t request_id_bytes_max = 128;
    if (fields.request_id && fields.request_id->size() <= request_id_bytes_max && is_visible_ascii(*fields.request_id))
        head.request_id = *fields.request_id;
    return head;
}

void append_wiped(std::string& body, std::string_view bytes) {
    const std::size_t needed = body.size() + bytes.size();
    if (needed > body.capacity()) {
        std::string larger;
        larger.reserve(body.empty() ? needed : needed * 2);
        larger.append(body);
        kv::json::wipe(body);
        body.swap(larger);
    }
    body.append(bytes);
}

ChunkedDecoder::Status ChunkedDecoder::expect(char byte, char wanted, State next) {
    if (byte != wanted) {
        state_ = State::failed;
        return Status::malformed;
    }
    state_ = next;
    return Status::more;
}

ChunkedDecoder::Status ChunkedDecoder::take_size_byte(char byte, std::size_t body_bytes) {
    unsigned digit = 0;
    const char lower = static_cast<char>(byte | 0x20);
    if (byte >= '0' && byte <= '9') {
        digit = static_cast<unsigned>(byte - '0');
    } else if (lower >= 'a' && lower <= 'f') {
        digit = static_cast<unsigned>(lower - 'a' + 10);
    } else if (byte == '\r' && digits_ > 0) {
        if (left_ > body_bytes_max_ - body_bytes) {
            state_ = State::failed;
            return Status::too_large;
        }
        state_ = State::size_lf;
        return Status::more;
    } else {
        state_ = State::failed;
        return Status::malformed;
    }
    if (++digits_ > 8) {
        state_ = State::failed;
        return Status::malformed;
    }
    left_ = left_ << 4 | digit;
    return Status::more;
}

ChunkedDecoder::Status ChunkedDecoder::feed(std::string_view& input, std::string& body) {
    Status status = Status::more;
    while (status == Status::more && state_ != State::done && !input.empty()) {
        if (state_ == State::data) {
            const std::string_view part =
                input.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(left_, input.size())));
            append_wiped(body, part);
            input.remove_prefix(part.size());
            left_ -= part.size();
            if (left_ == 0) state_ = State::data_cr;
            continue;
        }
        const char byte = input.front();
        input.remove_prefix(1);
        switch (state_) {
            case State::size:
                status = take_size_byte(byte, body.size());
                break;
            case State::size_lf:
                status = expect(byte, '\n', left_ == 0 ? State::last_cr : State::data);
                break;
            case State::data_cr:
                status = expect(byte, '\r', State::data_lf);
                break;
            case State::data_lf:
                status = expect(byte, '\n', State::size);
                digits_ = 0;
                break;
            case State::last_cr:
                status = expect(byte, '\r', State::last_lf);
                break;
            case State::last_lf:
                status = expect(byte, '\n', State::done);
                break;
            case State::data:
            case State::done:
            case State::failed:
                status = Status::malformed;
                break;
        }
    }
    if (state_ == State::done) return Status::done;
    if (state_ == State::failed && status == Status::more) return Status::malformed;
    return status;
}

}  // namespace kvd
