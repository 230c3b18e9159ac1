#include "kvd/framing.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "kvd/input_buffer.h"
#include "kvd/response.h"

namespace {

using kv::Errc;
using kvd::ChunkedDecoder;
using kvd::Head;
using kvd::HeadScanner;
using kvd::parse_head;

const std::string host = "Host: a\r\n";

std::string get(const std::string& fields, const std::string& target = "/x") {
    return "GET " + target + " HTTP/1.1\r\n" + fields + "\r\n";
}

// The scanner and the parser together, fed in pieces of `step` bytes: "ok" and the block's size, or the error's code.
std::string judge(const std::string& input, std::size_t step) {
    HeadScanner scanner({});
    for (std::size_t end = std::min(step, input.size());; end = std::min(end + step, input.size())) {
        const auto size = scanner.scan(std::string_view(input).substr(0, end));
        if (!size) return std::string(kv::code_name(size.error().code));
        if (*size > 0) {
            const auto head = parse_head(std::string_view(input).substr(0, *size));
            return head ? "ok " + std::to_string(*size) : std::string(kv::code_name(head.error().code));
        }
        if (end == input.size()) return "more";
    }
}

std::string judge(const std::string& input) {
    const std::string whole = judge(input, input.size());
    for (std::size_t step : {1, 2, 3, 7}) CHECK(judge(input, step) == whole);
    return whole;
}

std::string ok(const std::string& input) { return "ok " + std::to_string(input.size()); }

}  // namespace

TEST_CASE("a plain request is read, and what follows it is not") {
    const std::string one = get(host);
    CHECK(judge(one) == ok(one));
    CHECK(judge(one + one) == ok(one));
    CHECK(judge(one.substr(0, one.size() - 1)) == "more");
}

TEST_CASE("the parts of a request are views of the block") {
    const std::string block =
        "PUT /a/b%20c?x=1&y=/?z HTTP/1.1\r\nhOsT: example:80\r\nContent-Length: 12\r\nAUTHORIZATION:  Bearer t \r\n"
        "Content-Type: application/json\r\nIf-Match: \"e-1\"\r\nIf-None-Match: *\r\nLast-Event-ID: 7\r\nAccept: a/b\r\nX-Request-Id: "
        "r-1\r\n"
        "Expect: 100-continue\r\nAccept: c/d;q=0.5\r\nX-Other: \xff\r\n\r\n";
    const auto head = parse_head(block);
    REQUIRE(head);
    CHECK(head->method == "PUT");
    CHECK(head->path == "/a/b%20c");
    CHECK(head->query == "x=1&y=/?z");
    CHECK(head->has_query);
    CHECK(head->authorization == "Bearer t");
    CHECK(head->content_type == "application/json");
    CHECK(head->if_match == "\"e-1\"");
    CHECK(head->if_none_match == "*");
    CHECK(head->last_event_id == "7");
    CHECK(head->accept == "a/b, c/d;q=0.5");
    CHECK(head->request_id == "r-1");
    CHECK(head->expect == "100-continue");
    CHECK(head->content_length == 12u);
    CHECK_FALSE(head->is_chunked);
    CHECK(head->keeps_alive);
}

