#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace kv {

// Watchdog calls a function at an interval on a thread of its own. An interval of zero: never.
class Watchdog {
public:
    Watchdog(std::chrono::milliseconds interval, std::function<void()> look);
    ~Watchdog() { stop(); }
    // Waits for a call under way. Threads: any, one at a time.
    void stop();

private:
    void run();

    const std::chrono::milliseconds interval_;
    const std::function<void()> look_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool is_stopping_ = false;
    std::thread thread_;
};

}  // namespace kv
