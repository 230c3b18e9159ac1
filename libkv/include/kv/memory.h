#pragma once
#include <memory>

#include "kv/storage.h"

namespace kv {

// A storage in this process's memory: for tests, and for stores that may be gone at exit. `clock` is borrowed and must
// outlive it.
KV_EXPORT std::unique_ptr<Storage> make_memory_storage(Clock& clock);

}  // namespace kv
