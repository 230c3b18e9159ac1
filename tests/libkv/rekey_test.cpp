#include "rekey.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "fixture.h"
#include "kv/admin.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

SecretBytes key_one() { return fixed_key(); }
SecretBytes key_two() { return SecretBytes("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"); }
SecretBytes key_three() { return SecretBytes("zyxwvutsrqponmlkjihgfedcba987654"); }
const std::string one = master_key_id(key_one());
const std::string two = master_key_id(key_two());
const std::string three = master_key_id(key_three());

// What the store logged, one line each.
struct Log {
    void attach(Options& options) {
        options.log = [this](LogLevel, std::string_view message) {
            std::lock_guard lock(mutex);
            lines.emplace_back(message);
        };
    }
    std::size_t count(std::string_view part) {
        std::lock_guard lock(mutex);
        return static_cast<std::size_t>(
            std::count_if(lines.begin(), lines.end(), [&](const std::string& line) { return line.find(part) != std::string::npos; }));
    }
    std::mutex mutex;
    std::vector<std::string> lines;
};

std::unique_ptr<Store> open_with(Fixture& kv, const SecretBytes& current, const std::optional<SecretBytes>& previous = {}) {
    Options options = kv.options;
    options.keys = make_fixed_key(current);
    options.previous_keys = previous ? make_fixed_key(*previous) : nullptr;
    auto opened = Store::open(std::make_unique<FaultStorage>(*kv.storage, kv.faults), options);
    REQUIRE_MESSAGE(opened, opened.error().message);
    return *std::move(opened);
}

void reopen(Fixture& kv, const SecretBytes& current, const std::optional<SecretBytes>& previous = {}) {
    kv.store.reset();
    kv.store = open_with(kv, current, previous);
}

Errc open_fails(Fixture& kv, const SecretBytes& current, const std::optional<SecretBytes>& previous = {}) {
    kv.store.reset();
    Options options = kv.options;
    options.keys = make_fixed_key(current);
    options.previous_keys = previous ? make_fixed_key(*previous) : nullptr;
    auto opened = Store::open(std::make_unique<FaultStorage>(*kv.storage, kv.faults), options);
    REQUIRE_FALSE(opened);
    return opened.error().code;
}

std::vector<KeyRow> key_rows(const Fixture& kv, KeyWalk walk = {}) {
    walk.limit = 1'000'000;
    return kv.storage->walk_keys(walk).value();
}
std::size_t wrapped_by(const Fixture& kv, const std::string& id) {
    KeyWalk walk;
    walk.wrapped_by = id;
    return key_rows(kv, walk).size();
}
std::vector<std::uint32_t> generations(const Fixture& kv, const NamespaceId& ns) {
    const KeyRef ref{KeyPurpose::data, ns, {}};
    std::vector<std::uint32_t> found;
    for (const KeyRow& row : kv.storage->get_keys(std::span(&ref, 1)).value()) found.push_back(row.generation);
    return found;
}
std::vector<std::uint32_t> generations(const Fixture& kv) { return generations(kv, kv.ns); }
using Generations = std::vector<std::uint32_t>;

void make_namespaces(Fixture& kv, int count) {
    for (int i = 0; i < count; ++i) kv.make_namespace("more-" + std::to_string(i), Kind::secret);
}

Result<NamespaceReply> rotate(Fixture& kv) { return kv.store->rotate_data_key(kv.actor, kv.ns); }

// What every value of the namespace is sealed by.
std::map<std::uint32_t, int> values_by_generation(const Fixture& kv) {
    DueRange range;
    range.kind = DueRange::Kind::all;
    range.ns = kv.ns;
    range.limit = range.bytes = 1'000'000'000;
    std::map<std::uint32_t, int> found;
    for (const EntryRow& row : kv.storage->scan_due(range).value()) {
        if (!row.is_tombstone) ++found[row.key_generation];
        for (const VersionRow& version : kv.archived(row.id)) {
            if (!version.is_tombstone) ++found[version.key_generation];
        }
    }
    return found;
}

// Rounds until nothing is left, whatever fails on the way.
void maintain_to_the_end(Fixture& kv) {
    for (int round = 0; round < 1000; ++round) {
        kv.clock.pass(61s);  // every look is due, and every retirement over
        const auto worked = kv.store->run_maintenance();
        if (worked && !*worked && generations(kv).size() == 1) return;
    }
    FAIL("it never ends");
}

