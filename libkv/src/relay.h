#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kv/events.h"
#include "kv/options.h"
#include "kv/storage.h"
#include "kv/store.h"
#include "steps.h"

namespace kv {

// Relay brings events from the outbox to one sink: at least once, those of a namespace in the order of their revisions. It hears
// of this process's commits at once and asks the storage each second what others wrote. How far the sink got is written down
// soon after, so a process that dies has some delivered again. Of the processes that share a storage one at a time delivers
// to a sink: the one that holds its row, for some seconds at a time.
//
// Threads: any. It has one of its own, which calls the sink.
class Relay {
public:
    struct Settings {
        bool is_shared = false;  // other processes may deliver to the same sink
        std::string owner;       // who we are then
        std::function<void(LogLevel, std::string_view)> log;
    };
    // Borrows everything but the settings, registers the sink if the storage answers, and starts.
    Relay(EventSink& sink, Storage& storage, Steps steps, Settings settings);
    ~Relay() { stop(); }
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    // These were committed; nothing: something may have been.
    void note(std::span<const Storage::Hint> committed) noexcept;
    StoreStats::Sink stats() const;
    // Before the commit queue stops: what was confirmed is written down.
    void stop() noexcept;

private:
    using Clock = std::chrono::steady_clock;

    // A namespace with events that the sink has not confirmed, or did so a moment ago.
    struct Lane {
        std::string application_id;
        std::uint64_t confirmed = 0;
        std::uint64_t newest = 0;
        std::uint64_t skipped = 0;   // of the revisions in between: those without an event, as far as was looked
        bool is_gone = false;
        bool is_dirty = false;       // confirmed further than what is written down
        std::uint32_t failures = 0;  // since it last got on
        Clock::time_point not_before;
        std::optional<Time> oldest_pending;
        bool has_more() const { return newest > confirmed; }
    };
    struct Batch {
        std::vector<Event> events;
        std::vector<bool> confirmed;
    };

    void run();
    bool go_round();
    bool make_sure_of_ownership();
    Result<bool> claim();
    Result<void> enter(GroupContext& context, const SinkRow* found, bool& is_owner);
    Result<void> begin_at_present(GroupContext& context);
    Result<void> load_backlog();
    void take_hints();
    Result<Batch> collect();
    EventRange next_range(Clock::time_point now);
    void deliver(Batch& batch);
    void advance(const Batch& batch, bool failed);
    Result<void> write_down(bool releases);
    bool is_time_to_write_down() const;
    void rest();
    void pause();
    void disown();
    void note_failure(const std::string& message);
    void publish_stats();
    void log(LogLevel level, const std::string& message) const noexcept;

    EventSink& sink_;
    Storage& storage_;
    Steps steps_;
    const Settings settings_;

    // The thread's own.
    std::map<NamespaceId, Lane> lanes_;
    NamespaceId last_asked_;  // the namespaces take turns
    bool is_loaded_ = false;  // lanes_ holds all there is to do
    bool is_owner_ = false;
    bool is_new_ = true;      // the sink's row was not seen by us yet
    Clock::time_point owned_until_;
    Clock::time_point renewed_at_;
    Clock::time_point loaded_at_;
    Clock::time_point written_down_at_;
    Clock::time_point not_before_;  // after a failure
    std::uint32_t failures_in_row_ = 0;

    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::map<NamespaceId, std::uint64_t> hints_;
    bool must_load_ = false;
    bool is_stopping_ = false;
    bool is_asleep_ = false;  // commits wake it
    StoreStats::Sink stats_;
    std::thread thread_;
};

}  // namespace kv
