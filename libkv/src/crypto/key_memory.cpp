#include "crypto/key_memory.h"

#include <sodium.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "kv/secret.h"

namespace kv::crypto {
namespace {

// With the 16 bytes libsodium puts in front this is 32 KiB: whole pages between two guard pages.
constexpr std::size_t slots_per_slab = 63;
static_assert(key_slot_bytes % 16 == 0);

class SlotPool {
public:
    std::uint8_t* take() {
        std::lock_guard lock(mutex_);
        if (free_.empty()) add_slab();
        std::uint8_t* slot = free_.back();
        free_.pop_back();
        return slot;
    }

    void give_back(std::uint8_t* slot) noexcept {
        std::lock_guard lock(mutex_);
        free_.push_back(slot);  // cannot throw: add_slab() reserved room for every slot there is
    }

    bool is_locked() {
        std::lock_guard lock(mutex_);
        return is_locked_;
    }

private:
    void add_slab() {
        free_.reserve(slot_count_ + slots_per_slab);
        auto* slab = static_cast<std::uint8_t*>(sodium_malloc(slots_per_slab * key_slot_bytes));
        if (slab == nullptr) throw std::bad_alloc();
        // libsodium asks for the lock too, but does not tell whether it got it.
        if (mlock(slab, slots_per_slab * key_slot_bytes) != 0) is_locked_ = false;
        slot_count_ += slots_per_slab;
        for (std::size_t i = slots_per_slab; i-- > 0;) free_.push_back(slab + i * key_slot_bytes);
    }

    std::mutex mutex_;
    std::vector<std::uint8_t*> free_;
    std::size_t slot_count_ = 0;
    bool is_locked_ = true;
};

// Never destroyed, so that keys held by static objects can still be given back at exit.
SlotPool& slot_pool() {
    static SlotPool& pool = *new SlotPool;
    return pool;
}

}  // namespace

void require_sodium() {
    static const bool is_ready = sodium_init() >= 0;
    if (!is_ready) std::abort();
}

KeySlot::KeySlot() {
    require_sodium();
    data_ = slot_pool().take();
}

KeySlot::~KeySlot() {
    secure_wipe(data_, key_slot_bytes);
    slot_pool().give_back(data_);
}

bool key_memory_is_locked() { return slot_pool().is_locked(); }

}  // namespace kv::crypto
