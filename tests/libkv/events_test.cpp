#include "kv/events.h"

#include <deque>
#include <set>
#include <thread>

#include "fault/forwarding_storage.h"
#include "fault/forwarding_storage.h"
#include "fixture.h"
#include "kv/admin.h"
#include "libkv/backup_fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

// Remembers what it was told, and refuses what it is told to refuse. Threads: any.
class RecordingSink final : public EventSink {
    template <class F>
    auto get(F&& f) {
        std::lock_guard lock(mutex_);
        return f();
    }

public:
    explicit RecordingSink(std::string name = "test") : name_(std::move(name)) {}

    const std::string& name() const override { return name_; }
    Result<void> deliver(std::span<const Event> events, std::vector<bool>& confirmed) override {
        std::unique_lock lock(mutex_);
        ++deliveries_;
        is_held_ = is_closed_;
        changed_.wait(lock, [&] { return !is_closed_ || is_stopped_; });
        is_held_ = false;
        if (fails_) return Error{Errc::unavailable, "the broker is away"};
        for (std::size_t i = 0; i < events.size(); ++i) {
            const std::string text = events[i].application_id + "/" + events[i].key_path;
            told_.push_back(events[i]);
            confirmed[i] = !refused_.contains(events[i].key_path);
            if (confirmed[i]) taken_.push_back(text + " " + std::string(to_string(events[i].kind)) + " r" + std::to_string(events[i].revision));
        }
        return {};
    }
    void stop() noexcept override {
        std::lock_guard lock(mutex_);
        is_stopped_ = true;
        changed_.notify_all();
    }

    void refuse(std::set<std::string> keys) { set([&] { refused_ = std::move(keys); }); }
    void fail(bool fails) { set([&] { fails_ = fails; }); }
    // From now on deliver() waits until it is opened again.
    void close() { set([&] { is_closed_ = true; }); }
    void open() {
        set([&] { is_closed_ = false; });
        changed_.notify_all();
    }
    bool is_held() { return get([&] { return is_held_; }); }
    std::size_t deliveries() { return get([&] { return deliveries_; }); }
    std::vector<std::string> taken() { return get([&] { return taken_; }); }
    std::vector<Event> told() { return get([&] { return told_; }); }

private:
    template <class F>
    void set(F&& f) {
        std::lock_guard lock(mutex_);
        f();
    }
    const std::string name_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::set<std::string> refused_;
    bool fails_ = false;
    bool is_closed_ = false;
    bool is_held_ = false;
    bool is_stopped_ = false;
    std::size_t deliveries_ = 0;
    std::vector<std::string> taken_;
    std::vector<Event> told_;
};

// A storage that several stores of this process write, as several processes share PostgreSQL. It counts questions for events.
class SharedStorage final : public Passing {
public:
    explicit SharedStorage(Storage& inner, bool is_shared = true) : Passing(inner), is_shared_(is_shared) {}
    bool is_shared() const override { return is_shared_; }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override {
        ++scans;
        return inner_.scan_events(range);
    }
    std::atomic<int> scans{0};

private:
    const bool is_shared_;
};

using Strings = std::vector<std::string>;

Options with_sinks(std::vector<EventSink*> sinks) {
    Options options = each_denial_a_row();
    options.sinks = std::move(sinks);
    return options;
}

std::unique_ptr<Store> open_another(Fixture& kv, std::unique_ptr<Storage> storage, std::vector<EventSink*> sinks) {
    Options options = kv.options;
    options.sinks = std::move(sinks);
    auto store = Store::open(std::move(storage), options);
    REQUIRE_MESSAGE(store, store.error().message);
    return *std::move(store);
}

std::optional<std::uint64_t> cursor_of(Fixture& kv, const std::string& sink, const NamespaceId& ns) {
    CursorRange range;
    range.sink = sink;
    range.ns = ns;
    const auto rows = kv.storage->scan_cursors(range).value();
    return rows.empty() ? std::nullopt : std::optional(rows.front().revision);
}

bool wait_for_cursor(Fixture& kv, const std::string& sink, const NamespaceId& ns, std::uint64_t revision) {
    return eventually([&] { return cursor_of(kv, sink, ns) == revision; });
}

