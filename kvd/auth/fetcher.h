#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kv/result.h"

namespace kvd {

// Fetcher asks other services over HTTP and HTTPS (libcurl), many at a time on connections that are kept, on a thread of its own. It
// follows no redirect, uses no proxy, and takes no more of an answer than is allowed for.
//
// Threads: any.
class Fetcher {
public:
    struct Options {
        std::string ca_file;               // who vouches for certificates; empty: whom this machine trusts
        std::size_t in_flight_max = 64;    // at a time; further ones wait
        std::size_t waiting_max = 10'000;  // beyond it they fail at once
    };
    struct Request {
        std::string url;
        std::vector<std::string> headers = {};  // "Authorization: Bearer ..."
        std::chrono::milliseconds timeout = std::chrono::seconds(1);  // for all of it, from when it is sent
        std::size_t body_bytes_max = 64u << 10;
    };
    struct Answer {
        long status = 0;
        std::string body;
    };
    using Done = std::function<void(kv::Result<Answer>)>;

    explicit Fetcher(Options options);
    // Stops.
    ~Fetcher();
    Fetcher(const Fetcher&) = delete;
    Fetcher& operator=(const Fetcher&) = delete;

    // GET. Calls `done` once, from the fetcher's thread or from within, with the answer whatever its status; Errc::unavailable
    // without one, in words that tell nothing of the URL. `done` must not wait.
    void get(Request request, Done done);
    // What is under way fails. Returns when no `done` runs any more.
    void stop();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

// "https://HOST...", or "http://..." of a loopback address; `is_plain_allowed`: of any. Errc::invalid_request saying what is wrong.
kv::Result<void> check_service_url(const std::string& url, bool is_plain_allowed);
// `url` with a parameter more: percent-encoded (RFC 3986), before the fragment.
std::string with_parameter(std::string url, const std::string& name, const std::string& value);

}  // namespace kvd
