#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "kv/storage.h"
#include "storage/postgres_connection.h"

namespace kv::postgres {

// Hints as the payload of a notification. What does not fit into one is told as none at all, which means "anything".
std::string payload_of(const std::map<NamespaceId, std::uint64_t>& hints);
// One per namespace. Empty: anything may have changed, or it is no payload of ours.
std::vector<Storage::Hint> hints_of(std::string_view payload);

// Tells the processes that share a database what was committed, and hears it from them: by NOTIFY, on a connection and a
// thread of its own, which there are once one of the two is asked for. Every notification is a transaction of its own, for it
// takes a lock of the whole database, behind which writes would queue. At most one is under way, and 50 a second; what is
// announced meanwhile goes with the next. Where the connection breaks it is made anew, less and less often; what was announced
// and what could have been heard meanwhile becomes "anything". Nobody is told of failures, for nobody relies on hints.
//
// Threads: any.
class Hints {
public:
    using Heard = std::function<void(std::span<const Storage::Hint>)>;

    explicit Hints(std::string conninfo);
    // Waits for what its thread is at: at most for the time that the server takes to be connected to, or to answer once.
    ~Hints();
    Hints(const Hints&) = delete;

    void announce(std::span<const Storage::Hint> committed) noexcept;
    // See Storage::listen().
    void listen(Heard heard) noexcept;

private:
    // What the thread has to do, of what was asked for.
    struct Work {
        bool is_over = false;
        bool listens = false;
        std::optional<std::string> payload = {};  // to be notified now
        SteadyTime until = SteadyTime::max();     // when there is more to do without anybody asking
    };

    void start();
    void wake() noexcept;
    void merge(std::span<const Storage::Hint> committed) noexcept;
    void run() noexcept;
    void serve();
    bool pause(std::chrono::milliseconds time);
    Work take_work();
    void set_listening(Connection& connection, const std::string& channel, bool listens);
    void hear(Connection& connection, bool listens);
    void tell(std::span<const Storage::Hint> hints) noexcept;

    const std::string conninfo_;
    const int wake_;  // what the thread waits for beside the server: an eventfd
    std::mutex mutex_;
    std::condition_variable over_;
    std::map<NamespaceId, std::uint64_t> pending_;
    bool is_anything_pending_ = false;
    bool listens_ = false;
    bool is_over_ = false;
    std::thread thread_;

    // The thread's own.
    SteadyTime next_notification_{};
    bool is_under_way_ = false;  // a notification of which it is not known that it was sent

    std::mutex heard_mutex_;
    Heard heard_;
};

}  // namespace kv::postgres