std::string show(const Result<WatchBatch>& batch) {
    if (!batch) return "!" + std::string(code_name(batch.error().code));
    if (batch->is_gap) return "gap r" + std::to_string(batch->revision);
    std::string text;
    for (const Event& event : batch->events) {
        text += event.key_path + " " + std::string(to_string(event.kind)) + " v" + std::to_string(event.version) + " r" +
                std::to_string(event.revision) + ", ";
    }
    return text + "at r" + std::to_string(batch->revision);
}

// Everything up to a revision, however it comes in batches.
Strings keys_until(Watch& watch, std::uint64_t revision) {
    Strings keys;
    for (std::uint64_t at = 0; at < revision;) {
        const auto batch = next(watch);
        REQUIRE(batch);
        REQUIRE_FALSE(batch->is_gap);
        for (const Event& event : batch->events) keys.push_back(event.key_path);
        at = batch->revision;
    }
    return keys;
}

std::shared_ptr<Watch> watch_from(Fixture& kv, std::optional<std::uint64_t> from, std::string prefix = "") {
    auto reply = kv.call(WatchEntries{kv.ns, std::move(prefix), from});
    REQUIRE_MESSAGE(reply, reply.error().message);
    return reply->watch;
}

Actor reader_of(Fixture& kv, std::vector<KeyPattern> keys) {
    return Actor::with_grants("ann", {Grant{{Permission::namespace_read}, "app", NamespaceId(kv.ns), std::move(keys)}});
}

}  // namespace

// ---- sinks ----

TEST_CASE("a sink is told every change behind its commit, from when it was first there") {
    RecordingSink sink;
    Fixture kv;
    REQUIRE(kv.put("before", "x"));
    kv.close();
    kv.options.sinks = {&sink};
    kv.open();
    REQUIRE(eventually([&] { return kv.storage->scan_sinks().value().size() == 1; }));
    REQUIRE(kv.put("a", "one"));
    REQUIRE(kv.put("a", "two"));
    REQUIRE(kv.call(kv.rotate_request("a", "three")));
    REQUIRE(kv.call(kv.rollback_request("a")));
    REQUIRE(kv.call(kv.patch_request("a", R"({"m":1})")));
    REQUIRE(kv.call(kv.delete_request("a")));
    REQUIRE(eventually([&] { return sink.taken().size() == 6; }));
    CHECK(sink.taken() == Strings{"app/a created r2", "app/a updated r3", "app/a rotated r4", "app/a rolled_back r5", "app/a touched r6", "app/a deleted r7"});
    const std::vector<Event> told = sink.told();
    CHECK(told[1].version == 2);
    CHECK(told[1].user_id == kv.actor.user_id);
    CHECK(told[1].at == kv.clock.now());
    CHECK(told[1].ns == kv.ns);
    CHECK(told[1].id() == kv.ns.to_string() + "-3");
    CHECK(wait_for_cursor(kv, "test", kv.ns, 7));
}

TEST_CASE("a sink goes on where it was, and a refused change is no event") {
    RecordingSink first;
    RecordingSink second;
    Fixture kv(Kind::secret, with_sinks({&first}));
    REQUIRE(kv.put("a", "x"));
    REQUIRE(eventually([&] { return first.taken().size() == 1; }));
    kv.close();  // writes down how far it got
    CHECK(cursor_of(kv, "test", kv.ns) == 1);
    kv.options.sinks = {};
    kv.open();
    REQUIRE(kv.put("b", "x"));
    kv.close();
    kv.options.sinks = {&second};
    kv.open();
    REQUIRE(kv.put("c", "x", {}));
    CHECK(kv.call(kv.put_request("c", "y", {}, Precondition{.expected_version = 7})) == Errc::version_conflict);
    REQUIRE(kv.put("d", "x"));
    REQUIRE(eventually([&] { return second.taken().size() == 3; }));
    CHECK(second.taken() == Strings{"app/b created r2", "app/c created r3", "app/d created r4"});
}

TEST_CASE("a store that dies before it wrote down how far a sink got delivers again, with the same ids") {
    RecordingSink sink;
    RecordingSink again;
    Fixture kv(Kind::secret, with_sinks({&sink}));
    REQUIRE(kv.put("a", "x"));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 1));
    kv.close();
    // As if it had died: the cursor is where it was earlier.
    Changeset changes;
    changes.cursors.push_back({"test", kv.ns, "app", 0});
    kv.tamper(changes);
    kv.options.sinks = {&again};
    kv.open();
    REQUIRE(eventually([&] { return again.told().size() == 1; }));
    CHECK(again.told().front().id() == sink.told().front().id());
}

