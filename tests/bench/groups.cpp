// How many durable puts one caller gets done who gives away 64 at a time and waits for them, over what kv_bench_fill made: one
// transaction each time, so one connection of the storage at work.
//
//   KV_MASTER_KEY=... kv_bench_groups STORAGE ENTRIES SECONDS SEED      prints {"perSecond": ...}
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "entries.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t group = 64;

int fail(const std::string& message) {
    std::fprintf(stderr, "kv_bench_groups: %s\n", message.c_str());
    return 1;
}

// One group; how many of it failed.
std::size_t put_group(kv::Store& store, const kv::Actor& actor, std::mt19937_64& random, std::uint64_t entries) {
    std::atomic<std::size_t> left{group};
    std::atomic<std::size_t> failed{0};
    std::vector<kv::Submission> batch(group);
    for (kv::Submission& one : batch) {
        const std::uint64_t number = random() % entries;
        kv::PutEntry put;
        put.ns = kv::NamespaceName{std::string(kv::bench::application), "secret"};
        put.write.key_path = kv::bench::key_of(number);
        put.write.value = kv::ValueInput::text(kv::bench::value_of(random()));
        one.actor = actor;
        one.request = std::move(put);
        one.done = [&](const kv::Result<kv::Reply>& reply) {
            if (!reply) ++failed;
            if (--left == 0) left.notify_one();
        };
    }
    store.submit(batch);
    for (std::size_t now = left; now != 0; now = left) left.wait(now);
    return failed;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 5) {
        std::fputs("usage: KV_MASTER_KEY=... kv_bench_groups STORAGE ENTRIES SECONDS SEED\n", stderr);
        return 2;
    }
    auto store = kv::bench::open_store(arguments[1], kv::ReadAudit::durable);
    if (!store) return fail(store.error().message);
    const std::uint64_t entries = std::strtoull(arguments[2], nullptr, 10);
    const auto seconds = std::chrono::seconds(std::strtoull(arguments[3], nullptr, 10));
    std::mt19937_64 random(std::strtoull(arguments[4], nullptr, 10));
    const kv::Actor actor = kv::bench::actor();
    const auto began = Clock::now();
    std::uint64_t done = 0;
    while (Clock::now() - began < seconds) {
        if (const std::size_t failed = put_group(**store, actor, random, entries); failed > 0) return fail("puts failed");
        done += group;
    }
    std::printf("{\"perSecond\": %.0f}\n", static_cast<double>(done) / std::chrono::duration<double>(Clock::now() - began).count());
    return 0;
}
