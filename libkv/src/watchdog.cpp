#include "watchdog.h"

#include <utility>

#include "out_of_memory.h"

namespace kv {

Watchdog::Watchdog(std::chrono::milliseconds interval, std::function<void()> look) : interval_(interval), look_(std::move(look)) {
    if (interval_.count() > 0) thread_ = std::thread([this] { run(); });
}

void Watchdog::run() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, interval_, [&] { return is_stopping_; })) {
        lock.unlock();
        attempt(look_);
        lock.lock();
    }
}

void Watchdog::stop() {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
}

}  // namespace kv