// Broken on purpose, and noticed: the cursor moved past an event that was not confirmed.
TEST_CASE("what did not arrive comes again in order, and other namespaces do not wait for it") {
    RecordingSink sink;
    Fixture kv(Kind::secret, with_sinks({&sink}));
    const NamespaceId other = kv.make_namespace("other", Kind::plain);
    REQUIRE(eventually([&] { return kv.storage->scan_sinks().value().size() == 1; }));
    sink.refuse({"bad"});
    for (const char* key : {"one", "bad", "two"}) REQUIRE(kv.put(key, "x"));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 1));
    PutEntry elsewhere = kv.put_request("free", "x");
    elsewhere.ns = other;
    REQUIRE(kv.call(elsewhere));
    REQUIRE(wait_for_cursor(kv, "test", other, 1));
    CHECK(cursor_of(kv, "test", kv.ns) == 1);
    const StoreStats::Sink stats = kv.store->stats().sinks.at(0);
    CHECK(stats.failures > 0);
    CHECK(eventually([&] { return kv.store->stats().sinks.at(0).pending == 2; }));
    CHECK(!stats.last_error.empty());
    sink.refuse({});
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 3));
    // The last of each key came after the last of the one before.
    Strings keys;
    for (const Event& event : sink.told()) {
        if (event.ns == kv.ns) keys.push_back(event.key_path);
    }
    REQUIRE(keys.size() >= 4);
    CHECK(keys[keys.size() - 2] == "bad");
    CHECK(keys.back() == "two");
    CHECK(eventually([&] { return kv.store->stats().sinks.at(0).last_error.empty(); }));
    CHECK(eventually([&] { return kv.store->stats().sinks.at(0).pending == 0; }));
}

TEST_CASE("while a sink fails nothing is lost and no operation waits") {
    RecordingSink sink;
    sink.fail(true);
    Fixture kv(Kind::secret, with_sinks({&sink}));
    for (int i = 0; i < 300; ++i) REQUIRE(kv.put("k" + std::to_string(i), "x"));
    REQUIRE(eventually([&] { return sink.deliveries() > 1; }));
    CHECK(kv.store->stats().sinks.at(0).last_error == "the broker is away");
    CHECK(kv.store->ready());
    sink.fail(false);
    REQUIRE(eventually([&] { return sink.taken().size() == 300; }));
    CHECK(sink.taken().front() == "app/k0 created r1");
    CHECK(sink.taken().back() == "app/k299 created r300");
    CHECK(kv.store->stats().sinks.at(0).delivered == 300);
}

TEST_CASE("two sinks have a cursor each") {
    RecordingSink fast("fast");
    RecordingSink stuck("stuck");
    stuck.fail(true);
    Fixture kv(Kind::secret, with_sinks({&fast, &stuck}));
    REQUIRE(kv.put("a", "x"));
    REQUIRE(wait_for_cursor(kv, "fast", kv.ns, 1));
    CHECK(cursor_of(kv, "stuck", kv.ns).value_or(0) == 0);
    kv.close();
    kv.options.sinks = {&fast, &fast};
    CHECK(Store::open(std::make_unique<Passing>(*kv.storage), kv.options) == Errc::invalid_request);
    RecordingSink nameless("No Name");
    kv.options.sinks = {&nameless};
    CHECK(Store::open(std::make_unique<Passing>(*kv.storage), kv.options) == Errc::invalid_request);
}

TEST_CASE("what a purged namespace still owes a sink arrives, and then nothing of it is left") {
    RecordingSink sink;
    Fixture kv(Kind::secret, with_sinks({&sink}));
    REQUIRE(kv.put("a", "x"));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 1));
    sink.close();
    REQUIRE(kv.put("b", "x"));
    REQUIRE(eventually([&] { return sink.is_held(); }));
    const NamespaceId fresh = kv.make_namespace("fresh", Kind::secret);
    PutEntry elsewhere = kv.put_request("c", "x");
    elsewhere.ns = fresh;
    REQUIRE(kv.call(elsewhere));
    for (const NamespaceId& ns : {kv.ns, fresh}) REQUIRE(kv.call(DeleteNamespace{ns, true, {}}));
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(kv.storage->scan_event_spans({}).value().size() == 2);  // the sink has not got them
    sink.open();
    REQUIRE(eventually([&] { return sink.taken().size() == 3; }));
    CHECK(sink.taken()[2] == "app/c created r1");
    REQUIRE(eventually([&] { return kv.storage->scan_cursors({}).value().empty(); }));
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(kv.storage->scan_event_spans({}).value().empty());
    CHECK(kv.store->stats().events_removed == 3);
}

