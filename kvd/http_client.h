#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kv/result.h"
#include "kv/secret.h"
#include "kvd/server.h"

namespace kvd {

// HttpClient talks to a running kvd for the commands that take --server: one request at a time, waiting. Plain HTTP, and so
// to this machine only: the token would travel in the clear.
//
// Threads: one.
class HttpClient {
public:
    struct Answer {
        unsigned status = 0;
        std::string location;
        std::string body;
    };
    // Takes a piece of a body; its error ends the transfer.
    using Take = std::function<kv::Result<void>(std::string_view piece)>;

    // "http://127.0.0.1:8421", of a loopback address.
    static kv::Result<Endpoint> parse_url(std::string_view url);

    HttpClient(Endpoint server, kv::SecretBytes token);
    ~HttpClient();
    HttpClient(const HttpClient&) = delete;
    HttpClient& operator=(const HttpClient&) = delete;

    // `body` is JSON; null: none. Errc::unavailable if there is nobody, or the answer does not arrive whole.
    kv::Result<Answer> request(std::string_view method, const std::string& target, const std::string* body = nullptr);
    // GET, whose body goes to `take` piece by piece if the status is 200; else it is in the answer. A body that ends early is an
    // error like any other.
    kv::Result<Answer> download(const std::string& target, const Take& take);

private:
    class Connection;
    kv::Result<Answer> exchange(std::string_view method, const std::string& target, const std::string* body,
                                const Take* take);

    Endpoint server_;
    kv::SecretBytes token_;
};

}  // namespace kvd