void fill(Fixture& kv, int keys) {
    for (const char* text : {"old ", "new "}) {
        std::vector<std::pair<std::string, std::string>> items;
        for (int i = 0; i < keys; ++i) {
            items.emplace_back("k" + std::to_string(1000 + i), text + std::to_string(i));
            if (items.size() < 600 && i + 1 < keys) continue;
            REQUIRE(kv.call(kv.bulk_set_request(items)));
            items.clear();
        }
    }
    REQUIRE(kv.call(kv.delete_request("k1000")));
}
void check_filled(Fixture& kv, int keys) {
    for (int i = 1; i < keys; i += std::max(1, keys / 7)) {
        const std::string key = "k" + std::to_string(1000 + i);
        CHECK(kv.get(key) == "new " + std::to_string(i));
        CHECK(kv.get(key, 1) == "old " + std::to_string(i));
    }
    CHECK(kv.get("k1000") == "!not-found");
    CHECK(kv.get("k1000", 2) == "new 0");
}

}  // namespace

// ---- the master key ----

TEST_CASE("a store opened with a new master key and the one before wraps every key by both, and goes on") {
    Log log;
    Fixture kv;
    make_namespaces(kv, 600);  // more than a batch
    REQUIRE(kv.put("k", "v"));
    const std::size_t rows = key_rows(kv).size();
    log.attach(kv.options);
    reopen(kv, key_two(), key_one());
    CHECK(kv.store->key_id() == two);
    // What belongs to the store itself before anything is served, the rest while it is.
    CHECK(wrapped_by(kv, two) == 5);
    CHECK(kv.get("k") == "v");
    REQUIRE(kv.put("k", "w"));
    const NamespaceId fresh = kv.make_namespace("fresh", Kind::secret);
    CHECK(wrapped_by(kv, two) == 6);
    CHECK(*kv.store->run_maintenance());
    CHECK(kv.store->stats().master_key_rows_missing == 601 - 512);
    kv.maintain();
    CHECK(wrapped_by(kv, two) == rows + 1);
    CHECK(wrapped_by(kv, one) == rows + 1);
    CHECK(kv.store->stats().master_key_rows_missing == 0);
    CHECK(log.count("601 stored keys are not wrapped by the master key " + two) == 1);
    CHECK(log.count("you may run: kvd forget-master-key " + one) == 1);
    for (const auto& [current, previous] : {std::pair{key_one(), std::optional<SecretBytes>()}, {key_two(), {}}, {key_one(), key_two()}}) {
        reopen(kv, current, previous);
        CHECK(kv.get("k") == "w");
        CHECK(kv.store->in(fresh, kv.actor).put("k", "in the new one"));
        kv.maintain();
    }
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("with the new master key alone, a value whose key is not wrapped by it yet says what to do, alone") {
    Log log;
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    reopen(kv, key_two(), key_one());
    const NamespaceId fresh = kv.make_namespace("fresh", Kind::secret);
    log.attach(kv.options);
    reopen(kv, key_two());
    auto denied = kv.call(kv.get_request("k"));
    REQUIRE(denied == Errc::wrong_key);
    CHECK(denied.error().message.find("KV_MASTER_KEY_PREVIOUS") != std::string::npos);
    CHECK(denied.error().message.find(one) != std::string::npos);
    CHECK(kv.put("k", "w") == Errc::wrong_key);
    CHECK(kv.store->in(fresh, kv.actor).put("k", "v"));
    // Of one group only what needs that key fails. Whoever asks hears that something is out of reach.
    PutEntry good = kv.put_request("k", "in the other");
    good.ns = fresh;
    const auto replies = kv.together({kv.put_request("k", "x"), good, kv.put_request("l", "y")});
    CHECK(code_of(replies[0]) == "wrong-key");
    CHECK(code_of(replies[1]) == "ok");
    CHECK(code_of(replies[2]) == "wrong-key");
    CHECK(kv.store->ready() == Errc::unavailable);
    kv.maintain();
    CHECK(log.count("1 stored keys are not wrapped by the master key " + two) == 1);
    CHECK(kv.store->stats().master_key_rows_missing == 1);
    reopen(kv, key_two(), key_one());
    CHECK(kv.get("k") == "v");
}

TEST_CASE("keys that a node with the old master key alone makes are wrapped soon, too") {
    Fixture kv;
    reopen(kv, key_two(), key_one());
    kv.maintain();
    auto old_node = open_with(kv, key_one());
    CreateNamespace create;
    create.name = "late";
    create.is_secret = true;
    const NamespaceId late = old_node->call(kv.actor, create).value().ns.id;
    REQUIRE(old_node->in(late, kv.actor).put("k", "v"));
    CHECK(kv.store->in(late, kv.actor).get<std::string>("k").value() == "v");
    kv.maintain();
    CHECK(wrapped_by(kv, two) == 6);
    kv.clock.pass(10s);
    kv.maintain();
    CHECK(wrapped_by(kv, two) == 7);
    CHECK(kv.store->stats().master_key_rows_missing == 0);
}

TEST_CASE("a third master key takes the place of the first, never of the one before it") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    reopen(kv, key_two(), key_one());
    kv.maintain();
    reopen(kv, key_three(), key_two());
    kv.maintain();
    CHECK(wrapped_by(kv, one) == 0);
    CHECK(wrapped_by(kv, two) == 6);
    CHECK(wrapped_by(kv, three) == 6);
    CHECK(kv.get("k") == "v");
    CHECK(open_fails(kv, key_one()) == Errc::wrong_key);
    CHECK(open_fails(kv, key_one(), SecretBytes("another key, which opens nothing")) == Errc::wrong_key);
}