// ---- several processes ----

TEST_CASE("of those that share a storage one delivers, and another takes over when it stops") {
    RecordingSink first;
    RecordingSink second;
    Fixture kv;
    auto one = open_another(kv, std::make_unique<SharedStorage>(*kv.storage), {&first});
    REQUIRE(eventually([&] { return one->stats().sinks.at(0).is_owner; }));
    auto two = open_another(kv, std::make_unique<SharedStorage>(*kv.storage), {&second});
    REQUIRE(two->call(kv.actor, kv.put_request("a", "x")));  // heard of by looking
    REQUIRE(eventually([&] { return first.taken().size() == 1; }));
    CHECK_FALSE(two->stats().sinks.at(0).is_owner);
    CHECK(second.taken().empty());
    one.reset();
    REQUIRE(two->call(kv.actor, kv.put_request("b", "x")));
    REQUIRE(eventually([&] { return second.taken().size() == 1; }));
    CHECK(second.taken() == Strings{"app/b created r2"});
    CHECK(first.taken().size() == 1);
    CHECK(kv.storage->scan_sinks().value().at(0).owners == 2);
}

// Broken on purpose, and noticed: who had lost the sink wrote its cursor down all the same.
TEST_CASE("one that stood still finds that another has the sink, and leaves its cursors alone") {
    RecordingSink first;
    RecordingSink second;
    Fixture kv;
    auto one = open_another(kv, std::make_unique<SharedStorage>(*kv.storage), {&first});
    REQUIRE(eventually([&] { return one->stats().sinks.at(0).is_owner; }));
    auto two = open_another(kv, std::make_unique<SharedStorage>(*kv.storage), {&second});
    first.close();
    REQUIRE(one->call(kv.actor, kv.put_request("a", "x")));
    REQUIRE(eventually([&] { return first.is_held(); }));
    kv.clock.pass(16s);
    REQUIRE(eventually([&] { return second.taken().size() == 1; }));
    REQUIRE(one->call(kv.actor, kv.put_request("b", "x")));
    REQUIRE(eventually([&] { return second.taken().size() == 2; }));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 2));
    first.open();
    REQUIRE(eventually([&] { return !one->stats().sinks.at(0).is_owner; }));
    CHECK(first.taken() == Strings{"app/a created r1"});  // a repeat
    CHECK(cursor_of(kv, "test", kv.ns) == 2);
    CHECK(kv.storage->scan_sinks().value().at(0).owners == 2);
}

// Broken on purpose, and noticed: all revisions between counted.
TEST_CASE("what a new epoch skipped is not counted among what waits") {
    RecordingSink sink;
    sink.fail(true);
    Fixture kv(Kind::secret, with_sinks({&sink}));
    for (const char* key : {"a", "b"}) REQUIRE(kv.call(kv.put_request(key, "x")));
    kv.close();
    REQUIRE(begin_epoch(*kv.storage, *right_key()));
    kv.open();
    for (const char* key : {"c", "d", "e"}) REQUIRE(kv.call(kv.put_request(key, "x")));
    const auto pending = [&] { return kv.store->stats().sinks.at(0).pending; };
    CHECK(eventually([&] { return pending() == 5; }));
    sink.refuse({"d"});
    sink.fail(false);
    CHECK(eventually([&] { return pending() == 2; }));
    sink.refuse({});
    CHECK(eventually([&] { return pending() == 0; }));
    CHECK(sink.taken().back() == "app/e created r" + std::to_string(kv.namespace_row().revision));
}

// ---- retention ----

