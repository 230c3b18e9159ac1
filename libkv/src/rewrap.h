#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "crypto/keyring.h"
#include "kv/options.h"
#include "kv/storage.h"
#include "steps.h"

namespace kv {

// Rewrapping sees a change of the master key through: while there is a previous one it wraps every stored key by the present
// one, in bounded batches that are commit groups of their own, and afterwards drops the wraps of a key that is to be
// forgotten. It can stop at any point and goes on from what is stored.
//
// Threads: run() and forget() one at a time, the rest any.
class Rewrapping {
public:
    // Borrows all three.
    Rewrapping(Storage& storage, crypto::Keyring& keys, Steps& steps, std::function<void(LogLevel, std::string_view)> log);

    // One batch of what is due at `now`, the storage's time. Answers how many rows that were.
    Result<std::size_t> run(Time now);
    // See Store::forget_master_key().
    Result<std::uint64_t> forget(const std::string& key_id);
    // Key rows without a wrap by the master key in use, when last looked.
    std::uint64_t rows_missing() const noexcept { return rows_missing_; }

private:
    Result<void> begin();
    Result<std::size_t> wrap_batch();
    void end();
    Result<std::uint64_t> count_missing();
    Result<void> may_forget(const std::string& key_id);
    Result<void> check_opens(const std::string& key_id);
    Result<std::uint64_t> drop_wraps(const std::string& key_id, bool is_data);
    Result<std::uint64_t> drop_batch(const std::string& key_id, const std::vector<KeyRow>& due);
    void log(LogLevel level, const std::string& message) const;

    Storage& storage_;
    crypto::Keyring& keys_;
    Steps& steps_;
    const std::function<void(LogLevel, std::string_view)> log_;

    std::optional<Time> looked_at_;
    bool is_under_way_ = false;
    bool is_told_ = false;  // how it ended
    std::optional<KeyWalk::After> wrapped_to_;
    std::uint64_t not_wrapped_ = 0;  // rows on the way that do not open
    std::atomic<std::uint64_t> rows_missing_{0};
};

}  // namespace kv
