#pragma once
#include <cstdint>
#include <string>

#include "kv/store.h"

namespace kv::bench {

// The entries of every measurement. load.lua makes the same key paths.
inline constexpr std::size_t value_bytes = 128;
inline constexpr std::string_view application = "bench";

std::string key_of(std::uint64_t number);    // "service-0042/setting-0042017"
std::string value_of(std::uint64_t number);  // of value_bytes letters and digits, the same each time

struct Filling {
    std::string ns;
    bool is_secret = false;
    std::uint64_t entries = 0;
};

// Creates a namespace in `application` and puts entries 0 to entries - 1 into it, in bulks.
Result<void> fill(Store& store, const Filling& filling);

// The store with KV_MASTER_KEY in a storage that may be there already.
// The sink is borrowed.
Result<std::unique_ptr<Store>> open_store(const std::string& uri, ReadAudit read_audit, EventSink* sink = nullptr);

Actor actor();

}  // namespace kv::bench