TEST_CASE("events go when they are old or too many, but not before every sink has them") {
    RecordingSink sink;
    Options options = with_sinks({&sink});
    options.event_retention = 1h;
    options.events_max = 5;
    Fixture kv(Kind::secret, options);
    const auto kept = [&] {
        std::string text;
        for (const EventRow& row : kv.events()) text += std::to_string(row.revision) + " ";
        return text;
    };
    for (int i = 0; i < 3; ++i) REQUIRE(kv.put("k", std::to_string(i)));
    kv.clock.pass(59min);
    REQUIRE(kv.put("k", "x"));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 4));
    kv.maintain();
    CHECK(kept() == "1 2 3 4 ");
    kv.clock.pass(2min);
    kv.maintain();
    CHECK(kept() == "4 ");
    for (int i = 0; i < 7; ++i) REQUIRE(kv.put("k", "x"));
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 11));
    kv.clock.pass(61s);
    kv.maintain();
    CHECK(kept() == "7 8 9 10 11 ");
    sink.fail(true);
    for (int i = 0; i < 7; ++i) REQUIRE(kv.put("k", "x"));
    kv.clock.pass(2h);
    kv.maintain();
    CHECK(kept() == "12 13 14 15 16 17 18 ");
    CHECK(kv.store->stats().events_removed == 11);
    sink.fail(false);
    REQUIRE(wait_for_cursor(kv, "test", kv.ns, 18));
    kv.clock.pass(61s);
    kv.maintain();
    CHECK(kept() == "");
}

TEST_CASE("while the clock is not believed no event is too old") {
    Options options = each_denial_a_row();
    options.event_retention = 1h;
    Fixture kv(Kind::secret, options);
    REQUIRE(kv.put("k", "x"));
    kv.clock.pass(2h);
    kv.clock.jump(24h * 400);
    kv.maintain();
    CHECK(kv.events().size() == 1);
}

// ---- watches ----

TEST_CASE("a watch tells what changes, in order, and goes on from a revision") {
    Fixture kv;
    REQUIRE(kv.put("old", "x"));
    auto watch = watch_from(kv, {});
    REQUIRE(kv.put("a", "x"));
    REQUIRE(kv.put("a", "y"));
    CHECK(keys_until(*watch, 3) == Strings{"a", "a"});
    REQUIRE(kv.call(kv.delete_request("a")));
    CHECK(show(next(*watch)) == "a deleted v3 r4, at r4");
    CHECK(keys_until(*watch_from(kv, 0), 4) == Strings{"old", "a", "a", "a"});
    CHECK(keys_until(*watch_from(kv, 2), 4) == Strings{"a", "a"});
    CHECK(kv.store->stats().watches == 1);
}

TEST_CASE("a watch that waits is told within its patience, and without events when that is over") {
    Fixture kv;
    auto watch = watch_from(kv, {});
    CHECK(show(next(*watch, 1ms)) == "at r0");
    std::optional<Result<WatchBatch>> told;
    std::mutex mutex;
    watch->next(60s, [&](Result<WatchBatch> batch) {
        std::lock_guard lock(mutex);
        told.emplace(std::move(batch));
    });
    REQUIRE(kv.put("a", "x"));
    CHECK(eventually([&] {
        std::lock_guard lock(mutex);
        return told.has_value();
    }));
    CHECK(show(*told) == "a created v1 r1, at r1");
}

TEST_CASE("a watcher sees what it asked for and may see") {
    Fixture kv;
    auto all = watch_from(kv, 0, "db/");
    auto some = kv.call_as(reader_of(kv, {*KeyPattern::parse("db/one"), *KeyPattern::parse("web/**")}), WatchEntries{kv.ns, "", 0});
    REQUIRE(some);
    for (const char* key : {"a", "db/one", "db/two", "web/x", "z"}) REQUIRE(kv.put(key, "x"));
    CHECK(keys_until(*all, 3) == Strings{"db/one", "db/two"});
    CHECK(keys_until(*some->watch, 4) == Strings{"db/one", "web/x"});
}

TEST_CASE("watching needs kv-namespace:read and is recorded") {
    Fixture kv;
    kv.new_audit();
    CHECK(kv.call(WatchEntries{kv.ns, "db/", {}}));
    CHECK(kv.call_as(Actor::with_grants("eve", {}), WatchEntries{kv.ns, "", {}}) == Errc::not_found);
    const Grant writer{{Permission::entry_write}, "app", NamespaceId(kv.ns), {KeyPattern{}}};
    CHECK(kv.call_as(Actor::with_grants("bob", {writer}), WatchEntries{kv.ns, "", {}}) == Errc::permission_denied);
    CHECK(kv.call(WatchEntries{NamespaceName{"app", "nowhere"}, "", {}}) == Errc::not_found);
    CHECK(kv.call(WatchEntries{kv.ns, "a\n", {}}) == Errc::invalid_request);
    CHECK(kv.new_audit() == "audit READ db/ ok\naudit READ not-found\naudit READ permission-denied\naudit READ not-found\naudit READ invalid-request\n");
    CHECK(kv.audit_rows().back().record.operation == "entry.watch");
}

