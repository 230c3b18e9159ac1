#include "watch.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "authorize.h"
#include "kv/store.h"
#include "out_of_memory.h"
#include "ticket.h"

namespace kv {

std::string Event::id() const { return ns.to_string() + '-' + std::to_string(revision); }
EventSink::~EventSink() = default;
Watch::~Watch() = default;
Subscription::~Subscription() = default;

namespace {

constexpr std::chrono::seconds pause_after_failure{1};
// What one batch may take, about: whoever does not take it holds it meanwhile, and there may be thousands of them.
constexpr std::size_t batch_bytes_max = 64u << 10;
constexpr std::chrono::seconds subscription_patience{10};  // of a subscription that is over, its last question stays for as long

std::size_t bytes_of(const Event& event) {
    return sizeof event + event.application_id.size() + event.key_path.size() + event.user_id.size();
}

Event make_event(const EventRow& row, const std::string& application_id) {
    return {row.ns, application_id, row.revision, row.entry_id, row.key_path, row.kind, row.version, row.at, row.user_id};
}

class FedWatch final : public Watch, public std::enable_shared_from_this<FedWatch> {
public:
    FedWatch(std::shared_ptr<EventFeed> feed, const NamespaceRow& ns, Actor actor, std::string prefix, std::optional<std::uint64_t> from)
        : feed_(std::move(feed)), ns_(ns.id), actor_(std::move(actor)), prefix_(std::move(prefix)),
          position_(std::min(from.value_or(ns.revision), ns.revision)), is_ahead_(from && *from > ns.revision) {
        feed_->watches.fetch_add(1, std::memory_order_relaxed);
        judge(ns);
    }
    ~FedWatch() override { feed_->watches.fetch_sub(1, std::memory_order_relaxed); }

    void next(std::chrono::milliseconds patience, Done done) override;

private:
    class Pull;

    void judge(const NamespaceRow& ns);
    bool may_see(std::string_view key_path) const;
    Result<std::optional<WatchBatch>> look();
    WatchBatch gap(std::uint64_t newest);

    const std::shared_ptr<EventFeed> feed_;
    const NamespaceId ns_;
    const Actor actor_;
    const std::string prefix_;
    // One next() at a time uses what follows.
    std::uint64_t position_;
    bool is_ahead_;  // the position asked for was never reached: it is of a future that a restore undid
    std::string application_id_;
    std::string name_;  // by which the rights were judged
    std::vector<KeyRange> ranges_;
};

// One next() under way. Where there is no memory for it to go on it says so when it comes apart.
class FedWatch::Pull final : public Waiter {
public:
    Pull(std::shared_ptr<FedWatch> watch, EventFeed::Clock::time_point deadline, Done done)
        : watch_(std::move(watch)), deadline_(deadline), done_(std::move(done)) {}
    ~Pull() override {
        if (done_) answer(out_of_memory());
    }

    void wake(Reason reason) noexcept override {
        switch (reason) {
            case Reason::closing: return answer(make_error(Errc::shutting_down, "The store is shutting down."));
            case Reason::ended: return answer(make_error(Errc::not_found, "The namespace is not there any more."));
            case Reason::late:
                return answer(watch_->is_ahead_ ? watch_->gap(watch_->position_) : WatchBatch{{}, watch_->position_, false});
            case Reason::changed: break;
        }
        auto seen = contain([this] { return watch_->look(); });
        if (seen && *seen) return answer(std::move(**seen));
        if (!seen && seen.error().code == Errc::not_found) return answer(std::move(seen).error());
        // Nothing that concerns this watcher, or a storage that does not answer: go on later.
        const auto not_before = seen ? EventFeed::Clock::time_point{} : EventFeed::Clock::now() + pause_after_failure;
        attempt([&] {
            auto again = std::make_unique<Pull>(watch_, deadline_, Done{});
            again->done_.swap(done_);
            watch_->feed_->wait(watch_->ns_, watch_->position_, deadline_, std::move(again), not_before);
        });
    }

private:
    void answer(Result<WatchBatch> batch) noexcept {
        const Done done = std::exchange(done_, nullptr);
        const bool outer = std::exchange(in_completion, true);
        try {
            done(std::move(batch));
        } catch (...) {
            // A completion must not throw; one that does must not take down the other watchers.
        }
        in_completion = outer;
    }

