#include "fault/allocation_fixture.h"

// What a store does while there is no memory: every request for memory that an operation makes is refused once, alone and with
// those after it. Whoever waits gets a clear answer, what was acknowledged is there, what was refused is not, and the next
// operation is served.
//
// Broken on purpose, each was noticed here: an error made of a long text in finish() (terminated), a leader counted before what
// may fail (no answer), a write that throws taken as committed (not as acknowledged), undoing in the memory storage by putting
// rows back as copies (terminated) or by taking away an audit row that was never added (verification).
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
    if (is_sanitized) return backend == Backend::memory ? 6 : 4;
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
PutEntry put_into(Fixture& kv, const std::string& k) {
    PutEntry put = kv.put_request("a", "one");
    put.ns = named(k);
    return put;
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
        {"first put into a namespace", make_secret, put_into},
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
             REQUIRE(kv.call(put_into(kv, k)));
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

Actor asking(const Fixture& kv, const std::string& folder) {
    Actor actor = kv.actor;
    actor.request_id = "request-" + folder;
    return actor;
}

// What came of a run in `folder`.
void take(Run& run, Ground& ground, const Result<Reply>& reply, const std::map<std::string, std::string>& audit, const std::string& folder) {
    run.asked = FailingMemory::asked();
    run.refused = FailingMemory::refused();
    run.code = code_of(reply);
    run.shown = reply ? anonymous(show(*reply), folder) : "";
    run.after = ground.state(folder);
    const auto recorded = audit.find("request-" + folder);
    if (recorded != audit.end()) run.audit = anonymous(recorded->second, folder);
}

Run run(Ground& ground, const Scenario& scenario, Way way, std::uint64_t first, std::uint64_t count, const std::string& folder) {
    Fixture& kv = ground.kv;
    Run run;
    scenario.prepare(kv, folder);
    ground.look_away();
    run.before = ground.state(folder);
    Actor actor = asking(kv, folder);
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
    }
    FailingMemory::disarm();
    if (way == Way::submit) run.answers = answer.times();
    take(run, ground, reply, ground.audit(), folder);
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

Run sound_run(Ground& ground, const Scenario& scenario, Way way) {
    constexpr std::uint64_t none = UINT64_MAX;
    run(ground, scenario, way, none, 1, ground.fresh());  // what is only done once: statements, data keys
    return run(ground, scenario, way, none, 1, ground.fresh());
}

// A commit that nobody can tell about is asked for until somebody can, so a shortage ends.
constexpr std::uint64_t shortages[] = {1, 6};

void run_all(Ground& ground, const Scenario& scenario, Way way, std::size_t most) {
    const std::string how = std::string(scenario.name) + (way == Way::wait ? ", waiting" : ", submitted");
    Watch::begin(how);
    const Run sound = sound_run(ground, scenario, way);
    REQUIRE(sound.asked > 0);
    for (const std::uint64_t in_a_row : shortages) {
        for (const std::uint64_t first : points(sound.asked, most, seed())) {
            const std::string where = how + ", requests for memory from " + std::to_string(first) + " of " + std::to_string(sound.asked) +
                                      " on, " + std::to_string(in_a_row);
            Watch::begin(where);
            const std::string folder = ground.fresh();
            const Run faulty = run(ground, scenario, way, first, in_a_row, folder);
            std::string fault = fault_of(scenario, sound, faulty);
            if (fault.empty()) fault = ground.unfit(folder);
            CHECK_MESSAGE(fault.empty(), where << ": " << fault << "\n" << told(faulty) << "---- should be\n" << told(sound));
            if (!fault.empty()) return;
        }
    }
    Watch::end();
}

void run_all(Backend backend, Kind kind, const Options& options = each_denial_a_row()) {
    Ground ground(backend, kind, options);
    for (const auto& scenarios : {reads(), writes()}) {
        for (const Scenario& scenario : scenarios) {
            for (const Way way : {Way::wait, Way::submit}) run_all(ground, scenario, way, points_of(backend));
        }
    }
    CHECK(ground.end() == "");
}

TEST_CASE("memory storage: an operation in a secret namespace may lack memory anywhere") { run_all(Backend::memory, Kind::secret); }
TEST_CASE("memory storage: an operation in a plain namespace may lack memory anywhere") { run_all(Backend::memory, Kind::plain); }
TEST_CASE("SQLite: an operation in a secret namespace may lack memory anywhere") { run_all(Backend::sqlite, Kind::secret); }
TEST_CASE("SQLite: an operation in a plain namespace may lack memory anywhere") { run_all(Backend::sqlite, Kind::plain); }

TEST_CASE("with OpenSSL a value that there is no memory to open was not tampered with") {
    Options options = each_denial_a_row();
    options.crypto = CryptoBackend::openssl;
    Ground ground(Backend::memory, Kind::secret, options);
    const std::uint64_t before = FailingMemory::refused_by().by_openssl;
    constexpr std::size_t every_point = 1000;  // a sample may miss the few that are OpenSSL's
    // The first uses of a namespace's key make OpenSSL ask for memory.
    const Scenario first_get{"first get in a namespace",
                             [](Fixture& kv, const std::string& k) {
                                 make_secret(kv, k);
                                 REQUIRE(kv.call(put_into(kv, k)));
                                 kv.close();  // and with it go the keys that are at hand
                                 kv.open();
                             },
                             [](Fixture& kv, const std::string& k) {
                                 GetEntry get = kv.get_request("a");
                                 get.ns = named(k);
                                 return get;
                             }};
    for (const Scenario& scenario : writes()) {
        if (scenario.name == std::string("first put into a namespace")) run_all(ground, scenario, Way::wait, every_point);
    }
    run_all(ground, first_get, Way::wait, every_point);
    CHECK(FailingMemory::refused_by().by_openssl > before);
    CHECK(ground.end() == "");
}

TEST_CASE("a read that is recorded later may lack memory anywhere") {
    Options options = each_denial_a_row();
    options.read_audit = ReadAudit::deferred_for_plain;
    Ground ground(Backend::memory, Kind::plain, options);
    Watch::begin("deferred reads");
    for (std::uint64_t first = 1; first <= 400; ++first) {
        const std::string folder = ground.fresh();
        REQUIRE(ground.kv.put(folder + "/a", "one"));
        const GetEntry get = ground.kv.get_request(folder + "/a");
        Answer answer;
        Completion slot = answer.slot();
        Actor actor = asking(ground.kv, folder);
        Request request(get);
        FailingMemory::arm(FailingMemory::Of::all, first % 100 + 1, 1);
        ground.kv.store->submit(std::move(actor), std::move(request), std::move(slot));
        const Result<Reply> reply = answer.wait();
        FailingMemory::disarm();
        const std::string code = code_of(reply);
        CHECK((code == "ok" || is_clear(code)));
        CHECK(ground.unfit(folder) == "");
    }
    CHECK(ground.end() == "");
    Watch::end();
}

// ---- groups ----

// Each operation of a group for itself: one that could not be carried out takes none of the others along halfway.
void run_groups(Backend backend) {
    Ground ground(backend, Kind::secret);
    Fixture& kv = ground.kv;
    std::vector<Scenario> together;
    for (const auto& scenarios : {reads(), writes()}) {
        for (const Scenario& one : scenarios) {
            for (const char* name : {"get", "versions", "create", "update", "stale put", "delete", "rotate", "rollback", "bulk set"}) {
                if (one.name == std::string(name)) together.push_back(one);
            }
        }
    }
    std::vector<Run> sound;
    Watch::begin("a group without a fault");
    for (const Scenario& scenario : together) sound.push_back(sound_run(ground, scenario, Way::submit));
    for (std::size_t round = 0; round < points_of(backend) * (backend == Backend::memory ? 1 : 4); ++round) {
        std::vector<std::string> folders;
        std::vector<Request> requests;
        std::vector<Run> runs(together.size());
        for (const Scenario& scenario : together) {
            folders.push_back(ground.fresh());
            scenario.prepare(kv, folders.back());
            requests.push_back(scenario.request(kv, folders.back()));
        }
        ground.look_away();
        for (std::size_t i = 0; i < together.size(); ++i) runs[i].before = ground.state(folders[i]);

        std::vector<Answer> answers(together.size() + 1);
        kv.faults.close_gate();
        kv.store->submit(kv.actor, GetNamespace{kv.ns, {}}, answers.back().slot());
        REQUIRE(kv.faults.wait_at_gate(1));
        for (std::size_t i = 0; i < together.size(); ++i) {
            kv.store->submit(asking(kv, folders[i]), std::move(requests[i]), answers[i].slot());
        }
        std::mt19937_64 draw(seed() + round);
        const std::uint64_t first = 1 + draw() % 900;
        Watch::begin("a group, request " + std::to_string(first) + " for memory");
        FailingMemory::arm(FailingMemory::Of::others, first, shortages[round % 2]);
        kv.faults.open_gate();
        std::vector<Result<Reply>> replies;
        {
            const FailingMemory::Exempt own;
            for (std::size_t i = 0; i <= together.size(); ++i) replies.push_back(answers[i].wait());
        }
        FailingMemory::disarm();
        const auto audit = ground.audit();
        for (std::size_t i = 0; i < together.size(); ++i) {
            runs[i].answers = answers[i].times();
            take(runs[i], ground, replies[i], audit, folders[i]);
            const std::string fault = fault_of(together[i], sound[i], runs[i]);
            CHECK_MESSAGE(fault.empty(), together[i].name << " in a group, request " << first << " for memory: " << fault << "\n"
                                                          << told(runs[i]) << "---- should be\n" << told(sound[i]));
        }
        REQUIRE(ground.unfit(folders[0]) == "");
    }
    CHECK(ground.end() == "");
    Watch::end();
}

TEST_CASE("a group may lack memory anywhere: memory storage") { run_groups(Backend::memory); }
TEST_CASE("a group may lack memory anywhere: SQLite") { run_groups(Backend::sqlite); }

// ---- many threads ----

// One key and what may be stored there; empty: nothing.
struct Belief {
    std::string key;
    std::set<std::string> possible = {""};
};

// One thread's operations on keys of its own. Says what was not as it must be.
std::string work(Fixture& kv, std::vector<Belief>& keys, std::uint64_t number, int operations) {
    const FailingMemory::Exempt own;
    std::mt19937_64 draw(seed() * 31 + number);
    for (int i = 0; i < operations; ++i) {
        Belief& belief = keys[draw() % keys.size()];
        const std::string value = "value " + std::to_string(i);
        const int kind = static_cast<int>(draw() % 4);
        Request request = kv.get_request(belief.key);
        if (kind == 0) request = kv.delete_request(belief.key);
        if (kind == 1) request = kv.put_request(belief.key, value);
        Result<Reply> reply = Reply(Done{});
        {
            const FailingMemory::Subject theirs;
            reply = kv.store->wait(kv.actor, std::move(request));
        }
        const std::string code = code_of(reply);
        const bool is_missing = code == "not-found";
        if (code != "ok" && !is_missing && !is_clear(code)) return code + " for " + belief.key;
        const std::string wanted = kind == 1 ? value : "";
        if (kind <= 1 && (code == "ok" || is_missing)) {
            if (is_missing && !belief.possible.contains("")) return "a lost change of " + belief.key;
            belief.possible = {wanted};
        } else if (kind <= 1 && code == "outcome-unknown") {
            belief.possible.insert(wanted);
        } else if (code == "ok" || is_missing) {
            const std::string found = code == "ok" ? text_of(std::get<EntryReply>(*reply).entry.value) : "";
            if (!belief.possible.contains(found)) return "\"" + found + "\" at " + belief.key;
            belief.possible = {found};
        }
    }
    return "";
}

void run_threads(Backend backend) {
    Ground ground(backend, Kind::secret);
    constexpr std::size_t threads = 8;
    const int operations = is_sanitized ? 40 : 250;
    for (const std::uint32_t in : {3000u, 300u, 40u}) {
        Watch::begin("threads, one request for memory in " + std::to_string(in));
        std::vector<std::vector<Belief>> keys(threads);
        std::vector<std::string> faults(threads);
        const std::string folder = ground.fresh();
        std::vector<std::thread> running;
        FailingMemory::arm_by_chance(FailingMemory::Of::all, in, seed());
        {
            const FailingMemory::Exempt own;
            for (std::size_t t = 0; t < threads; ++t) {
                for (const char* leaf : {"/a", "/b", "/c"}) keys[t].push_back({folder + "/" + std::to_string(t) + leaf});
                running.emplace_back([&, t] { faults[t] = work(ground.kv, keys[t], t, operations); });
            }
            for (std::thread& thread : running) thread.join();
        }
        FailingMemory::disarm();
        CHECK(FailingMemory::refused() > 0);
        for (const std::string& fault : faults) CHECK(fault == "");
        for (const auto& some : keys) {
            for (const Belief& belief : some) {
                const std::string found = ground.kv.get(belief.key);
                CHECK(belief.possible.contains(found == "!not-found" ? "" : found));
            }
        }
        REQUIRE(ground.unfit(folder) == "");
    }
    CHECK(ground.end() == "");
    Watch::end();
}

TEST_CASE("many threads that lack memory by chance lose nothing: memory storage") { run_threads(Backend::memory); }
TEST_CASE("many threads that lack memory by chance lose nothing: SQLite") { run_threads(Backend::sqlite); }

// ---- what goes on by itself ----

void run_maintenance(Backend backend) {
    Ground ground(backend, Kind::secret);
    Fixture& kv = ground.kv;
    kv.close();
    kv.options.maintenance_interval = std::chrono::milliseconds(1);
    kv.options.tombstone_retention = std::chrono::seconds(30);
    kv.options.expiry_grace = std::chrono::seconds(5);
    kv.options.key_retirement = std::chrono::seconds(0);
    kv.options.namespace_retention = std::chrono::hours(1);
    kv.options.audit_retention = std::chrono::hours(24 * 365 * 200);  // much time passes
    kv.open();
    const std::size_t rounds = is_sanitized ? 3 : 12;
    for (std::size_t round = 0; round < rounds; ++round) {
        Watch::begin("maintenance, round " + std::to_string(round));
        const std::string folder = ground.fresh();
        const std::string doomed = ground.fresh();
        REQUIRE(kv.call(kv.put_request(folder + "/a", "short-lived", Ttl::after(10))));
        put_three(kv, folder + "/stays");
        make_secret(kv, doomed);
        REQUIRE(kv.call(put_into(kv, doomed)));
        DeleteNamespace remove;
        remove.ns = named(doomed);
        FailingMemory::arm_by_chance(FailingMemory::Of::others, round % 2 == 0 ? 40 : 400, seed() + round);
        {
            const FailingMemory::Exempt own;
            static_cast<void>(kv.call(RotateDataKey{kv.ns}).has_value());
            static_cast<void>(kv.call(remove).has_value());
            kv.clock.pass(std::chrono::hours(1));
            CHECK(eventually([] { return FailingMemory::asked() > 600 && FailingMemory::refused() > 0; }));
        }
        FailingMemory::disarm();
        CHECK(FailingMemory::refused() > 0);
        if (kv.call(GetNamespace{named(doomed), {}})) REQUIRE(kv.call(remove));
        const bool is_swept = eventually([&] {
            kv.clock.pass(std::chrono::hours(1));  // what is deleted by now is due
            std::this_thread::sleep_for(std::chrono::milliseconds(1));  // or who looks keeps out who changes
            NamespaceRange left;
            left.application_id = "app";
            left.name = doomed;
            left.deleted = NamespaceRange::Deleted::both;
            const bool is_gone = kv.storage->scan_namespaces(left).value().empty() && !kv.entry_row(folder + "/a");
            return is_gone && kv.store->is_rekeying(kv.ns).value_or(true) == false;
        });
        CHECK(is_swept);
        CHECK(kv.get(folder + "/stays/a") == "two");
        REQUIRE(ground.unfit(folder) == "");
    }
    CHECK(ground.end() == "");
    Watch::end();
}

TEST_CASE("maintenance that lacks memory goes on later: memory storage") { run_maintenance(Backend::memory); }
TEST_CASE("maintenance that lacks memory goes on later: SQLite") { run_maintenance(Backend::sqlite); }

// ---- opening and closing ----

void run_opening(Backend backend) {
    Ground ground(backend, Kind::secret);
    Fixture& kv = ground.kv;
    REQUIRE(kv.put("k", "one"));
    std::set<std::string> codes;
    bool is_through = false;
    for (std::uint64_t first = 1; !is_through; first += is_sanitized ? 37 : backend == Backend::memory ? 1 : 5) {
        Watch::begin("opening, request " + std::to_string(first) + " for memory");
        kv.close();
        auto storage = std::make_unique<FaultStorage>(*kv.storage, kv.faults);
        Options options = kv.options;
        FailingMemory::arm(FailingMemory::Of::all, first, shortages[first % 2]);
        Result<std::unique_ptr<Store>> opened = Store::open(std::move(storage), std::move(options));
        is_through = FailingMemory::refused() == 0;
        FailingMemory::disarm();
        codes.insert(code_of(opened));
        if (opened) {
            CHECK((*opened)->call(kv.actor, kv.get_request("k")));
            FailingMemory::arm(FailingMemory::Of::all, first % 60 + 1, shortages[first % 2]);  // for its closing
            *opened = nullptr;
            FailingMemory::disarm();
        }
        kv.open();
        REQUIRE(kv.get("k") == "one");
    }
    codes.erase("ok");
    for (const std::string& code : codes) CHECK(is_clear(code));
    CHECK(codes.contains("unavailable"));
    CHECK(ground.end() == "");
    Watch::end();
}

TEST_CASE("a store that lacks memory while it opens or closes opens later: memory storage") { run_opening(Backend::memory); }
TEST_CASE("a store that lacks memory while it opens or closes opens later: SQLite") { run_opening(Backend::sqlite); }

TEST_CASE("a database that lacks memory while it opens or closes opens later") {
    sqlite_fixture::Folder folder;
    folder.open();
    std::set<std::string> codes;
    bool is_through = false;
    for (std::uint64_t first = 1; !is_through; first += is_sanitized ? 37 : 3) {
        Watch::begin("opening a database, request " + std::to_string(first) + " for memory");
        const SqliteOptions options{.path = folder.database.string()};
        FailingMemory::arm(FailingMemory::Of::all, first, shortages[first % 2]);
        auto opened = open_sqlite_storage(options, folder.clock);
        is_through = FailingMemory::refused() == 0;
        FailingMemory::disarm();
        codes.insert(code_of(opened));
        if (!opened) continue;
        CHECK((*opened)->get_meta());
        FailingMemory::arm(FailingMemory::Of::all, first % 20 + 1, shortages[first % 2]);
        *opened = nullptr;
        FailingMemory::disarm();
    }
    codes.erase("ok");
    for (const std::string& code : codes) CHECK(is_clear(code));
    CHECK(codes.contains("unavailable"));
    Watch::end();
}

// ---- guarded memory ----

TEST_CASE("without guarded memory for another key an operation is refused, and served later") {
    Ground ground(Backend::memory, Kind::plain);
    Fixture& kv = ground.kv;
    const std::uint64_t before = FailingMemory::refused_by().by_sodium;
    // Keys share guarded memory by dozens, and what earlier tests took is still there for more.
    for (int i = 0; i < 4000 && FailingMemory::refused_by().by_sodium == before; ++i) {
        const std::string folder = ground.fresh();
        make_secret(kv, folder);
        const PutEntry put = put_into(kv, folder);
        FailingMemory::arm(FailingMemory::Of::guarded, 1, UINT64_MAX);
        const auto reply = kv.call(put);
        FailingMemory::disarm();
        CHECK(code_of(reply) == (FailingMemory::refused() > 0 ? "unavailable" : "ok"));
        if (!reply) REQUIRE(kv.call(put));
    }
    CHECK(FailingMemory::refused_by().by_sodium > before);
    CHECK(ground.end() == "");
}

}  // namespace
}  // namespace kv::test
