#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/result.h"
#include "kv/secret.h"
#include "kvd/auth/fetcher.h"
#include "kvd/auth/grants.h"

namespace kvd {

// PermissionService asks another service what a user of an application was granted:
//
//     GET URL?userId=...&applicationId=...  ->  200 {"permissions": ["kv-entry:read", ...]} or {"grants": [...]}, or both
//
// and keeps what it said for a few seconds. Whatever else comes back, or nothing in time, is a failure: nobody is granted
// anything then. What is granted is limited to the application, so that without one there is nothing to ask.
//
// Threads: any. Borrows the fetcher, which is to be stopped before this goes.
class PermissionService {
public:
    using Clock = std::chrono::steady_clock;
    struct Options {
        std::string url;
        kv::SecretBytes token;  // a bearer token that kvd shows to it; empty: none
        std::chrono::milliseconds timeout = std::chrono::seconds(1);
        std::chrono::milliseconds kept_for = std::chrono::seconds(5);      // from when it was asked
        std::chrono::milliseconds silence = std::chrono::milliseconds(250);  // after a failure: what is asked meanwhile fails at once
        std::size_t users_max = 10'000;  // kept at a time
    };
    struct Stats {
        std::uint64_t asked = 0;     // requests sent
        std::uint64_t failures = 0;  // without an answer, or with one that is none
    };
    using Done = std::function<void(kv::Result<std::shared_ptr<const Grants>>)>;

    PermissionService(Options options, Fetcher& fetcher);

    // What is known now; null: nothing, ask(). Never waits.
    std::shared_ptr<const Grants> find(const std::string& user_id, const std::string& application_id, Clock::time_point now = Clock::now()) const;
    // Calls `done` once, from the fetcher's thread or from within: with the grants, or Errc::unavailable. What is asked for
    // already is not asked for twice.
    void ask(const std::string& user_id, const std::string& application_id, Done done);
    // As find(), of somebody who goes on being served: asks anew, without waiting, before what is known is too old.
    std::shared_ptr<const Grants> follow(const std::string& user_id, const std::string& application_id);
    Stats stats() const noexcept;

private:
    struct Known {
        std::shared_ptr<const Grants> grants;  // null: the last answer was none
        Clock::time_point asked;   // when what is known was asked for
        Clock::time_point failed;  // when asking failed, if it did last
        std::vector<Done> waiting;  // not empty: it is being asked
    };
    void send(const std::string& key, const std::string& user_id, const std::string& application_id, Clock::time_point now);
    void take(const std::string& key, const std::string& application_id, Clock::time_point asked, kv::Result<Fetcher::Answer> answer);
    void make_room(Clock::time_point now);

    const Options options_;
    Fetcher& fetcher_;
    mutable std::mutex mutex_;
    std::unordered_map<std::string, Known> known_;
    std::atomic<std::uint64_t> asked_{0};
    std::atomic<std::uint64_t> failures_{0};
};

// What an answer's body grants. Members of other names are passed over. Errc::unavailable if it is not what it should be.
kv::Result<Grants> read_permission_answer(std::string_view body, const std::string& application_id);

}  // namespace kvd