TEST_CASE("the same master key twice is one, and a previous one that opens nothing is worth a warning") {
    Log log;
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    log.attach(kv.options);
    reopen(kv, key_one(), key_one());
    kv.maintain();
    CHECK(kv.get("k") == "v");
    CHECK(log.count("keys: ") == 0);
    reopen(kv, key_one(), key_two());
    kv.maintain();
    CHECK(kv.get("k") == "v");
    kv.make_namespace("fresh", Kind::secret);
    CHECK(wrapped_by(kv, two) == 0);
    CHECK(log.count("the previous master key " + two + " opens nothing here") == 1);
}

TEST_CASE("a master key is forgotten once every key is wrapped by the one in use, and not before") {
    Log log;
    Fixture kv;
    make_namespaces(kv, 600);
    REQUIRE(kv.put("k", "v"));
    reopen(kv, key_two(), key_one());
    log.attach(kv.options);
    const auto forget = [&](const std::string& id) { return kv.store->forget_master_key(kv.actor, id); };
    CHECK(forget(one) == Errc::invalid_state);
    kv.maintain();
    CHECK(forget(two) == Errc::invalid_request);
    CHECK(forget(three) == Errc::invalid_request);
    CHECK(forget("") == Errc::invalid_request);
    Actor nobody;
    nobody.user_id = "nobody";
    CHECK(kv.store->forget_master_key(nobody, one) == Errc::permission_denied);
    CHECK(wrapped_by(kv, one) == 606);
    kv.new_audit();
    CHECK(forget(one).value() == 606);
    CHECK(kv.new_audit() == "audit WRITE ok\n");
    CHECK(wrapped_by(kv, one) == 0);
    CHECK(wrapped_by(kv, two) == 606);
    CHECK(kv.get("k") == "v");
    // The variable may stay set for a while: what is forgotten does not come back.
    kv.make_namespace("fresh", Kind::secret);
    CHECK(wrapped_by(kv, one) == 0);
    reopen(kv, key_two(), key_one());
    kv.make_namespace("fresher", Kind::secret);
    kv.maintain();
    CHECK(wrapped_by(kv, one) == 0);
    CHECK(open_fails(kv, key_one()) == Errc::wrong_key);
    reopen(kv, key_two());
    CHECK(kv.get("k") == "v");
    CHECK(forget(one) == Errc::invalid_request);
}