TEST_CASE("connections are kept as the version and the client say") {
    const auto keeps_alive = [](const std::string& block) {
        const auto head = parse_head(block);
        REQUIRE(head);
        return head->keeps_alive;
    };
    CHECK(keeps_alive("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    CHECK_FALSE(keeps_alive("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    CHECK_FALSE(keeps_alive("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    CHECK_FALSE(keeps_alive("GET / HTTP/1.0\r\nHost: a\r\n\r\n"));
    CHECK(keeps_alive("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"));
}

TEST_CASE("what would let one request hide in another is refused") {
    const auto refused = [](const std::string& input) {
        INFO(input);
        CHECK(judge(input) == "invalid-request");
    };
    SUBCASE("transfer codings") {
        for (const char* coding : {"gzip", "gzip, chunked", "chunked, gzip", "Chunked", "chunked, chunked", "identity",
                                   "\"chunked\"", "", "xchunked"})
            refused(get(host + "Transfer-Encoding: " + coding + "\r\n"));
        refused(get(host + "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n"));
        refused(get(host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"));
        refused(get(host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"));
        refused("PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    }
    SUBCASE("two framings") {
        refused(get(host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"));
        refused(get(host + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"));
    }
    SUBCASE("lengths") {
        for (const char* length :
             {"-1", "+1", "0x1", "1 ", "1, 1", "1,1", "", " ", "1e3", "18446744073709551616", "1\t2", "٣"})
            if (std::string(length) != "1 ") refused(get(host + "Content-Length: " + length + "\r\n"));
        refused(get(host + "Content-Length: 3\r\nContent-Length: 3\r\n"));
        refused(get(host + "Content-Length: 3\r\ncontent-length: 4\r\n"));
    }
    SUBCASE("lines") {
        refused(get(host + "X-A: b\r\n ,admin\r\n"));
        refused(get(host + "X-A: b\r\n\t,admin\r\n"));
        refused("GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n");
        refused("GET / HTTP/1.1\nHost: a\n\n");
        refused("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n");
        refused("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n");
        refused("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n");
        refused(get(host + "X-A : b\r\n"));
        refused(get(host + "X A: b\r\n"));
        refused(get(host + ": b\r\n"));
        refused(get(host + "no colon\r\n"));
    }
    SUBCASE("bytes") {
        refused(get(host + std::string("X-A: b\0c\r\n", 10)));
        for (int byte = 1; byte < 0x20; ++byte)
            if (byte != '\t' && byte != '\n' && byte != '\r')
                refused(get(host + "X-A: b" + std::string(1, static_cast<char>(byte)) + "c\r\n"));
        refused(get(host + "X-A: \x7f\r\n"));
    }
    SUBCASE("repeated fields") {
        for (const char* name :
             {"Host: a", "Content-Length: 0", "Authorization: Bearer a", "If-Match: *", "If-None-Match: *", "Last-Event-ID: 1",
              "X-Request-Id: a", "Content-Type: text/plain", "Expect: 100-continue"}) {
            const std::string line = std::string(name) + "\r\n";
            refused(get((line.rfind("Host", 0) == 0 ? "" : host) + line + line));
        }
    }
}

TEST_CASE("a host is asked for, once and well-formed") {
    CHECK(judge(get("")) == "invalid-request");
    for (const char* name : {"a b", "a,b", "a/b", "user@a", "\xc3\xa9"})
        CHECK(judge(get(std::string("Host: ") + name + "\r\n")) == "invalid-request");
    for (const char* name : {"a", "a:80", "[::1]:8420", "127.0.0.1", ""})
        CHECK(judge(get(std::string("Host: ") + name + "\r\n")).rfind("ok", 0) == 0);
    // Health checks of simple load balancers.
    for (const char* path : {"/healthz", "/readyz", "/readyz?x"})
        CHECK(judge(std::string("GET ") + path + " HTTP/1.0\r\n\r\n").rfind("ok", 0) == 0);
    CHECK(judge("GET /x HTTP/1.0\r\n\r\n") == "invalid-request");
    CHECK(judge("GET /healthz HTTP/1.1\r\n\r\n") == "invalid-request");
}

TEST_CASE("the request line has three parts that we know") {
    for (const char* line : {"GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/0.9", "PRI * HTTP/2.0", "GET /",
                             "GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "G(T / HTTP/1.1",
                             "GET / http/1.1", "GET", "\r\nGET / HTTP/1.1", "GET /\t HTTP/1.1"}) {
        INFO(line);
        CHECK(judge(std::string(line) + "\r\n" + host + "\r\n") == "invalid-request");
    }
    CHECK(judge("\x16\x03\x01") == "invalid-request");  // TLS
}

TEST_CASE("a target is a path of visible ASCII") {
    for (const char* target : {"*", "x", "/\xc3\xa9", "/a\x7f", "/a#b", "http:///x", "http://a b/x", "http://host",
                               "http://host?x", "ftp://a/x", "a:443", "http://u@h/x"}) {
        INFO(target);
        CHECK(judge(get(host, target)) == "invalid-request");
    }
    const std::string absolute = get(host, "HTTP://Example.com:80/x/y?z");
    const auto head = parse_head(absolute);
    REQUIRE(head);
    CHECK(head->path == "/x/y");
    CHECK(head->query == "z");
    const std::string bare = get(host, "/x");
    CHECK_FALSE(parse_head(bare)->has_query);
    const std::string empty = get(host, "/x?");
    CHECK(parse_head(empty)->has_query);
}

TEST_CASE("target and header block have limits, and only what is beyond them is refused") {
    const std::string long_target = get(host, "/" + std::string((8u << 10) - 1, 'a'));
    CHECK(judge(long_target, 512) == ok(long_target));
    CHECK(judge(get(host, "/" + std::string(8u << 10, 'a')), 512) == "target-too-long");
    CHECK(judge("GET /" + std::string(20u << 10, 'a'), 512) == "target-too-long");  // and no line end in sight

    const std::string largest =
        get(host + "X-A: " + std::string((16u << 10) - get(host + "X-A: \r\n").size(), 'a') + "\r\n");
    CHECK(largest.size() == 16u << 10);
    CHECK(judge(largest, 512) == ok(largest));
    CHECK(judge(get(host + "X-A: " + std::string(16u << 10, 'a') + "\r\n"), 512) == "headers-too-large");
    CHECK(judge("GET / HTTP/1.1\r\nX-A: " + std::string(16u << 10, 'a'), 512) == "headers-too-large");
    std::string many = "GET / HTTP/1.1\r\n";
    while (many.size() <= 16u << 10) many += "X-A: b\r\n";
    CHECK(judge(many, 512) == "headers-too-large");
}

TEST_CASE("a request id is taken if it is 1 to 128 visible characters, else as if it were not there") {
    const auto taken = [](const std::string& value) {
        const std::string block = get(host + "X-Request-Id: " + value + "\r\n");
        const auto head = parse_head(block);
        REQUIRE(head);
        return std::string(head->request_id);
    };
    CHECK(taken("abc~!") == "abc~!");
    CHECK(taken(std::string(128, 'x')) == std::string(128, 'x'));
    CHECK(taken(std::string(129, 'x')).empty());
    CHECK(taken("a b").empty());
    CHECK(taken("\xc3\xa9").empty());
    CHECK(taken("").empty());
}

TEST_CASE("HTTP/1.0 has no expectations") {
    const auto head = parse_head("PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    REQUIRE(head);
    CHECK(head->expect.empty());
}

namespace {

// Decodes input in pieces; gives the body, what is left behind it, or what went wrong.
std::string decode(std::string_view input, const std::vector<std::size_t>& cuts, std::size_t limit = 1000) {
    ChunkedDecoder decoder(limit);
    std::string body;
    std::size_t begin = 0;
    for (std::size_t i = 0; i <= cuts.size(); ++i) {
        const std::size_t end = i < cuts.size() ? cuts[i] : input.size();
        std::string_view piece = input.substr(begin, end - begin);
        const auto status = decoder.feed(piece, body);
        if (status == ChunkedDecoder::Status::malformed) return "malformed";
        if (status == ChunkedDecoder::Status::too_large) return "too large";
        if (status == ChunkedDecoder::Status::done)
            return body + "|" + std::string(piece) + std::string(input.substr(end));
        if (!piece.empty()) return "left input";
        begin = end;
    }
    return body + "...";
}

std::string decode_every_way(std::string_view input, std::size_t limit = 1000) {
    const std::string whole = decode(input, {}, limit);
    std::vector<std::size_t> each;
    for (std::size_t i = 1; i < input.size(); ++i) {
        each.push_back(i);
        CHECK(decode(input, {i}, limit) == whole);
    }
    CHECK(decode(input, each, limit) == whole);
    return whole;
}

}  // namespace

TEST_CASE("chunks are decoded however they are cut") {
    CHECK(decode_every_way("3\r\nabc\r\n0\r\n\r\n") == "abc|");
    CHECK(decode_every_way("3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\nGET /") == "abc0123456789|GET /");
    CHECK(decode_every_way("0\r\n\r\n") == "|");
    CHECK(decode_every_way("00000000\r\n\r\n") == "|");
    CHECK(decode_every_way("A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n") == "\r\n\r\n\r\n\r\n\r\n|");
    CHECK(decode_every_way("3\r\nabc\r\n0\r\n") == "abc...");
    CHECK(decode_every_way("3\r\nab") == "ab...");
}

TEST_CASE("chunks that anybody could read differently are malformed") {
    for (const char* input :
         {"3;x=y\r\nabc\r\n0\r\n\r\n", "3;\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n", " 3\r\nabc\r\n", "0x3\r\nabc\r\n",
          "+3\r\nabc\r\n", "\r\n3\r\n", "000000003\r\nabc\r\n0\r\n\r\n", "3\nabc\r\n", "3\r\nabcd\r\n",
          "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r\n0\r\nX-User-Id: admin\r\n\r\n", "0\r\n \r\n", "0\r\nx", "0\n\r\n",
          "g\r\n", "-1\r\n", "3\rabc"}) {
        INFO(input);
        CHECK(decode_every_way(input) == "malformed");
    }
}

TEST_CASE("a chunked body may be as large as the limit, and its sizes are not believed before") {
    CHECK(decode_every_way("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 5) == "abcde|");
    CHECK(decode_every_way("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", 5) == "too large");
    CHECK(decode_every_way("ffffffff\r\n", 5) == "too large");
}

TEST_CASE("a body that grows reserves no more than twice what arrived") {
    std::string body;
    for (int i = 0; i < 2000; ++i) {
        kvd::append_wiped(body, "0123456789");
        REQUIRE(body.capacity() <= std::max<std::size_t>(body.size() * 2, 32));
    }
    CHECK(body.size() == 20'000);
    CHECK(body.substr(19'990) == "0123456789");
}

TEST_CASE("an input buffer keeps what was not consumed, whatever its size") {
    kvd::InputBuffer buffer;
    std::string expected;
    std::size_t written = 0;
    for (std::size_t round = 1; round < 3000; ++round) {
        const auto room = buffer.prepare(20'000);
        REQUIRE(room.size > 0);
        const std::size_t size = std::min(room.size, round % 97 + 1);
        for (std::size_t i = 0; i < size; ++i) {
            room.data[i] = static_cast<char>('a' + written++ % 26);
            expected += room.data[i];
        }
        buffer.commit(size);
        const std::size_t take = std::min(expected.size(), expected.size() > 15'000 ? 14'000 : round % 61);
        buffer.consume(take);
        expected.erase(0, take);
        REQUIRE(buffer.view() == expected);
    }
    buffer.shrink();
    CHECK(buffer.empty());
}

namespace {

// A few bytes replaced, removed or doubled, mostly by those that mean something.
std::string mutated(std::string text, std::mt19937& random) {
    const std::string telling("\r\n\0 \t:;,0aF\xff", 13);
    for (std::size_t changes = random() % 4 + 1; changes > 0 && !text.empty(); --changes) {
        const std::size_t at = random() % text.size();
        const char byte = random() % 4 != 0 ? telling[random() % telling.size()] : static_cast<char>(random());
        switch (random() % 4) {
            case 0:
                text.erase(at, 1);
                break;
            case 1:
                text.insert(at, 1, byte);
                break;
            case 2:
                text.insert(at, text.substr(at, random() % 20));
                break;
            default:
                text[at] = byte;
        }
    }
    return text;
}

}  // namespace

TEST_CASE("whatever arrives, it is judged the same however it is cut") {
    const unsigned seed = std::random_device()();
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const std::string head =
        "PUT /a/b?c=d HTTP/1.1\r\nHost: a:1\r\nContent-Length: 12\r\nExpect: 100-continue\r\nX-A: b\r\n\r\n";
    const std::string chunks = "3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n";
    for (int round = 0; round < 3000; ++round) {
        const std::string request = mutated(head, random);
        const std::string whole = judge(request, request.size() + 1);
        const std::size_t step = random() % 9 + 1;
        INFO(request);
        CHECK(judge(request, step) == whole);

        const std::string body = mutated(chunks, random);
        INFO(body);
        const std::string decoded = decode(body, {});
        CHECK(decode(body, {random() % (body.size() + 1)}) == decoded);
    }
}

TEST_CASE("chunks that we send are chunks that we read") {
    std::string wire;
    bool follows = false;
    for (const std::string& piece : {std::string("a"), std::string(4097, 'b'), std::string("\r\n0\r\n\r\n")}) {
        kvd::append_chunk_head(wire, piece.size(), follows);
        wire += piece;
        follows = true;
    }
    kvd::append_chunk_head(wire, 0, follows);
    ChunkedDecoder decoder(1u << 20);
    std::string_view input = wire;
    std::string body;
    CHECK(decoder.feed(input, body) == ChunkedDecoder::Status::done);
    CHECK(input.empty());
    CHECK(body == "a" + std::string(4097, 'b') + "\r\n0\r\n\r\n");
    std::string empty;
    kvd::append_chunk_head(empty, 0, false);
    CHECK(empty == "0\r\n\r\n");
}

TEST_CASE("an answer in pieces tells no length") {
    class Nothing final : public kvd::BodySource {
        void next(Done done) override { done(Piece{{}, true}); }
    };
    kvd::HttpResponse response;
    response.body = "first";
    std::string head;
    kvd::render_response_head(response, {"r"}, head);
    CHECK(head.find("Content-Length: 5\r\n") != std::string::npos);
    response.source = std::make_shared<Nothing>();
    kvd::render_response_head(response, {"r"}, head);
    CHECK(head.find("Content-Length") == std::string::npos);
    CHECK(head.find("Transfer-Encoding: chunked\r\n") != std::string::npos);
}
