#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace kv::sqlite {

// A file that only takes up room, to be given up for what must still be written once the disk is full. One that an
// earlier process left behind counts.
//
// Threads: any.
class Reserve {
public:
    explicit Reserve(std::string path) : path_(std::move(path)) {}

    // Makes it so large; 0 lets go of it. False: there is no such room, and it is as large as before.
    bool hold(std::uint64_t bytes);
    // Since it was let go: room is short.
    bool is_let_go() const noexcept { return is_let_go_; }

private:
    const std::string path_;
    std::mutex mutex_;
    std::atomic<bool> is_let_go_ = false;
};

}  // namespace kv::sqlite