TEST_CASE("forgetting a master key can be cut short anywhere: both open what is left, and it can be done again") {
    enum Fault { fails, lost, lost_and_kept };
    for (const Fault fault : {fails, lost, lost_and_kept}) {
        for (int cut = 0; cut < 4; ++cut) {
            CAPTURE(fault);
            CAPTURE(cut);
            Fixture kv;
            make_namespaces(kv, 600);  // two batches, then the store's own
            REQUIRE(kv.put("k", "v"));
            reopen(kv, key_two(), key_one());
            kv.maintain();
            int seen = 0;
            kv.faults.judge_apply([&](const Changeset& changes) -> std::optional<Errc> {
                // A write whose outcome is lost is the one after the write that the loss is asked for in.
                const bool is_next = fault == fails ? !changes.keys.empty() && seen++ == cut : seen++ == cut;
                if (!is_next) return std::nullopt;
                if (fault == fails) return Errc::unavailable;
                kv.faults.lose_outcome(fault == lost_and_kept);
                return std::nullopt;
            });
            const auto forgotten = kv.store->forget_master_key(kv.actor, one);
            kv.faults.clear();
            CHECK(forgotten.has_value() == (cut == 3));
            if (wrapped_by(kv, one) > 0 && !forgotten) reopen(kv, key_one(), key_two());
            reopen(kv, key_two());
            CHECK(kv.get("k") == "v");
            if (wrapped_by(kv, one) > 0) CHECK(kv.store->forget_master_key(kv.actor, one));
            CHECK(wrapped_by(kv, one) == 0);
            CHECK(wrapped_by(kv, two) == 606);
            CHECK(kv.get("k") == "v");
            CHECK(audit_fault(*kv.storage, *kv.keys) == "");
        }
    }
}

TEST_CASE("a row that only claims a wrap by the key in use keeps the other one") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    std::vector<KeyRow> rows = key_rows(kv);
    KeyRow& data = rows.back();
    data.second_wrap_key_id = two;
    data.second_wrap = data.wrap;
    Changeset tampered;
    tampered.keys.push_back(data);
    kv.tamper(tampered);
    reopen(kv, key_two(), key_one());
    kv.maintain();
    CHECK(kv.store->forget_master_key(kv.actor, one) == Errc::integrity);
    CHECK(wrapped_by(kv, one) == 6);
    reopen(kv, key_one());
    CHECK(kv.get("k") == "v");
}

TEST_CASE("wrapping the keys anew survives every failing write, and ends") {
    for (int cut = 0; cut < 8; ++cut) {
        for (const int fault : {0, 1, 2}) {
            CAPTURE(cut);
            CAPTURE(fault);
            Fixture kv;
            make_namespaces(kv, 600);
            REQUIRE(kv.put("k", "v"));
            reopen(kv, key_two(), key_one());
            kv.faults.lose_races(fault == 2);
            for (int round = 0; round < 20; ++round) {
                if (round == cut && fault == 0) kv.faults.fail_writes(Errc::unavailable, 1);
                if (round == cut && fault == 1) kv.faults.lose_outcome(round % 2 == 0, 2);
                static_cast<void>(kv.store->run_maintenance().has_value());
                kv.faults.fail_writes(Errc::internal, 0);
                kv.faults.lose_outcome(false, 0);
                CHECK(kv.get("k") == "v");
            }
            kv.faults.clear();
            kv.clock.pass(10s);
            kv.maintain();
            CHECK(wrapped_by(kv, two) == 606);
            CHECK(kv.store->stats().master_key_rows_missing == 0);
            reopen(kv, key_two());
            CHECK(kv.get("k") == "v");
        }
    }
}

TEST_CASE("a drill tells whether a key opens the store, all of it, or is another one's") {
    Fixture kv;
    make_namespaces(kv, 3);
    const auto check = [&](const SecretBytes& key) { return check_key(*kv.storage, *make_fixed_key(key)); };
    auto found = check(key_one()).value();
    CHECK(found.key_id == one);
    CHECK(found.wrapped_by == std::vector<std::string>{one});
    CHECK(found.keys == 9);
    CHECK(found.unwrapped == 0);
    auto foreign = check(key_two());
    REQUIRE(foreign == Errc::wrong_key);
    CHECK(foreign.error().message.find(one) != std::string::npos);
    CHECK(foreign.error().message.find(two) != std::string::npos);
    reopen(kv, key_two(), key_one());
    found = check(key_two()).value();
    CHECK(found.keys == 5);
    CHECK(found.unwrapped == 4);
    CHECK(found.wrapped_by == std::vector<std::string>{two, one});
    kv.maintain();
    CHECK(check(key_two())->unwrapped == 0);
    KeyRow damaged = key_rows(kv).back();
    damaged.wrap.back() = static_cast<char>(damaged.wrap.back() ^ 1);
    Changeset tampered;
    tampered.keys.push_back(damaged);
    kv.tamper(tampered);
    CHECK(check(key_two())->unwrapped == 1);
    SettableClock clock;
    auto empty = make_memory_storage(clock);
    CHECK(check_key(*empty, *make_fixed_key(key_one())) == Errc::not_found);
}

