#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "kv/clock.h"
#include "kv/result.h"

namespace kvd {

// What is told of a piece of work that outlasts its request.
struct Job {
    enum class Status : std::uint8_t { queued, running, done, failed };

    std::string id;
    std::string kind;  // "verify", "rotate-data-key"
    Status status = Status::queued;
    kv::Time created_at;
    std::optional<kv::Time> finished_at = {};
    std::string stage = {};  // of its progress; empty: none told yet
    std::uint64_t done = 0;
    std::string result = {};              // JSON, once it is done
    std::optional<kv::Error> error = {};  // once it failed
    std::string request_id = {};          // of the request that started it
};
std::string write_json(const Job& job);

// Jobs runs long work one after the other on one thread, and watches on another what goes on elsewhere. It remembers the last
// ones that ended.
//
// Threads: any. stop() and the destructor cancel what runs, and wait for it to notice.
class Jobs {
public:
    struct Limits {
        std::size_t waiting_max = 16;
        std::size_t watched_max = 64;
        std::size_t kept_max = 64;  // that ended
        std::chrono::milliseconds watch_interval{500};
    };
    // Told of progress; false: stop now.
    using Report = std::function<bool(std::string_view stage, std::uint64_t done)>;
    using Work = std::function<kv::Result<std::string>(const Report& report)>;  // gives the result as JSON
    using Probe = std::function<kv::Result<bool>()>;                            // true: it is over
    // What begins the work that is then watched. Gives the result as JSON.
    struct Begun {
        std::string result;
        Probe is_over;
    };

    explicit Jobs(const Limits& limits);
    Jobs() : Jobs(Limits{}) {}
    ~Jobs() { stop(); }
    Jobs(const Jobs&) = delete;
    Jobs& operator=(const Jobs&) = delete;

    // Queues work. If one of the kind waits already, that one is answered instead: it will do the same. Errc::overloaded if too
    // many wait, Errc::shutting_down after cancel().
    kv::Result<Job> run(std::string_view kind, std::string request_id, Work work);
    // Calls `begin` at once, on this thread, and watches from then on; its error is answered and leaves no job. Errc::overloaded,
    // before `begin`, if too many are watched.
    kv::Result<Job> watch(std::string_view kind, std::string request_id,
                          const std::function<kv::Result<Begun>()>& begin);
    // Empty if there is none, or it ended so long ago that it was forgotten.
    std::optional<Job> find(std::string_view id) const;

    // Nothing begins any more, and what runs is told to stop. Does not wait.
    void cancel();
    void stop();

private:
    struct Record {
        Job job;
        Work work;
        Probe is_over;
        bool is_watched = false;
    };
    using Records = std::list<Record>;

    Record& add(std::string_view kind, std::string request_id);
    void finish(Record& record, kv::Result<std::string> outcome);
    void forget_old();
    void work_loop();
    void watch_loop();
    void watch_once(std::unique_lock<std::mutex>& lock);

    const Limits limits_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    Records records_;  // in the order of creation; those that run or wait stay
    std::deque<Record*> waiting_;
    std::size_t watched_ = 0;
    bool is_cancelled_ = false;
    std::thread worker_, watcher_;
};

}  // namespace kvd