TEST_CASE("a position that is not kept any more, or never was, is a gap") {
    Options options = each_denial_a_row();
    options.events_max = 2;
    Fixture kv(Kind::secret, options);
    for (int i = 0; i < 5; ++i) REQUIRE(kv.put("k" + std::to_string(i), "x"));
    kv.clock.pass(61s);
    kv.maintain();
    REQUIRE(kv.events().size() == 2);
    CHECK(show(next(*watch_from(kv, 2))) == "gap r5");
    CHECK(keys_until(*watch_from(kv, 3), 5) == Strings{"k3", "k4"});
    auto ahead = watch_from(kv, 99);
    CHECK(show(next(*ahead)) == "gap r5");
    REQUIRE(kv.put("k5", "x"));
    CHECK(show(next(*ahead)) == "k5 created v1 r6, at r6");
    auto behind = watch_from(kv, 0);
    CHECK(show(next(*behind)) == "gap r6");
    REQUIRE(kv.put("k6", "x"));
    CHECK(show(next(*behind)) == "k6 created v1 r7, at r7");
}

TEST_CASE("a watch ends with its namespace, and with its store, which it may outlive") {
    Fixture kv;
    const NamespaceId doomed = kv.make_namespace("doomed", Kind::plain);
    auto first = kv.call(WatchEntries{doomed, "", {}}).value().watch;
    auto second = watch_from(kv, {});
    REQUIRE(kv.call(DeleteNamespace{doomed, false, {}}));
    CHECK(show(next(*first)) == "!not-found");
    std::optional<Result<WatchBatch>> told;
    second->next(60s, [&](Result<WatchBatch> batch) { told.emplace(std::move(batch)); });
    kv.close();
    REQUIRE(told);
    CHECK(show(*told) == "!shutting-down");
    CHECK(show(next(*second)) == "!shutting-down");
}

TEST_CASE("a watch by a grant that names the namespace ends when the name is another's") {
    Fixture kv;
    const Grant named{{Permission::namespace_read}, "app", NamespaceName{"app", "ns"}, {KeyPattern{}}};
    auto reply = kv.call_as(Actor::with_grants("ann", {named}), WatchEntries{kv.ns, "", {}});
    REQUIRE(reply);
    UpdateNamespace rename;
    rename.ns = kv.ns;
    rename.name = "renamed";
    REQUIRE(kv.call(rename));
    // It is noticed when the feed looks; until then what was granted is told.
    std::string last;
    CHECK(eventually([&] {
        REQUIRE(kv.put("a", "x"));
        last = show(next(*reply->watch, 1s));
        return last == "!not-found";
    }));
}

TEST_CASE("many watchers of one namespace cost few questions") {
    Fixture kv;
    auto shared = std::make_unique<SharedStorage>(*kv.storage, false);
    SharedStorage& storage = *shared;
    kv.close();
    auto store = open_another(kv, std::move(shared), {});
    std::vector<std::shared_ptr<Watch>> watches;
    for (int i = 0; i < 200; ++i) watches.push_back(store->call(kv.actor, WatchEntries{kv.ns, "", {}}).value().watch);
    REQUIRE(store->call(kv.actor, kv.put_request("a", "x")));
    const int before = storage.scans;
    for (const auto& watch : watches) CHECK(show(next(*watch)) == "a created v1 r1, at r1");
    CHECK(storage.scans - before <= 3);
}