// ---- data keys ----

TEST_CASE("a rotated data key seals everything anew in batches, readable at every moment, and the old one goes") {
    Fixture kv;
    fill(kv, 600);
    const NamespaceRow before = kv.namespace_row();
    CHECK_FALSE(*kv.store->is_rekeying(kv.ns));
    kv.new_audit();
    auto rotated = rotate(kv);
    REQUIRE(rotated);
    CHECK(kv.new_audit() == "audit ROTATE v1 ok\n");
    CHECK(generations(kv) == Generations{1, 2});
    CHECK(kv.namespace_row().seals == 0);
    CHECK(*kv.store->is_rekeying(kv.ns));
    REQUIRE(kv.put("sealed at once", "y"));
    CHECK(kv.entry_row("sealed at once")->key_generation == 2);
    int rounds = 0;
    while (*kv.store->run_maintenance()) {
        check_filled(kv, 600);
        if (++rounds == 1) {
            CHECK(kv.store->stats().rekeying_namespaces == 1);
            CHECK(kv.call(kv.rollback_request("k1001", 1))->entry.version == 3);
            CHECK(kv.put("k1002", "changed meanwhile"));
            CHECK(kv.call(kv.rollback_request("k1001", 2))->entry.version == 4);
        }
        REQUIRE(kv.put("k1002", "new 2"));
    }
    CHECK(rounds >= 4);
    check_filled(kv, 600);
    CHECK_FALSE(*kv.store->is_rekeying(kv.ns));
    CHECK(kv.store->stats().rekeying_namespaces == 0);
    const auto values = values_by_generation(kv);
    CHECK(values.size() == 1);
    CHECK(values.begin()->first == 2);
    CHECK(kv.namespace_row().seals >= 1200);
    CHECK(kv.namespace_row().version == before.version);
    CHECK(kv.namespace_row().mac != before.mac);
    // The old key stays a little for reads under way.
    CHECK(generations(kv) == Generations{1, 2});
    kv.clock.pass(60s - 1us);
    kv.maintain();
    CHECK(generations(kv) == Generations{1, 2});
    kv.clock.pass(1us);
    kv.maintain();
    CHECK(generations(kv) == Generations{2});
    check_filled(kv, 600);
    kv.close();
    kv.open();
    check_filled(kv, 600);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("only who administers a secret namespace rotates its key") {
    Fixture kv;
    CHECK(kv.store->rotate_data_key(kv.actor, NamespaceName{"app", "nowhere"}) == Errc::not_found);
    Actor stranger;
    stranger.user_id = "stranger";
    CHECK(kv.store->rotate_data_key(stranger, kv.ns) == Errc::not_found);
    Actor writer;
    writer.user_id = "writer";
    PermissionSet most;
    for (int p = 0; p < permission_count; ++p) {
        if (static_cast<Permission>(p) != Permission::admin) most.add(static_cast<Permission>(p));
    }
    Grant grant;
    grant.permissions = most;
    grant.application_id = "*";
    writer.grants = std::make_shared<const std::vector<Grant>>(1, grant);
    kv.new_audit();
    CHECK(kv.store->rotate_data_key(writer, kv.ns) == Errc::permission_denied);
    CHECK(kv.new_audit() == "audit ROTATE permission-denied\n");
    kv.ns = kv.make_namespace("plain", Kind::plain);
    auto plain = rotate(kv);
    REQUIRE(plain == Errc::invalid_request);
    CHECK(plain.error().message.find("plain") != std::string::npos);
    CHECK(kv.store->is_rekeying(Uuid{}) == Errc::not_found);
    DeleteNamespace remove;
    remove.ns = kv.ns;
    REQUIRE(kv.call(remove));
    CHECK(rotate(kv) == Errc::not_found);
}

TEST_CASE("a key rotated again while values are on their way is two generations, and both old ones go") {
    Fixture kv;
    fill(kv, 600);
    REQUIRE(rotate(kv));
    REQUIRE(*kv.store->run_maintenance());
    REQUIRE(rotate(kv));
    CHECK(generations(kv) == Generations{1, 2, 3});
    CHECK(values_by_generation(kv).size() == 2);
    check_filled(kv, 600);
    kv.maintain();
    CHECK(values_by_generation(kv).begin()->first == 3);
    // And while the old one is kept for a little: it does not wait for that.
    REQUIRE(rotate(kv));
    kv.maintain();
    CHECK(values_by_generation(kv).begin()->first == 4);
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(generations(kv) == Generations{4});
    check_filled(kv, 600);
}

TEST_CASE("sealing anew goes on after a restart, where it stopped, and so does the end of the old key") {
    Fixture kv;
    fill(kv, 900);
    REQUIRE(rotate(kv));
    REQUIRE(*kv.store->run_maintenance());
    CHECK(values_by_generation(kv).size() == 2);
    kv.close();
    kv.open();
    check_filled(kv, 900);
    kv.maintain();
    CHECK(values_by_generation(kv).size() == 1);
    kv.close();
    kv.open();
    kv.maintain();
    CHECK(generations(kv) == Generations{1, 2});
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(generations(kv) == Generations{2});
    check_filled(kv, 900);
}

TEST_CASE("values that do not open stay as they are with their key, are told once, and hinder no other") {
    Log log;
    Options options;
    log.attach(options);
    Fixture kv(Kind::secret, options);
    fill(kv, 1200);
    // More than a batch of entries, and the first versions of some.
    Changeset tampered;
    for (int i = 1; i < 1200; i += 2) {
        EntryRow row = *kv.entry_row("k" + std::to_string(1000 + i));
        row.value.back() = static_cast<char>(row.value.back() ^ 1);
        tampered.entries.push_back(row);
        if (i % 4 == 1) {
            tampered.erase_versions.push_back({row.id, 1, 1});
        }
    }
    kv.tamper(tampered);
    REQUIRE(rotate(kv));
    kv.maintain();
    const auto values = values_by_generation(kv);
    CHECK(values.at(1) == 600);
    CHECK(values.at(2) == 1200 * 2 - 600 - 300);
    CHECK(kv.get("k1002") == "new 2");
    CHECK(kv.get("k1001") == "!integrity");
    CHECK(kv.store->is_rekeying(kv.ns) == Errc::integrity);
    CHECK(log.count("600 values do not open") == 1);
    for (int minutes = 0; minutes < 3; ++minutes) {
        kv.clock.pass(61s);
        kv.maintain();
    }
    CHECK(log.count("600 values do not open") == 1);
    CHECK(generations(kv) == Generations{1, 2});
    CHECK(kv.store->stats().rekeying_namespaces == 1);
    // A generation between theirs and the present one is in nobody's way.
    REQUIRE(rotate(kv));
    for (int minutes = 0; minutes < 3; ++minutes) {
        kv.maintain();
        kv.clock.pass(61s);
    }
    CHECK(generations(kv) == Generations{1, 3});
    // Once they are gone, so is their key.
    std::vector<std::string> doomed;
    for (int i = 1; i < 1200; i += 2) doomed.push_back("k" + std::to_string(1000 + i));
    REQUIRE(kv.call(kv.bulk_delete_request(doomed, true, true)));
    for (int minutes = 0; minutes < 3; ++minutes) {
        kv.clock.pass(61s);
        kv.maintain();
    }
    CHECK(generations(kv) == Generations{3});
    CHECK_FALSE(*kv.store->is_rekeying(kv.ns));
    CHECK(kv.store->stats().rekeying_namespaces == 0);
    CHECK(kv.get("k1002") == "new 2");
}

TEST_CASE("a data key that is missing hinders no other namespace") {
    Log log;
    Options options;
    log.attach(options);
    Fixture kv(Kind::secret, options);
    REQUIRE(kv.put("k", "v"));
    const NamespaceId broken = kv.ns;
    REQUIRE(rotate(kv));
    kv.ns = kv.make_namespace("other", Kind::secret);
    REQUIRE(kv.put("k", "v"));
    REQUIRE(rotate(kv));
    kv.close();
    Changeset tampered;
    tampered.erase_keys.push_back({KeyPurpose::data, broken, 2});
    kv.tamper(tampered);
    kv.open();
    kv.maintain();
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(generations(kv) == Generations{2});
    CHECK(generations(kv, broken) == Generations{1});
    CHECK(log.count(broken.to_string() + " is not sealed anew") == 1);
}

TEST_CASE("sealing anew survives every failing, lost or repeated write, and ends") {
    enum Fault { fails, lost_and_kept, lost, raced };
    for (const Fault fault : {fails, lost_and_kept, lost, raced}) {
        for (int cut = 0; cut < 10; ++cut) {
            CAPTURE(cut);
            CAPTURE(fault);
            Fixture kv;
            fill(kv, 530);  // two batches of entries, three of versions
            kv.faults.lose_races(fault == raced);
            REQUIRE(rotate(kv));
            for (int round = 0; round < 10; ++round) {
                if (round == cut) {
                    if (fault == fails) kv.faults.fail_writes(Errc::unavailable, 1);
                    if (fault == lost || fault == lost_and_kept) kv.faults.lose_outcome(fault == lost_and_kept);
                }
                static_cast<void>(kv.store->run_maintenance().has_value());
                kv.faults.fail_writes(Errc::internal, 0);
                kv.faults.lose_outcome(false, 0);
                check_filled(kv, 530);
                if (round == cut && cut % 3 == 0) {
                    kv.close();
                    kv.open();
                }
                if (round >= 6) kv.clock.pass(61s);
            }
            maintain_to_the_end(kv);
            kv.faults.clear();
            check_filled(kv, 530);
            CHECK(values_by_generation(kv).begin()->first == 2);
            CHECK(generations(kv) == Generations{2});
            CHECK(kv.rows().find("!") == std::string::npos);
            CHECK(audit_fault(*kv.storage, *kv.keys) == "");
        }
    }
}

TEST_CASE("a namespace that changes meanwhile is sealed anew, or purged, all the same") {
    Fixture kv(Kind::plain);
    fill(kv, 600);
    UpdateNamespace update;
    update.ns = kv.ns;
    update.is_secret = true;
    REQUIRE(kv.call(update));
    DeleteNamespace remove;
    remove.ns = kv.ns;

    SUBCASE("rotated while it is being made secret") {
        REQUIRE(*kv.store->run_maintenance());
        REQUIRE(rotate(kv));
        check_filled(kv, 600);
        kv.maintain();
        CHECK_FALSE(kv.namespace_row().sealing);
        CHECK(values_by_generation(kv).size() == 1);
        maintain_to_the_end(kv);
        CHECK(generations(kv) == Generations{2});
        check_filled(kv, 600);
    }
    SUBCASE("deleted, and restored later") {
        kv.maintain();
        REQUIRE(rotate(kv));
        REQUIRE(*kv.store->run_maintenance());
        REQUIRE(kv.call(remove));
        maintain_to_the_end(kv);
        REQUIRE(kv.call(RestoreNamespace{kv.ns}));
        check_filled(kv, 600);
        CHECK(generations(kv) == Generations{2});
    }
    SUBCASE("purged") {
        kv.maintain();
        REQUIRE(rotate(kv));
        REQUIRE(*kv.store->run_maintenance());
        remove.purge = true;
        REQUIRE(kv.call(remove));
        kv.clock.pass(61s);
        kv.maintain();
        CHECK(generations(kv).empty());
        CHECK(kv.store->is_rekeying(kv.ns) == Errc::not_found);
        CHECK(kv.store->stats().rekeying_namespaces == 0);
    }
}

TEST_CASE("a namespace row that was read before a rotation opens what was sealed after it") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    const NamespaceRow stale = kv.namespace_row();
    REQUIRE(rotate(kv));
    kv.maintain();
    const EntryRow row = *kv.entry_row("k");
    CHECK(row.key_generation == 2);
    CHECK(kv.vault->open(*kv.storage, stale, row).value().reveal() == "one");
    EntryRow foreign = row;
    foreign.key_generation = 3;
    CHECK(kv.vault->open(*kv.storage, stale, foreign) == Errc::integrity);
}