    const std::shared_ptr<FedWatch> watch_;
    const EventFeed::Clock::time_point deadline_;
    Done done_;
};

void FedWatch::next(std::chrono::milliseconds patience, Done done) {
    const auto deadline = EventFeed::Clock::now() + patience;
    auto pull = std::make_unique<Pull>(shared_from_this(), deadline, std::move(done));
    // What was never reached is told at once.
    feed_->wait(ns_, is_ahead_ ? 0 : position_, deadline, std::move(pull));
}

void FedWatch::judge(const NamespaceRow& ns) {
    application_id_ = ns.application_id;
    name_ = ns.name;
    ranges_ = intersect(Rights(actor_, ns).ranges(Permission::namespace_read), {prefix_range(prefix_)});
}

bool FedWatch::may_see(std::string_view key_path) const {
    return std::any_of(ranges_.begin(), ranges_.end(), [&](const KeyRange& range) {
        return key_path >= range.from && (range.to.empty() || key_path < range.to);
    });
}

WatchBatch FedWatch::gap(std::uint64_t newest) {
    position_ = newest;
    is_ahead_ = false;
    return {{}, newest, true};
}

// The next events, a gap, or nothing that concerns this watcher.
Result<std::optional<WatchBatch>> FedWatch::look() {
    const auto [ns, newest] = feed_->view(ns_);
    if (!ns) return Error{Errc::unavailable, "The namespace was not looked at yet."};
    if (ns->name != name_) {  // a grant may name it
        judge(*ns);
        if (ranges_.empty()) return Error{Errc::not_found, "There is nothing here that may be seen any more."};
    }
    if (is_ahead_) return std::optional(gap(newest));
    KV_TRY(const std::vector<EventRow> rows, feed_->read(ns_, position_));
    // What the feed heard of is committed, so it can be read, unless it is not kept any more.
    if (rows.empty() || rows.front().revision != position_ + 1) {
        return std::optional(gap(rows.empty() ? newest : rows.back().revision));
    }
    WatchBatch batch;
    std::size_t bytes = 0;
    for (const EventRow& row : rows) {
        if (row.revision != position_ + 1 || bytes >= batch_bytes_max) break;
        position_ = row.revision;
        if (!may_see(row.key_path)) continue;
        batch.events.push_back(make_event(row, application_id_));
        bytes += bytes_of(batch.events.back());
    }
    batch.revision = position_;
    if (batch.events.empty()) return std::optional<WatchBatch>();
    return std::optional(std::move(batch));
}

// ---- subscriptions ----

// What the thread, the pull under way and the owner share.
struct Desk {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_over = false;
    std::optional<Result<WatchBatch>> told;
};

class ThreadSubscription final : public Subscription {
public:
    using Heard = std::function<void(const Result<WatchBatch>&)>;

    ThreadSubscription(std::shared_ptr<Watch> watch, Heard heard)
        : thread_([desk = desk_, watch = std::move(watch), heard = std::move(heard)]() mutable { run(desk, std::move(watch), heard); }) {}
    ~ThreadSubscription() override {
        {
            std::lock_guard lock(desk_->mutex);
            desk_->is_over = true;
        }
        desk_->changed.notify_all();
        if (thread_.get_id() == std::this_thread::get_id()) {
            thread_.detach();
        } else {
            thread_.join();
        }
    }

private:
    static void run(const std::shared_ptr<Desk>& desk, std::shared_ptr<Watch> watch, const Heard& heard);

    const std::shared_ptr<Desk> desk_ = std::make_shared<Desk>();
    std::thread thread_;
};

void ThreadSubscription::run(const std::shared_ptr<Desk>& desk, std::shared_ptr<Watch> watch, const Heard& heard) {
    for (bool goes_on = true; goes_on;) {
        watch->next(subscription_patience, [desk](Result<WatchBatch> batch) {
            {
                std::lock_guard lock(desk->mutex);
                desk->told = std::move(batch);
            }
            desk->changed.notify_all();
        });
        std::unique_lock lock(desk->mutex);
        desk->changed.wait(lock, [&] { return desk->is_over || desk->told; });
        if (desk->is_over) return;
        const Result<WatchBatch> told = *std::exchange(desk->told, std::nullopt);
        lock.unlock();
        goes_on = told.has_value();
        if (!goes_on || told->is_gap || !told->events.empty()) heard(told);
    }
}

}  // namespace

std::shared_ptr<Watch> begin_watch(std::shared_ptr<EventFeed> feed, const NamespaceRow& ns, Actor actor, std::string prefix,
                                   std::optional<std::uint64_t> from) {
    return std::make_shared<FedWatch>(std::move(feed), ns, std::move(actor), std::move(prefix), from);
}

Result<std::unique_ptr<Subscription>> Client::watch(const Actor& actor, WatchEntries request,
                                                    std::function<void(const Result<WatchBatch>&)> heard) {
    KV_TRY(WatchReply reply, call(actor, std::move(request)));
    return contain([&]() -> Result<std::unique_ptr<Subscription>> {
        return std::unique_ptr<Subscription>(std::make_unique<ThreadSubscription>(std::move(reply.watch), std::move(heard)));
    });
}

}  // namespace kv
