// Measures get and put in one process, libkv beside bare SQLite, piece by piece in turns. One line of JSON for each piece:
//
//   KV_MASTER_KEY=... kv_bench_process FOLDER ENTRIES SECONDS ROUNDS SEED [PIECE THREADS]
//
// FOLDER must be empty. SECONDS is how long a piece takes. PIECE and THREADS: the only one to run, for a profiler.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bare_sqlite.h"
#include "kv/sqlite.h"
#include "entries.h"

namespace kv::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Plan {
    std::string folder;
    std::vector<std::string> keys;
    double seconds = 0;
    unsigned rounds = 0;
    std::uint64_t seed = 0;
    std::string only;  // empty: all pieces
    unsigned only_threads = 0;
};

void check(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "kv_bench_process: %s\n", what);
    std::exit(1);
}

void must(const Result<void>& result) {
    if (!result) check(false, result.error().message.c_str());
}

template <class T>
T must(Result<T> result) {
    if (!result) check(false, result.error().message.c_str());
    return *std::move(result);
}

// One operation on an entry. Made anew for each thread. `fresh` is any number, for a value that is not there yet: SQLite writes nothing for
// an update that changes nothing.
using Operation = std::function<void(const std::string& key_path, std::uint64_t fresh)>;

struct Piece {
    const char* name;
    unsigned threads;
    std::function<Operation()> make;
    std::function<void()> finish = [] {};  // what must be over before the time is taken
};

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Runs a piece until its time is over, and prints what came of it.
void measure(const Piece& piece, unsigned round, const Plan& plan) {
    constexpr unsigned operations_per_look = 8;  // at the clock
    std::vector<Operation> operations;
    for (unsigned i = 0; i < piece.threads; ++i) operations.push_back(piece.make());
    std::atomic<std::uint64_t> total{0};
    const auto began = Clock::now();
    const double cpu_began = cpu_seconds();
    const auto end = began + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(plan.seconds));
    const auto work = [&](unsigned thread) {
        std::mt19937_64 random(plan.seed + round * 1000 + thread);
        std::uniform_int_distribution<std::size_t> any(0, plan.keys.size() - 1);
        std::uint64_t done = 0;
        for (; Clock::now() < end; done += operations_per_look)
            for (unsigned i = 0; i < operations_per_look; ++i) operations[thread](plan.keys[any(random)], random());
        total += done;
    };
    std::vector<std::thread> others;
    for (unsigned i = 1; i < piece.threads; ++i) others.emplace_back(work, i);
    work(0);
    for (std::thread& other : others) other.join();
    piece.finish();
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    std::printf("{\"piece\": \"%s\", \"threads\": %u, \"round\": %u, \"operations\": %llu, \"seconds\": %.6f, \"cpuSeconds\": %.6f}\n",
                piece.name, piece.threads, round, static_cast<unsigned long long>(total.load()), seconds, cpu_seconds() - cpu_began);
    std::fflush(stdout);
}

// ---- what is measured ----

Operation get_from(Store& store, const std::string& ns) {
    auto bound = std::make_shared<BoundNamespace>(store.in(std::string(application), ns, actor()));
    return [bound](const std::string& key_path, std::uint64_t) {
        check(must(bound->get<std::string>(key_path)).size() == value_bytes, "a value has another size than was put");
    };
}

Operation put_into(Store& store, const std::string& ns) {
    auto bound = std::make_shared<BoundNamespace>(store.in(std::string(application), ns, actor()));
    return [bound](const std::string& key_path, std::uint64_t fresh) { must(bound->put(key_path, value_of(fresh))); };
}

Operation bare_get(const std::string& path, BareTable table) {
    auto sqlite = std::make_shared<BareSqlite>(path, table);
    return [sqlite](const std::string& key_path, std::uint64_t) {
        check(sqlite->get(key_path).size() == value_bytes, "a bare value has another size than was put");
    };
}

// SQLite has one writer at a time: threads that share a connection wait less than threads that each have one and meet its lock.
struct SharedBare {
    explicit SharedBare(const std::string& path) : sqlite(path, BareTable::usual) {}
    std::mutex mutex;
    BareSqlite sqlite;
};