TEST_CASE("a data key that sealed as many values as it should is replaced by itself") {
    Options options;
    options.seals_per_key = 20;
    Fixture kv(Kind::secret, options);
    const NamespaceId quiet = kv.make_namespace("quiet", Kind::secret);
    kv.maintain();
    for (int i = 0; i < 19; ++i) REQUIRE(kv.put("k", std::to_string(i)));
    kv.clock.pass(60s);
    kv.maintain();
    CHECK(kv.store->stats().data_key_seals_max == 19);
    CHECK(generations(kv) == Generations{1});
    REQUIRE(kv.put("k", "last"));
    kv.new_audit();
    kv.clock.pass(60s - 1us);
    kv.maintain();
    CHECK(generations(kv) == Generations{1});
    kv.clock.pass(1us);
    kv.maintain();
    CHECK(kv.new_audit() == "audit ROTATE v1 ok by system\n");
    CHECK(values_by_generation(kv) == std::map<std::uint32_t, int>{{2, 20}});
    CHECK(generations(kv, quiet) == Generations{1});
    CHECK(kv.get("k") == "last");
    CHECK(kv.get("k", 1) == "0");
    // It sealed twenty by sealing them anew: once a minute is often enough.
    kv.maintain();
    CHECK(generations(kv) == Generations{1, 2});
    options.seals_per_key = (1u << 30) + 1;
    Options keyed = options;
    keyed.keys = make_fixed_key(fixed_key());
    SettableClock clock;
    CHECK(Store::open(make_memory_storage(clock), keyed) == Errc::invalid_request);
}

