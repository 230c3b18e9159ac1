// A host program that is told of every change: by a sink of its own, which misses none, and by a watch, which is there for as
// long as the program looks.
#include <kv/kv.h>

#include <condition_variable>
#include <iostream>
#include <mutex>

namespace {

// Prints events. A real sink brings them somewhere: what it does not confirm comes again, and where it was is
// remembered in the store under its name.
class PrintingSink final : public kv::EventSink {
public:
    const std::string& name() const override { return name_; }

    kv::Result<void> deliver(std::span<const kv::Event> events, std::vector<bool>& confirmed) override {
        std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < events.size(); ++i) {
            const kv::Event& event = events[i];
            std::cout << "sink:  " << event.key_path << " was " << kv::to_string(event.kind) << " by " << event.user_id << ", version "
                      << event.version << "\n";
            confirmed[i] = true;
        }
        delivered_ += events.size();
        changed_.notify_all();
        return {};
    }
    void wait_for(std::size_t count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return delivered_ >= count; });
    }

private:
    const std::string name_ = "printer";
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t delivered_ = 0;
};

}  // namespace

int main() {
    PrintingSink sink;  // before the store, which borrows it
    kv::Options options;
    options.keys = kv::make_fixed_key(kv::generate_master_key());
    options.sinks = {&sink};
    auto store = kv::open("memory:", options).value();

    const kv::Actor actor = kv::Actor::trusted("worker");
    kv::CreateNamespace production;
    production.application_id = "app-123";
    production.name = "production";
    store->call(actor, production).value();
    auto config = store->in("app-123", "production", actor);

    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t seen = 0;
    auto watch = config.watch("database/", {}, [&](const kv::Result<kv::WatchBatch>& batch) {
        if (!batch) return;  // the watch is over
        std::lock_guard lock(mutex);
        for (const kv::Event& event : batch->events) std::cout << "watch: " << event.key_path << " changed\n";
        seen = batch->revision;
        changed.notify_all();
    }).value();

    config.put("database/host", "db.internal").value();
    config.put("database/host", "db2.internal").value();
    {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return seen >= 2; });
    }
    sink.wait_for(2);
}
