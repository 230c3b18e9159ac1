#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "kvd/auth/fetcher.h"
#include "kvd/auth/jwt.h"

namespace kvd {

class Log;

// KeySource brings the key set for JWTs from a file or a URL, and again when it may have changed. One that cannot be had, or does
// not read, leaves the set before.
//
// Threads: any. Borrows all; the fetcher is to be stopped before this goes.
class KeySource {
public:
    using Clock = std::chrono::steady_clock;
    struct Stats {
        std::uint64_t refreshes = 0;
        std::uint64_t failures = 0;
        bool has_keys = false;
    };

    // `fetcher`: null for a file.
    KeySource(std::string where, Fetcher* fetcher, JwtVerifier& verifier, Log& log);

    static bool is_url(const std::string& where) { return where.find("://") != std::string::npos; }
    // A file is read at once. A URL is waited for, but not for long: without it JWTs are refused until it answers.
    void open();
    // Asks again. Does not wait.
    void refresh();
    // Asks again if a token named a key that is not known, or there are none, unless that was done a moment ago.
    void refresh_if_needed();
    Stats stats() const;

private:
    void fetch(std::function<void()> done);
    void take(kv::Result<std::string> text);

    const std::string where_;
    Fetcher* const fetcher_;
    JwtVerifier& verifier_;
    Log& log_;
    std::mutex mutex_;
    std::string text_;  // of the set in use
    Clock::time_point asked_;
    std::uint64_t unknown_keys_ = 0;  // when it was asked for
    bool is_under_way_ = false;
    std::atomic<std::uint64_t> refreshes_{0};
    std::atomic<std::uint64_t> failures_{0};
};

}  // namespace kvd