TEST_CASE("a subscription calls back, and a slow one delays nobody") {
    Fixture kv;
    std::mutex mutex;
    std::condition_variable changed;
    bool is_open = false;
    Strings slow;
    Strings quick;
    auto one = kv.store->watch(kv.actor, WatchEntries{kv.ns, "", {}}, [&](const Result<WatchBatch>& batch) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return is_open; });
        slow.push_back(show(batch));
    });
    auto two = kv.store->in(kv.ns, kv.actor).watch("", {}, [&](const Result<WatchBatch>& batch) {
        std::lock_guard lock(mutex);
        quick.push_back(show(batch));
    });
    REQUIRE(one);
    REQUIRE(two);
    for (int i = 0; i < 3; ++i) {
        REQUIRE(kv.put("a", "x"));
        CHECK(eventually([&] {
            std::lock_guard lock(mutex);
            return quick.size() == static_cast<std::size_t>(i) + 1;
        }));
    }
    {
        std::lock_guard lock(mutex);
        CHECK(slow.empty());
        is_open = true;
    }
    changed.notify_all();
    CHECK(eventually([&] {
        std::lock_guard lock(mutex);
        return !slow.empty() && slow.back().ends_with("at r3");
    }));
    two->reset();
    kv.close();
    CHECK(eventually([&] {
        std::lock_guard lock(mutex);
        return slow.back() == "!shutting-down";
    }));
    CHECK(quick.size() == 3);
}

TEST_CASE("a subscription may end itself") {
    Fixture kv;
    std::unique_ptr<Subscription> own;
    std::atomic<int> calls{0};
    std::mutex mutex;
    std::unique_lock lock(mutex);
    own = kv.store->watch(kv.actor, WatchEntries{kv.ns, "", {}}, [&](const Result<WatchBatch>&) {
                      std::lock_guard inside(mutex);
                      own.reset();
                      ++calls;
                  }).value();
    lock.unlock();
    REQUIRE(kv.put("a", "x"));
    CHECK(eventually([&] { return calls == 1; }));
}

TEST_CASE("a watcher hears of what another process wrote") {
    Fixture kv;
    auto other = open_another(kv, std::make_unique<SharedStorage>(*kv.storage), {});
    auto watch = other->call(kv.actor, WatchEntries{kv.ns, "", {}}).value().watch;
    REQUIRE(kv.put("a", "x"));
    CHECK(show(next(*watch)) == "a created v1 r1, at r1");
}

TEST_CASE("a storage that does not answer ends no watch") {
    Fixture kv;
    auto watch = watch_from(kv, {});
    REQUIRE(kv.put("a", "x"));
    CHECK(show(next(*watch)) == "a created v1 r1, at r1");
    kv.faults.event_scans_to_fail = 1;
    REQUIRE(kv.put("b", "x"));
    CHECK(show(next(*watch)) == "b created v1 r2, at r2");
}

// ---- long polls ----

TEST_CASE("a list that waits is answered once the namespace has moved on") {
    Fixture kv;
    REQUIRE(kv.put("a", "x"));
    ListEntries list = kv.list_request("", false);
    list.wait_revision = 0;
    auto reply = kv.call(list);
    REQUIRE(reply);
    CHECK(reply->revision == 1);
    list.wait_revision = 1;
    Replies replies(1);
    kv.new_audit();
    kv.store->submit(kv.actor, list, replies.slot(0));
    REQUIRE(kv.put("b", "x"));
    auto late = replies.take();
    REQUIRE(late[0]);
    CHECK(std::get<EntryList>(*late[0]).items.size() == 2);
    CHECK(std::get<EntryList>(*late[0]).revision == 2);
    CHECK(kv.new_audit() == "audit WRITE b v1 ok\naudit READ ok\n");  // once
}

TEST_CASE("a list that waits in vain is answered when its time is over, or the store stops") {
    Fixture kv;
    REQUIRE(kv.put("a", "x"));
    ListEntries list = kv.list_request("", false);
    list.wait_revision = 1;
    list.wait_seconds = 1;
    auto reply = kv.call(list);
    REQUIRE(reply);
    CHECK(reply->items.size() == 1);
    list.wait_seconds = 300;
    Replies replies(1);
    kv.store->submit(kv.actor, list, replies.slot(0));
    kv.close();
    CHECK(replies.take()[0]);
}

TEST_CASE("who may not list does not wait") {
    Fixture kv;
    ListEntries list = kv.list_request("", false);
    list.wait_revision = 1;
    list.wait_seconds = 300;
    CHECK(kv.call_as(Actor::with_grants("eve", {}), list) == Errc::not_found);
    list.wait_seconds = 0;
    CHECK(kv.call(list).error().field == "timeoutSeconds");
    list.wait_seconds = 301;
    CHECK(kv.call(list).error().field == "timeoutSeconds");
    list.wait_seconds = 1;
    list.page.cursor = "x";
    CHECK(kv.call(list).error().field == "waitRevision");
}
