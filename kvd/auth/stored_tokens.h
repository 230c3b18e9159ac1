#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kv/store.h"
#include "kvd/auth/tokens.h"

namespace kvd {

// StoredTokens knows which of the store's tokens are in use, and asks the store about them again and again, so that one that was
// revoked anywhere is known to be soon. What it does not know it asks for, many at a time. When the store cannot be asked, what
// it knows grows too old to count.
//
// Threads: any. Borrows the store.
class StoredTokens {
public:
    using Clock = std::chrono::steady_clock;
    struct Options {
        std::chrono::milliseconds refresh = std::chrono::seconds(1);   // so often is what is in use asked about
        std::chrono::milliseconds kept_for = std::chrono::seconds(5);  // no answer counts for longer
        std::chrono::milliseconds absent_for = std::chrono::seconds(1);  // nor one that there is no such token
        std::chrono::milliseconds use_noted_each = std::chrono::seconds(60);
        std::size_t tokens_max = 20'000;   // known at a time, also those that are none
        std::size_t waiting_max = 10'000;  // asked about at a time
    };

    StoredTokens(kv::Store& store, Options options);
    explicit StoredTokens(kv::Store& store) : StoredTokens(store, Options()) {}
    ~StoredTokens();
    StoredTokens(const StoredTokens&) = delete;
    StoredTokens& operator=(const StoredTokens&) = delete;

    enum class State : std::uint8_t { unknown, absent, present };
    // Sets user, credential and grants of one that is present and has not expired. Never waits.
    State find(const TokenHash& hash, kv::Actor& actor) const;
    // Calls `done` once, from a thread of its own or from within, when find() may have an answer; with an error if the store gave none.
    void ask(const TokenHash& hash, std::function<void(kv::Result<void>)> done);
    // Whoever waits is told; nothing is asked any more.
    void stop();

    // Whether a token looks like one of the store's.
    static bool is_stored(std::string_view token) noexcept;

private:
    struct Known {
        std::shared_ptr<const kv::Token> token;               // null: there is none
        std::shared_ptr<const std::vector<kv::Grant>> grants;  // its own
        std::string credential_id;
        Clock::time_point asked;
        Clock::time_point noted;  // when its use was told to the store
        mutable std::atomic<bool> is_used{false};  // since it was last asked about

        Known() = default;
    };
    struct Question {
        TokenHash hash;
        std::function<void(kv::Result<void>)> done;
    };

    void run();
    void answer(std::vector<Question> questions);
    void refresh();
    void note_uses();
    kv::Result<void> look(const std::vector<TokenHash>& hashes);
    bool is_young(const Known& known, Clock::time_point now) const;

    kv::Store& store_;
    const Options options_;
    mutable std::shared_mutex known_mutex_;
    std::unordered_map<TokenHash, std::unique_ptr<Known>, HashOfHash> known_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<Question> waiting_;
    bool is_stopping_ = false;
    std::thread thread_;
};

}  // namespace kvd