TEST_CASE("a data key that may seal no more refuses that operation alone, until it is replaced") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    const NamespaceId other = kv.make_namespace("other", Kind::secret);
    NamespaceRow row = kv.namespace_row();
    row.seals = Vault::seals_per_key_max - 1;
    row.mac = kv.vault->namespace_mac(row);
    Changeset worn;
    worn.namespaces.push_back(row);
    kv.tamper(worn);
    CHECK(kv.put("k", "the last one"));
    auto refused = kv.put("k", "w");
    REQUIRE(refused == Errc::overloaded);
    CHECK(refused.error().message.find("data key") != std::string::npos);
    PutEntry neighbour = kv.put_request("k", "x");
    neighbour.ns = other;
    const auto replies = kv.together({kv.put_request("k", "y"), neighbour, kv.delete_request("k"), kv.put_request("k", "z")});
    CHECK(code_of(replies[0]) == "overloaded");
    CHECK(code_of(replies[1]) == "ok");
    CHECK(code_of(replies[2]) == "ok");
    CHECK(code_of(replies[3]) == "overloaded");
    CHECK(kv.store->ready());
    CHECK(kv.get("k", 2) == "the last one");
    kv.maintain();
    CHECK(kv.put("k", "again"));
    CHECK(kv.get("k") == "again");
    CHECK(values_by_generation(kv).begin()->first == 2);
    CHECK(audit_fault(*kv.storage, *kv.keys) == "");
}

