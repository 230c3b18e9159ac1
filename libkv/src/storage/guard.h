#pragma once
#include <type_traits>

#include "kv/result.h"

namespace kv::rows {

template <class T>
struct ResultOf {
    using type = Result<T>;
};
template <class T>
struct ResultOf<Result<T>> {
    using type = Result<T>;
};

// Runs f; what it throws becomes the error that `translate` makes of the exception in flight.
template <class F>
auto guard(F&& f, Error (*translate)() noexcept) noexcept -> typename ResultOf<decltype(f())>::type {
    try {
        if constexpr (std::is_void_v<decltype(f())>) {
            f();
            return {};
        } else {
            return f();
        }
    } catch (...) {
        return translate();
    }
}

}  // namespace kv::rows
