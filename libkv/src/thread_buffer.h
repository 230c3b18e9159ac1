#pragma once
#include "bytes.h"

namespace kv {

// Calls `use` with an empty BytesWriter whose memory the thread keeps, which saves an allocation for every value and every
// audit row. A store in a static variable goes after the main thread's own objects, and works on to its end: from then on
// each call has a writer of its own. Every `use` has a buffer to itself, and must not come back to it meanwhile.
template <class Use>
auto with_thread_buffer(Use use) {
    static thread_local bool is_gone = false;
    struct Kept {
        BytesWriter writer;
        ~Kept() { is_gone = true; }
    };
    if (is_gone) {
        BytesWriter writer;
        return use(writer);
    }
    static thread_local Kept kept;
    kept.writer.clear();
    return use(kept.writer);
}

}  // namespace kv