TEST_CASE("a worn data key is replaced even while values are on their way to it") {
    Fixture kv;
    fill(kv, 600);
    REQUIRE(rotate(kv));
    NamespaceRow row = kv.namespace_row();
    row.seals = Vault::seals_per_key_max;
    row.mac = kv.vault->namespace_mac(row);
    Changeset worn;
    worn.namespaces.push_back(row);
    kv.tamper(worn);
    maintain_to_the_end(kv);
    CHECK(generations(kv) == Generations{3});
    check_filled(kv, 600);
}

TEST_CASE("data keys rotate while many read and write") {
    Fixture kv;
    fill(kv, 100);
    std::atomic<bool> is_over{false};
    std::vector<std::thread> clients;
    std::atomic<int> wrong{0};
    for (int client = 0; client < 2; ++client) {
        clients.emplace_back([&, client] {
            for (int i = 1; !is_over; ++i) {
                const std::string key = "client-" + std::to_string(client);
                const std::string text = std::to_string(i);
                if (!kv.put(key, text) || kv.get(key) != text || kv.get("k1001", 1) != "old 1") ++wrong;
                auto list = kv.call(kv.list_request("k"));
                if (!list || !std::all_of(list->items.begin(), list->items.end(), [](const Entry& entry) { return entry.value; })) ++wrong;
            }
        });
    }
    for (int i = 0; i < 30; ++i) {
        if (!rotate(kv)) ++wrong;
        for (int round = 0; round < 4; ++round) {
            if (!kv.store->run_maintenance()) ++wrong;
        }
    }
    is_over = true;
    for (std::thread& client : clients) client.join();
    CHECK(wrong == 0);
    maintain_to_the_end(kv);
    CHECK(generations(kv) == Generations{31});
    check_filled(kv, 100);
}
