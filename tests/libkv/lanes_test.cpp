#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <set>

#include "fixture.h"

using namespace kv;
using namespace kv::test;

namespace {

// Memory that takes several writes at once, and can keep the next one waiting while others go by.
class ManyWrites final : public Passing {
public:
    explicit ManyWrites(std::unique_ptr<Storage> memory) : Passing(*memory), memory_(std::move(memory)) {}

    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override {
        std::unique_lock lock(mutex_);
        if (std::exchange(holds_next_, false)) {
            is_holding_ = true;
            changed_.notify_all();
            changed_.wait(lock, [&] { return !is_holding_; });
        }
        return Passing::write(body);
    }
    std::size_t writes_at_once() const override { return 4; }
    bool is_shared() const override { return true; }

    void hold_next() {
        std::lock_guard lock(mutex_);
        holds_next_ = true;
    }
    void wait_until_held() {
        std::unique_lock lock(mutex_);
        REQUIRE(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return is_holding_; }));
    }
    void let_go() {
        std::lock_guard lock(mutex_);
        is_holding_ = false;
        changed_.notify_all();
    }

private:
    const std::unique_ptr<Storage> memory_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool holds_next_ = false;
    bool is_holding_ = false;
};

struct Lanes {
    ManyWrites* storage = nullptr;
    Fixture kv{Kind::secret, each_denial_a_row(), [this](Clock& clock) {
                   auto made = std::make_unique<ManyWrites>(make_memory_storage(clock));
                   storage = made.get();
                   return std::unique_ptr<Storage>(std::move(made));
               }};
};

PutEntry put_into(const std::string& name, std::string key) {
    PutEntry put;
    put.ns = NamespaceName{"app", name};
    put.write.key_path = std::move(key);
    put.write.value = ValueInput::text("v");
    return put;
}

}  // namespace

// Broken on purpose: with every request sent to lane 0, and with the records of reads on that lane, too.
TEST_CASE("a namespace whose write takes long holds up neither reads nor every other namespace") {
    Lanes lanes;
    Fixture& kv = lanes.kv;
    for (int i = 0; i < 16; ++i) kv.make_namespace("n" + std::to_string(i), Kind::plain);
    REQUIRE(kv.put("k", "one"));

    lanes.storage->hold_next();
    Replies held(1);
    kv.store->submit(kv.actor, put_into("n0", "slow"), held.slot(0));
    lanes.storage->wait_until_held();
    Replies read(1);
    kv.store->submit(kv.actor, kv.get_request("k"), read.slot(0));
    CHECK(eventually([&] { return read.left() == 0; }));

    Replies others(15);
    for (std::size_t i = 0; i < 15; ++i) kv.store->submit(kv.actor, put_into("n" + std::to_string(i + 1), "k"), others.slot(i));
    CHECK(eventually([&] { return others.left() < 15; }));
    CHECK(held.left() == 1);
    lanes.storage->let_go();
    // Those of the lane that was held up are refused after a while.
    for (const auto& reply : others.take()) CHECK((reply.has_value() || reply == Errc::unavailable));
    CHECK(held.take()[0].has_value());
}

// Broken on purpose: without the watchdog they wait as long as the one before them.
TEST_CASE("what waits behind a write that does not come back is refused, and later ones are served") {
    Lanes lanes;
    Fixture& kv = lanes.kv;
    lanes.storage->hold_next();
    Replies held(1);
    kv.store->submit(kv.actor, kv.put_request("k", "held"), held.slot(0));
    lanes.storage->wait_until_held();
    Replies waiting(8);
    for (std::size_t i = 0; i < 8; ++i) kv.store->submit(kv.actor, kv.put_request("w" + std::to_string(i), "v"), waiting.slot(i));
    CHECK(eventually([&] { return waiting.left() == 0; }));
    for (const auto& reply : waiting.take()) CHECK(reply == Errc::unavailable);
    CHECK(held.left() == 1);
    CHECK(kv.store->ready() == Errc::unavailable);
    lanes.storage->let_go();
    CHECK(held.take()[0].has_value());
    CHECK(kv.put("k", "next").has_value());
    CHECK(kv.store->ready().has_value());
    CHECK(kv.get("w0") == "!not-found");
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

// Broken on purpose: with one stream for all lanes two groups claim the same place in it.
TEST_CASE("each lane records in a stream of its own, and all of them are whole and closed at the end") {
    Lanes lanes;
    Fixture& kv = lanes.kv;
    for (int i = 0; i < 16; ++i) kv.make_namespace("n" + std::to_string(i), Kind::plain);
    std::vector<std::thread> callers;
    std::atomic<int> failures{0};
    for (int caller = 0; caller < 8; ++caller) {
        callers.emplace_back([&, caller] {
            for (int i = 0; i < 50; ++i) {
                const std::string name = "n" + std::to_string((caller * 3 + i) % 16);
                failures += kv.store->call(kv.actor, put_into(name, "k" + std::to_string(caller))) ? 0 : 1;
                GetEntry get;
                get.ns = NamespaceName{"app", name};
                get.key_path = "k" + std::to_string(caller);
                failures += kv.store->call(kv.actor, get) ? 0 : 1;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(failures == 0);
    const auto heads = kv.store->audit_heads();
    CHECK(heads.size() == 4);
    std::set<StreamId> streams;
    for (const AuditHead& head : heads) {
        CHECK(head.sequence > 0);
        streams.insert(head.stream);
    }
    CHECK(streams.size() == 4);
    CHECK(kv.store->stats().operations >= 800);
    kv.store->stop();
    for (const AuditHead& head : kv.storage->walk_audit_heads({}).value()) CHECK(head.state == HeadState::closed);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}