Operation bare_put(std::shared_ptr<SharedBare> shared) {
    return [shared](const std::string& key_path, std::uint64_t fresh) {
        const std::string value = value_of(fresh);
        std::lock_guard one_at_a_time(shared->mutex);
        shared->sqlite.put(key_path, value);
    };
}

// Takes everything at once, as the fastest of brokers would.
class CountingSink final : public EventSink {
public:
    const std::string& name() const override { return name_; }
    Result<void> deliver(std::span<const Event>, std::vector<bool>& confirmed) override {
        confirmed.assign(confirmed.size(), true);
        return {};
    }

private:
    const std::string name_ = "bench";
};

// Until the sink has every event.
void drain(const Store& store) {
    while (true) {
        const StoreStats stats = store.stats();
        if (stats.sinks.at(0).pending == 0) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

std::unique_ptr<Store> open_filled(const Plan& plan, const char* file, ReadAudit read_audit, bool with_secrets) {
    auto store = must(open_store("sqlite:" + plan.folder + "/" + file, read_audit));
    must(fill(*store, {"plain", false, plan.keys.size()}));
    if (with_secrets) must(fill(*store, {"secret", true, plan.keys.size()}));
    return store;
}

void run(const Plan& plan) {
    std::printf("{\"sqlite\": \"%s\"}\n", BareSqlite::version());
    const std::string bare = plan.folder + "/bare.db";
    BareSqlite(bare, BareTable::usual).fill(plan.keys.size());
    BareSqlite(bare, BareTable::without_rowid).fill(plan.keys.size());
    auto shared = std::make_shared<SharedBare>(bare);
    const auto durable = open_filled(plan, "durable.db", ReadAudit::durable, true);
    const auto deferred = open_filled(plan, "deferred.db", ReadAudit::deferred_for_plain, false);
    CountingSink sink;
    const auto told = must(open_store("sqlite:" + plan.folder + "/told.db", ReadAudit::durable, &sink));
    must(fill(*told, {"secret", true, plan.keys.size()}));

    std::vector<Piece> pieces;
    for (const unsigned threads : {1u, 8u}) {
        pieces.push_back({"bare get", threads, [&] { return bare_get(bare, BareTable::usual); }});
        pieces.push_back({"get plain, audit deferred", threads, [&] { return get_from(*deferred, "plain"); }});
        pieces.push_back({"bare get, without rowid", threads, [&] { return bare_get(bare, BareTable::without_rowid); }});
        pieces.push_back({"get plain", threads, [&] { return get_from(*durable, "plain"); }});
        pieces.push_back({"get secret", threads, [&] { return get_from(*durable, "secret"); }});
        pieces.push_back({"bare put", threads, [&] { return bare_put(shared); }});
        pieces.push_back({"put plain", threads, [&] { return put_into(*durable, "plain"); }});
        pieces.push_back({"put secret", threads, [&] { return put_into(*durable, "secret"); }});
        pieces.push_back({"put secret, told to a sink", threads, [&] { return put_into(*told, "secret"); }, [&] { drain(*told); }});
    }
    for (unsigned round = 0; round < plan.rounds; ++round)
        for (const Piece& piece : pieces)
            if (plan.only.empty() || (plan.only == piece.name && plan.only_threads == piece.threads)) measure(piece, round, plan);
}

}  // namespace
}  // namespace kv::bench

int main(int count, char** arguments) {
    if (count != 6 && count != 8) {
        std::fputs("usage: KV_MASTER_KEY=... kv_bench_process FOLDER ENTRIES SECONDS ROUNDS SEED [PIECE THREADS]\n", stderr);
        return 2;
    }
    kv::configure_sqlite();  // for what is compared, too
    kv::bench::Plan plan;
    plan.folder = arguments[1];
    const std::uint64_t entries = std::strtoull(arguments[2], nullptr, 10);
    for (std::uint64_t number = 0; number < entries; ++number) plan.keys.push_back(kv::bench::key_of(number));
    plan.seconds = std::strtod(arguments[3], nullptr);
    plan.rounds = static_cast<unsigned>(std::strtoul(arguments[4], nullptr, 10));
    plan.seed = std::strtoull(arguments[5], nullptr, 10);
    if (count == 8) {
        plan.only = arguments[6];
        plan.only_threads = static_cast<unsigned>(std::strtoul(arguments[7], nullptr, 10));
    }
    kv::bench::run(plan);
}
