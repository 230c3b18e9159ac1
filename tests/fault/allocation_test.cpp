#include "fault/allocation_fixture.h"

// What a store does while there is no memory: every request for memory that an operation makes is refused once, alone and with
// those after it. Whoever waits gets a clear answer, what was acknowledged is there, what was refused is not, and the next
// operation is served.
//
// Broken on purpose, each was noticed here: a ticket that does not answer in its destructor (no answer), leaders_ counted
// before the push (no answer), a reader not given back after a failure (no answer), an error made of a long text in finish()
// (terminated), the head advanced before the commit (verification), undoing in the memory storage that puts rows back by
// emplace() (terminated), plan_group() outside contain() and a write that throws taken as committed (state).
namespace kv::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool is_sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool is_sanitized = true;
#else
constexpr bool is_sanitized = false;
#endif
#else
constexpr bool is_sanitized = false;
#endif

// Every request for memory is refused in turn where that takes no time, and so many of them elsewhere.
// KV_ALLOCATION_POINTS=1000000 refuses each.
std::size_t points_of(Backend backend) {
    if (const char* asked = std::getenv("KV_ALLOCATION_POINTS")) return std::strtoull(asked, nullptr, 10);
    if (is_sanitized) return backend == Backend::memory ? 12 : 4;
    return backend == Backend::memory ? 400 : 24;
}

std::uint64_t seed() {
    static const std::uint64_t drawn = [] {
        const char* given = std::getenv("KV_SEED");
        const std::uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
        MESSAGE("KV_SEED=", value);
        return value;
    }();
    return drawn;
}

// ---- operations ----

struct Scenario {
    const char* name;
    std::function<void(Fixture&, const std::string&)> prepare;  // in the folder of a run
    std::function<Request(Fixture&, const std::string&)> request;
    bool may_be_half = false;  // what is refused may have happened in part, and goes on later
};

void nothing(Fixture&, const std::string&) {}
void put_a(Fixture& kv, const std::string& k) { REQUIRE(kv.call(kv.put_request(k + "/a", "one"))); }
void put_a_twice(Fixture& kv, const std::string& k) {
    put_a(kv, k);
    REQUIRE(kv.call(kv.put_request(k + "/a", "two")));
}
void put_three(Fixture& kv, const std::string& k) {
    put_a_twice(kv, k);
    REQUIRE(kv.call(kv.put_request(k + "/b", "a value that no string holds in itself")));
    REQUIRE(kv.call(kv.put_request(k + "/c", "three")));
}
NamespaceName named(const std::string& k) { return {"app", k}; }
void make_plain(Fixture& kv, const std::string& k) { kv.make_namespace(k, Kind::plain); }
void make_secret(Fixture& kv, const std::string& k) { kv.make_namespace(k, Kind::secret); }
void fill(Fixture& kv, const std::string& k) {
    PutEntry put = kv.put_request("a", "one");
    put.ns = named(k);
    REQUIRE(kv.call(put));
}

std::vector<Scenario> reads() {
    return {
        {"get", put_a, [](Fixture& kv, const std::string& k) { return kv.get_request(k + "/a"); }},
        {"get of a version", put_a_twice, [](Fixture& kv, const std::string& k) { return kv.get_request(k + "/a", 1); }},
        {"get of nothing", nothing, [](Fixture& kv, const std::string& k) { return kv.get_request(k + "/a"); }},
        {"list", put_three, [](Fixture& kv, const std::string& k) { return kv.list_request(k + "/"); }},
        {"versions", put_a_twice, [](Fixture& kv, const std::string& k) { return kv.versions_request(k + "/a"); }},
        {"bulk get", put_three,
         [](Fixture& kv, const std::string& k) { return kv.bulk_get_request({k + "/a", k + "/b", k + "/none"}); }},
        {"export", put_three,
         [](Fixture& kv, const std::string& k) {
             ExportEntries request;
             request.ns = kv.ns;
             request.prefix = k + "/";
             return request;
         }},
        {"audit list", put_three,
         [](Fixture& kv, const std::string& k) {
             ListAudit request;
             request.ns = kv.ns;
             request.key_path = k + "/a";
             return request;
         }},
        {"get namespace", make_plain, [](Fixture&, const std::string& k) { return GetNamespace{named(k), {}}; }},
        {"list namespaces", make_plain,
         [](Fixture&, const std::string& k) {
             ListNamespaces request;
             request.name = k;
             return request;
         }},
        {"record refusal", nothing,
         [](Fixture&, const std::string&) {
             return RecordRefusal{AuditAction::read, "entry.get", "a/key/path/of/some/length", Errc::unauthenticated};
         }},
    };
}

