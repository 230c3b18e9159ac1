#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvd {

// A few threads for work that waits: for a disk, or for a commit. Threads that serve connections hand it over.
//
// Threads: any but its own for stop() and the destructor.
class TaskPool {
public:
    using Task = std::function<void()>;  // throws nothing

    TaskPool(std::size_t threads, std::size_t waiting_max);
    ~TaskPool() { stop(); }
    TaskPool(const TaskPool&) = delete;
    TaskPool& operator=(const TaskPool&) = delete;

    // False, and the task never runs, if too many wait or the pool was stopped.
    bool post(Task task);
    // Waits for the tasks that run; those that wait are dropped.
    void stop();

private:
    void run();

    const std::size_t waiting_max_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Task> waiting_;
    bool is_stopping_ = false;
    std::vector<std::thread> threads_;  // last: they use the rest
};

}  // namespace kvd
