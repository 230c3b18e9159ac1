#pragma once
#include <new>
#include <type_traits>

#include "kv/result.h"

namespace kv {

// What is done where there is no memory. A class unwinds as it always does; boundaries turn the exception into an error: where
// an operation starts and where a host calls, where a thread of ours runs, around a group and around a batch of reads. Making
// that error must not need memory itself, nor may anything that is noexcept.

// Errc::unavailable, in words that fit into a string itself.
Error out_of_memory() noexcept;
// With these words, or without where there is no memory for them: the code is what a caller acts on.
Error make_error(Errc code, const char* message) noexcept;
// The same for a copy of an error.
Error copy_of(const Error& error) noexcept;

// Runs f, which answers a Result, and answers what it throws as well.
template <class F>
auto contain(F&& f) noexcept -> std::invoke_result_t<F> {
    try {
        return f();
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (...) {
        return make_error(Errc::internal, "An unexpected exception.");
    }
}

// The same for what may be left undone: a line in a log, a call to a host.
template <class F>
void attempt(F&& f) noexcept {
    try {
        f();
    } catch (...) {
        // Nobody waits for it, and there may be no memory to say so.
    }
}

}  // namespace kv
