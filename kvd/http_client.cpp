#include "kvd/http_client.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <utility>

#include "kvd/framing.h"

namespace kvd {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using kv::Errc;
using kv::Error;
using kv::Result;

constexpr std::chrono::seconds step_timeout(120);  // for each read or write: a big store takes a while to begin
constexpr std::size_t head_bytes_max = 16u << 10;
constexpr std::size_t answer_bytes_max = 64u << 20;  // of a body that is kept
constexpr std::size_t read_bytes = 64u << 10;

Error broken(const error_code& error) {
    const bool is_end = error == net::error::eof || error == http::error::end_of_stream;
    return {Errc::unavailable,
            is_end ? "the server closed the connection before its answer was whole" : error.message()};
}

}  // namespace

// One connection, for one exchange. Each step runs until it is done or its time is over.
class HttpClient::Connection {
public:
    using Head = http::response_parser<http::empty_body>;

    explicit Connection(const Endpoint& server) : server_(server), stream_(context_) {}

    Result<void> connect() {
        error_code error;
        const net::ip::tcp::endpoint address(net::ip::make_address(server_.address, error), server_.port);
        if (!error) error = await([&](auto done) { stream_.async_connect(address, done); });
        if (error) return Error{Errc::unavailable, "cannot connect to " + server_.url() + ": " + error.message()};
        return {};
    }

    Result<void> send(const http::request<http::string_body>& request) {
        http::request_serializer<http::string_body> serializer(request);
        const error_code error = await([&](auto done) { http::async_write(stream_, serializer, done); });
        if (error) return broken(error);
        return {};
    }

    Result<void> receive_head(Head& head) {
        head.header_limit(head_bytes_max);
        const error_code error = await([&](auto done) { http::async_read_header(stream_, buffer_, head, done); });
        if (error) return broken(error);
        return {};
    }

    // The bodies are ours to read, as the server's are: see framing.h.
    Result<void> receive_body(const Head& head, const Take& take) {
        if (head.chunked()) return receive_chunks(take);
        if (!head.content_length()) return Error{Errc::unavailable, "the answer does not tell where it ends"};
        std::uint64_t left = *head.content_length();
        while (left > 0) {
            if (buffer_.size() == 0) KV_CHECK(receive());
            const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer_.size()));
            KV_CHECK(take(std::string_view(static_cast<const char*>(buffer_.cdata().data()), size)));
            buffer_.consume(size);
            left -= size;
        }
        return {};
    }

private:
    Result<void> receive_chunks(const Take& take) {
        ChunkedDecoder decoder(answer_bytes_max);  // of one chunk: what came before is taken away
        std::string piece;
        for (;;) {
            std::string_view input(static_cast<const char*>(buffer_.cdata().data()), buffer_.size());
            const auto status = decoder.feed(input, piece);
            buffer_.consume(buffer_.size() - input.size());
            if (!piece.empty()) KV_CHECK(take(piece));
            piece.clear();
            if (status == ChunkedDecoder::Status::done) return {};
            if (status != ChunkedDecoder::Status::more) return Error{Errc::unavailable, "the answer is malformed"};
            KV_CHECK(receive());
        }
    }

    Result<void> receive() {
        const error_code error = await([&](auto done) { stream_.async_read_some(buffer_.prepare(read_bytes), done); });
        if (error) return broken(error);
        buffer_.commit(received_);
        return {};
    }

    template <class Start>
    error_code await(Start start) {
        error_code result;
        stream_.expires_after(step_timeout);
        start([&](error_code error, auto... size) {
            result = error;
            ((received_ = size), ...);  // unless there is none to tell, as of a connect
        });
        context_.restart();
        context_.run();
        return result;
    }

    Endpoint server_;
    net::io_context context_;
    beast::tcp_stream stream_;
    beast::flat_buffer buffer_;
    std::size_t received_ = 0;
};

Result<Endpoint> HttpClient::parse_url(std::string_view url) {
    constexpr std::string_view scheme = "http://";
    const std::string shown(url);
    if (url.ends_with('/')) url.remove_suffix(1);
    const bool is_http = url.starts_with(scheme);
    auto server = Endpoint::parse(std::string(is_http ? url.substr(scheme.size()) : url));
    // Not quoted: there may be a token in it.
    if (!is_http || !server || server->is_unix()) return Error{Errc::invalid_request, "must be http://ADDRESS:PORT"};
    if (server->is_loopback()) return *std::move(server);
    return Error{Errc::invalid_request,
                 shown + ": the token would travel in the clear beyond this machine; use a loopback address"};
}

HttpClient::HttpClient(Endpoint server, kv::SecretBytes token) : server_(std::move(server)), token_(std::move(token)) {}

HttpClient::~HttpClient() = default;

Result<HttpClient::Answer> HttpClient::request(std::string_view method, const std::string& target,
                                               const std::string* body) {
    return exchange(method, target, body, nullptr);
}

Result<HttpClient::Answer> HttpClient::download(const std::string& target, const Take& take) {
    return exchange("GET", target, nullptr, &take);
}

Result<HttpClient::Answer> HttpClient::exchange(std::string_view method, const std::string& target,
                                                const std::string* body, const Take* take) {
    http::request<http::string_body> request;
    request.method_string(method);
    request.target(target);
    request.version(11);
    request.set(http::field::host, server_.address);
    request.set(http::field::connection, "close");
    request.set(http::field::authorization, "Bearer " + std::string(token_.reveal()));
    if (body != nullptr) {
        request.set(http::field::content_type, "application/json");
        request.body() = *body;
    }
    if (method != "GET") request.content_length(request.body().size());

    Connection connection(server_);
    KV_CHECK(connection.connect());
    KV_CHECK(connection.send(request));
    Connection::Head head;
    KV_CHECK(connection.receive_head(head));
    Answer answer;
    answer.status = head.get().result_int();
    answer.location = std::string(head.get()[http::field::location]);
    const Take keep = [&answer](std::string_view piece) -> Result<void> {
        if (answer.body.size() + piece.size() > answer_bytes_max)
            return Error{Errc::unavailable, "the answer is too large"};
        answer.body += piece;
        return {};
    };
    KV_CHECK(connection.receive_body(head, take != nullptr && answer.status == 200 ? *take : keep));
    return answer;
}

}  // namespace kvd
