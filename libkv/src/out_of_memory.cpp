#include "out_of_memory.h"

namespace kv {

Error out_of_memory() noexcept { return {Errc::unavailable, "Out of memory."}; }

Error make_error(Errc code, const char* message) noexcept {
    try {
        return {code, message};
    } catch (const std::bad_alloc&) {
        return {code, "Out of memory."};
    }
}

Error copy_of(const Error& error) noexcept {
    try {
        return error;
    } catch (const std::bad_alloc&) {
        return {error.code, "Out of memory."};
    }
}

}  // namespace kv