std::vector<Scenario> writes() {
    return {
        {"create", nothing, [](Fixture& kv, const std::string& k) { return kv.put_request(k + "/a", "a value that no string holds in itself"); }},
        {"create to expire", nothing, [](Fixture& kv, const std::string& k) { return kv.put_request(k + "/a", "x", Ttl::after(100'000)); }},
        {"update", put_a, [](Fixture& kv, const std::string& k) { return kv.put_request(k + "/a", "another value, of which there is more"); }},
        {"put that shows its value", put_a,
         [](Fixture& kv, const std::string& k) {
             PutEntry put = kv.put_request(k + "/a", R"({"name": "\u0041\n", "list": [1, 2, {"x": null}]})");
             put.write.value.type = ValueType::json;
             put.write.metadata = R"({"owner": "somebody", "tags": ["a", "b"]})";
             put.include_value = true;
             return put;
         }},
        {"stale put", put_a,
         [](Fixture& kv, const std::string& k) {
             Precondition stale;
             stale.expected_version = 7;
             return kv.put_request(k + "/a", "late", {}, stale);
         }},
        {"wrong put", nothing, [](Fixture& kv, const std::string& k) { return kv.put_request(k + "//a", "x"); }},
        {"patch", put_a,
         [](Fixture& kv, const std::string& k) { return kv.patch_request(k + "/a", R"({"owner": "somebody", "gone": null})"); }},
        {"delete", put_a, [](Fixture& kv, const std::string& k) { return kv.delete_request(k + "/a"); }},
        {"purge", put_a_twice, [](Fixture& kv, const std::string& k) { return kv.delete_request(k + "/a", true); }},
        {"rotate", put_a, [](Fixture& kv, const std::string& k) { return kv.rotate_request(k + "/a", "turned"); }},
        {"rotate to a drawn value", put_a,
         [](Fixture& kv, const std::string& k) {
             RotateEntry rotate = kv.rotate_request(k + "/a", "");
             rotate.value = Generate{};
             rotate.include_value = true;
             return rotate;
         }},
        {"rollback", put_a_twice, [](Fixture& kv, const std::string& k) { return kv.rollback_request(k + "/a"); }},
        {"bulk set", put_a,
         [](Fixture& kv, const std::string& k) { return kv.bulk_set_request({{k + "/a", "1"}, {k + "/b", "2"}, {k + "/c", "3"}}); }},
        {"bulk set of what can be set", put_a,
         [](Fixture& kv, const std::string& k) { return kv.bulk_set_request({{k + "/a", "1"}, {k + "//b", "2"}, {k + "/c", "3"}}, false); }},
        {"bulk delete", put_three,
         [](Fixture& kv, const std::string& k) { return kv.bulk_delete_request({k + "/a", k + "/c", k + "/none"}, false); }},
        {"create namespace", nothing,
         [](Fixture&, const std::string& k) {
             CreateNamespace create;
             create.application_id = "app";
             create.name = k;
             create.is_secret = true;
             return create;
         }},
        {"update namespace", make_secret,
         [](Fixture&, const std::string& k) {
             UpdateNamespace update;
             update.ns = named(k);
             update.description = "what a namespace is for, in some words";
             return update;
         }},
        {"make namespace secret", make_plain,
         [](Fixture&, const std::string& k) {
             UpdateNamespace update;
             update.ns = named(k);
             update.is_secret = true;
             return update;
         }},
        {"replace data key", make_secret, [](Fixture&, const std::string& k) { return RotateDataKey{named(k)}; }},
        {"delete namespace", make_secret,
         [](Fixture&, const std::string& k) {
             DeleteNamespace request;
             request.ns = named(k);
             return request;
         }},
        {"restore namespace",
         [](Fixture& kv, const std::string& k) {
             make_secret(kv, k);
             DeleteNamespace request;
             request.ns = named(k);
             REQUIRE(kv.call(request));
         },
         [](Fixture& kv, const std::string& k) {
             NamespaceRange range;
             range.application_id = "app";
             range.name = k;
             range.deleted = NamespaceRange::Deleted::deleted;
             return RestoreNamespace{kv.storage->scan_namespaces(range).value().at(0).id};
         }},
        {"purge namespace",
         [](Fixture& kv, const std::string& k) {
             make_secret(kv, k);
             fill(kv, k);
         },
         [](Fixture&, const std::string& k) {
             DeleteNamespace request;
             request.ns = named(k);
             request.purge = true;
             return request;
         },
         true},
    };
}

// ---- one run ----

enum class Way { wait, submit };

struct Run {
    std::string code;
    std::string shown;
    std::string before;
    std::string after;
    std::string audit;
    std::uint64_t asked = 0;
    std::uint64_t refused = 0;
    int answers = 1;
};

Run run(Ground& ground, const Scenario& scenario, Way way, std::uint64_t first, std::uint64_t count, const std::string& folder) {
    Fixture& kv = ground.kv;
    Run run;
    scenario.prepare(kv, folder);
    ground.look_away();
    run.before = ground.state(folder);
    Actor actor = kv.actor;
    actor.request_id = "request-" + folder;
    Request request = scenario.request(kv, folder);
    Answer answer;
    Completion slot = answer.slot();
    Result<Reply> reply = Reply(Done{});
    if (way == Way::wait) {
        FailingMemory::arm(FailingMemory::Of::caller, first, count);
        reply = kv.store->wait(actor, std::move(request));
    } else {
        FailingMemory::arm(FailingMemory::Of::all, first, count);
        kv.store->submit(std::move(actor), std::move(request), std::move(slot));
        reply = answer.wait();
        run.answers = answer.times();
    }
    FailingMemory::disarm();
    run.asked = FailingMemory::asked();
    run.refused = FailingMemory::refused();
    run.code = code_of(reply);
    run.shown = reply ? anonymous(show(*reply), folder) : "";
    run.after = ground.state(folder);
    run.audit = anonymous(ground.audit("request-" + folder), folder);
    return run;
}

// What is wrong about a run, held against one that nothing was refused to.
std::string fault_of(const Scenario& scenario, const Run& sound, const Run& run) {
    if (run.before != sound.before) return "another beginning";
    if (run.answers != 1) return "answered " + std::to_string(run.answers) + " times";
    const bool is_done = run.after == sound.after && run.audit == sound.audit;
    const bool is_undone = run.after == run.before && run.audit.find(" ok") == std::string::npos;
    if (run.code == sound.code) {
        if (run.shown != sound.shown) return "another reply";
        return is_done ? "" : "not as acknowledged";
    }
    if (run.refused == 0) return "an error without a cause";
    if (!is_clear(run.code)) return "no clear answer";
    if (is_undone || scenario.may_be_half) return "";
    return run.code == "outcome-unknown" && is_done ? "" : "a trace of what was refused";
}

std::string told(const Run& run) {
    return run.code + "\nreply: " + run.shown + "\nbefore:\n" + run.before + "after:\n" + run.after + "audit:\n" + run.audit;
}

void run_all(Ground& ground, const Scenario& scenario, Way way, std::size_t most) {
    Watch::begin(scenario.name);
    constexpr std::uint64_t none = UINT64_MAX;
    run(ground, scenario, way, none, 1, ground.fresh());  // what is only done once: statements, data keys
    const Run sound = run(ground, scenario, way, none, 1, ground.fresh());
    REQUIRE(sound.asked > 0);
    // For good means until the answer came. A commit that nobody can tell about is asked for as long as five seconds, so a
    // shortage ends before.
    for (const std::uint64_t in_a_row : {1, 6}) {
        for (const std::uint64_t first : points(sound.asked, most, seed())) {
            const std::string folder = ground.fresh();
            Watch::begin(std::string(scenario.name) + ", request " + std::to_string(first) + " for memory and " +
                         std::to_string(in_a_row - 1) + " more, by " + (way == Way::wait ? "waiting" : "submitting"));
            const Run faulty = run(ground, scenario, way, first, in_a_row, folder);
            std::string fault = fault_of(scenario, sound, faulty);
            if (fault.empty()) fault = ground.unfit(folder);
            if (fault.empty()) continue;
            FAIL_CHECK(scenario.name << (way == Way::wait ? ", waiting" : ", submitted") << ", request " << first << " of " << sound.asked
                                     << " for memory and " << in_a_row - 1 << " more: " << fault << "\n"
                                     << told(faulty) << "---- should be\n"
                                     << told(sound));
            return;
        }
    }
    Watch::end();
}

void run_all(Backend backend, Kind kind, Options options = each_denial_a_row()) {
    Ground ground(backend, kind, std::move(options));
    for (const auto& scenarios : {reads(), writes()}) {
        for (const Scenario& scenario : scenarios) {
            for (const Way way : {Way::wait, Way::submit}) run_all(ground, scenario, way, points_of(backend));
        }
    }
    CHECK(ground.end() == "");
}

TEST_CASE("every request for memory may fail: memory storage, secret namespace") { run_all(Backend::memory, Kind::secret); }
TEST_CASE("every request for memory may fail: memory storage, plain namespace") { run_all(Backend::memory, Kind::plain); }
TEST_CASE("every request for memory may fail: SQLite, secret namespace") { run_all(Backend::sqlite, Kind::secret); }
TEST_CASE("every request for memory may fail: SQLite, plain namespace") { run_all(Backend::sqlite, Kind::plain); }

}  // namespace
}  // namespace kv::test
