#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kv/export.h"
#include "kv/result.h"
#include "kv/types.h"

// Events: who is told that an entry changed, once the change is committed. An event names what changed and never carries a
// value: whoever wants it asks for it, with rights of his own.
namespace kv {

// One change of one entry.
struct KV_EXPORT Event {
    NamespaceId ns = {};
    std::string application_id = {};
    std::uint64_t revision = 0;  // of the namespace: each change in it has the next one
    EntryId entry_id = {};
    std::string key_path = {};
    EventKind kind = EventKind::created;
    std::uint64_t version = 0;  // of the entry, after the change
    Time at = {};
    std::string user_id = {};

    // "<namespace id>-<revision>": of this event alone, and the same whenever it is told again.
    std::string id() const;
};

// EventSink takes events to where they go: a message broker, a log, a cache. A store delivers every event to it at least once
// after its change was committed, those of a namespace in the order of their revisions, and remembers under the sink's
// name how far it got: it goes on there after a restart. A sink that is new begins with what is changed from then on.
//
// Threads: one of the store's own calls deliver(), one call at a time. stop() may come from any other meanwhile.
class KV_EXPORT EventSink {
public:
    virtual ~EventSink();

    // 1 to 64 characters of a-z, 0-9, '.', '_' and '-': always the same.
    virtual const std::string& name() const = 0;
    // Returns when it is known what arrived, and sets confirmed[i] where events[i] did (all are false before, and as many as the
    // events). What did not is delivered again after a pause, and so are the later events of its namespace: the answer of a
    // failure is the error (its message is logged and shown to operators), that of refused events alone is success. May
    // block for some seconds; an exception counts as an error.
    virtual Result<void> deliver(std::span<const Event> events, std::vector<bool>& confirmed) = 0;
    // The store is closing: deliver() should return soon.
    virtual void stop() noexcept {}
};

// What a watch tells next.
struct WatchBatch {
    std::vector<Event> events = {};  // those the watcher may see, in the order of their revisions; perhaps none
    // The namespace's events up to this revision were told or are none of the watcher's business: where to resume.
    std::uint64_t revision = 0;
    // Events behind the position asked for are not kept any more, or never were: look at everything anew, then go on from
    // `revision`. Such a batch has no events.
    bool is_gap = false;
};

// Watch is one watcher's place among the events of a namespace: it asks for the next when it wants more, so a slow one delays
// nobody. It ends with the store, and when the last shared_ptr goes (shared because replies are copied).
//
// Threads: any, but one next() at a time.
class KV_EXPORT Watch {
public:
    using Done = std::function<void(Result<WatchBatch>)>;

    virtual ~Watch();
    // Calls `done` once, from any thread: with events as soon as there are some, without any when `patience` is over. An error
    // ends the watch: Errc::not_found (the namespace was deleted, or what the watcher may see of it is nothing any more),
    // Errc::shutting_down. `done` must not block.
    virtual void next(std::chrono::milliseconds patience, Done done) = 0;
};

// Subscription calls somebody back for as long as it lives; its destructor waits for a call under way, unless it runs inside one.
class KV_EXPORT Subscription {
public:
    virtual ~Subscription();
};

}  // namespace kv
