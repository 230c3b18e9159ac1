#include "fault/failing_memory.h"

#include <dlfcn.h>
#include <openssl/crypto.h>
#include <sqlite3.h>

#include <cstdio>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>

namespace kv::test {
namespace {

// Everything here stands before the first constructor runs, and no destructor takes it away.
enum class Mode : std::uint8_t { off, in_a_row, by_chance };
constinit std::atomic<Mode> mode{Mode::off};
constinit std::atomic<FailingMemory::Of> whose{FailingMemory::Of::all};
constinit std::atomic<std::uint64_t> first_refused{0};
constinit std::atomic<std::uint64_t> refused_in_a_row{0};
constinit std::atomic<std::uint64_t> chance{0};
constinit std::atomic<std::uint64_t> seed_of_chance{0};
constinit std::atomic<std::uint64_t> asked_for{0};
constinit std::atomic<std::uint64_t> refused_of_them{0};
constinit FailingMemory::Refused by_source;
constinit thread_local int exemptions = 0;
constinit thread_local bool is_caller = false;

bool counts(const std::atomic<std::uint64_t>& source) noexcept {
    if (mode.load(std::memory_order_acquire) == Mode::off || exemptions > 0) return false;
    const auto of = whose.load(std::memory_order_relaxed);
    if (of == FailingMemory::Of::guarded) return &source == &by_source.by_sodium;
    return of == FailingMemory::Of::all || (of == FailingMemory::Of::caller) == is_caller;
}

// SplitMix64.
std::uint64_t mixed(std::uint64_t number) noexcept {
    number += 0x9e3779b97f4a7c15u;
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    return number ^ (number >> 31);
}

bool is_refused(std::atomic<std::uint64_t>& source) noexcept {
    if (!counts(source)) return false;
    const std::uint64_t number = asked_for.fetch_add(1) + 1;
    bool refuses = false;
    if (mode.load(std::memory_order_relaxed) == Mode::by_chance) {
        refuses = mixed(seed_of_chance.load(std::memory_order_relaxed) + number) % chance.load(std::memory_order_relaxed) == 0;
    } else {
        const std::uint64_t first = first_refused.load(std::memory_order_relaxed);
        refuses = number >= first && number - first < refused_in_a_row.load(std::memory_order_relaxed);
    }
    if (!refuses) return false;
    refused_of_them.fetch_add(1);
    source.fetch_add(1);
    return true;
}

void start(FailingMemory::Of of, Mode how) noexcept {
    asked_for = 0;
    refused_of_them = 0;
    whose = of;
    is_caller = true;
    mode.store(how, std::memory_order_release);
}

// ---- SQLite ----

sqlite3_mem_methods sqlite_memory;

void* sqlite_malloc(int size) { return is_refused(by_source.by_sqlite) ? nullptr : sqlite_memory.xMalloc(size); }
void* sqlite_realloc(void* old, int size) { return is_refused(by_source.by_sqlite) ? nullptr : sqlite_memory.xRealloc(old, size); }

// ---- OpenSSL ----

void* openssl_malloc(std::size_t size, const char*, int) { return is_refused(by_source.by_openssl) ? nullptr : std::malloc(size); }
void* openssl_realloc(void* old, std::size_t size, const char*, int) {
    return is_refused(by_source.by_openssl) ? nullptr : std::realloc(old, size);
}
void openssl_free(void* memory, const char*, int) { std::free(memory); }

// Both take their memory functions only before they first ask for memory.
struct Hooks {
    Hooks() {
        sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory);
        sqlite3_mem_methods ours = sqlite_memory;
        ours.xMalloc = sqlite_malloc;
        ours.xRealloc = sqlite_realloc;
        const bool is_set = sqlite3_config(SQLITE_CONFIG_MALLOC, &ours) == SQLITE_OK &&
                            CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) == 1;
        if (is_set) return;
        std::fputs("memory was asked for before it could be made to fail\n", stderr);
        std::abort();
    }
} hooks;

// ---- operator new ----

void* take(std::size_t size, std::size_t alignment) noexcept {
    if (is_refused(by_source.by_new)) return nullptr;
    if (size == 0) size = 1;
    if (alignment <= alignof(std::max_align_t)) return std::malloc(size);
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* take_or_throw(std::size_t size, std::size_t alignment) {
    void* memory = take(size, alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void FailingMemory::arm(Of of, std::uint64_t first, std::uint64_t count) noexcept {
    first_refused = first;
    refused_in_a_row = count;
    start(of, Mode::in_a_row);
}

void FailingMemory::arm_by_chance(Of of, std::uint32_t in, std::uint64_t seed) noexcept {
    chance = in;
    seed_of_chance = mixed(seed);
    start(of, Mode::by_chance);
}

void FailingMemory::disarm() noexcept {
    mode.store(Mode::off, std::memory_order_release);
    is_caller = false;
}

std::uint64_t FailingMemory::asked() noexcept { return asked_for; }
std::uint64_t FailingMemory::refused() noexcept { return refused_of_them; }
const FailingMemory::Refused& FailingMemory::refused_by() noexcept { return by_source; }

FailingMemory::Exempt::Exempt() noexcept { ++exemptions; }
FailingMemory::Exempt::~Exempt() { --exemptions; }
FailingMemory::Subject::Subject() noexcept { --exemptions; }
FailingMemory::Subject::~Subject() { ++exemptions; }

}  // namespace kv::test

using kv::test::take;
using kv::test::take_or_throw;

void* operator new(std::size_t size) { return take_or_throw(size, 0); }
void* operator new[](std::size_t size) { return take_or_throw(size, 0); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return take(size, 0); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return take(size, 0); }
void* operator new(std::size_t size, std::align_val_t alignment) { return take_or_throw(size, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return take_or_throw(size, static_cast<std::size_t>(alignment)); }
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    return take(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    return take(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept { std::free(memory); }

// ---- libsodium's guarded memory ----

extern "C" __attribute__((visibility("default"))) void* sodium_malloc(std::size_t size) {
    using Function = void* (*)(std::size_t);
    static const auto real = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "sodium_malloc"));
    return kv::test::is_refused(kv::test::by_source.by_sodium) ? nullptr : real(size);
}
