#pragma once
#include <cstddef>
#include <cstdint>

namespace kv::crypto {

// Sets libsodium up, once; every function here that uses it comes past this. Ends the process if it cannot be set up:
// there is no safe way on without a random generator.
void require_sodium();

// One expanded AES key, which is the largest thing kept; the internal keys share one slot.
inline constexpr std::size_t key_slot_bytes = 512;

// KeySlot owns key_slot_bytes of guarded, locked memory that core dumps leave out, 16-aligned, wiped when given back.
// Slots are cut from slabs, because a guarded allocation costs four pages and the lockable memory of a process is
// small. The slabs belong to the process and not to a store: so does the limit they are counted against.
//
// Threads: construct and destroy anywhere; the bytes are the owner's. Throws std::bad_alloc.
class KeySlot {
public:
    KeySlot();
    ~KeySlot();
    KeySlot(const KeySlot&) = delete;
    KeySlot& operator=(const KeySlot&) = delete;

    std::uint8_t* data() const noexcept { return data_; }

private:
    std::uint8_t* data_;
};

// False if the system refused to lock a slab: then keys can be swapped out.
bool key_memory_is_locked();

}  // namespace kv::crypto
