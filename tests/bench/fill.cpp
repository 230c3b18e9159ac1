// Makes a database for a benchmark: one secret namespace, bench~secret, with as many entries as asked for.
//
//   KV_MASTER_KEY=... kv_bench_fill STORAGE ENTRIES
#include <cstdio>
#include <cstdlib>

#include "entries.h"

namespace {

int fail(const kv::Error& error) {
    std::fprintf(stderr, "kv_bench_fill: %s\n", error.message.c_str());
    return 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) {
        std::fputs("usage: KV_MASTER_KEY=... kv_bench_fill STORAGE ENTRIES\n", stderr);
        return 2;
    }
    auto store = kv::bench::open_store(arguments[1], kv::ReadAudit::durable);
    if (!store) return fail(store.error());
    const kv::bench::Filling filling{"secret", true, std::strtoull(arguments[2], nullptr, 10)};
    if (auto filled = kv::bench::fill(**store, filling); !filled) return fail(filled.error());
    return 0;
}
