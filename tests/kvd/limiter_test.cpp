#include "kvd/limiter.h"

#include <doctest/doctest.h>

#include <string>

using namespace std::chrono_literals;
using kvd::AddressCounts;
using kvd::RateLimiter;

namespace {

int admitted(RateLimiter& limiter, const std::string& caller, RateLimiter::Clock::time_point at, int tries) {
    int count = 0;
    for (int i = 0; i < tries; ++i) count += limiter.admit(caller, at) ? 1 : 0;
    return count;
}

}  // namespace

TEST_CASE("a caller has its burst at once and its rate from then on") {
    RateLimiter limiter(10, 20);
    const RateLimiter::Clock::time_point start{1h};
    CHECK(admitted(limiter, "ann", start, 100) == 20);
    CHECK(admitted(limiter, "ann", start + 99ms, 100) == 0);
    CHECK(admitted(limiter, "ann", start + 100ms, 100) == 1);
    CHECK(admitted(limiter, "ann", start + 1100ms, 100) == 10);
    CHECK(admitted(limiter, "ann", start + 1h, 100) == 20);  // not more, however long nothing was asked
}

TEST_CASE("what was refused does not count") {
    RateLimiter limiter(1, 1);
    const RateLimiter::Clock::time_point start{1h};
    CHECK(limiter.admit("ann", start));
    for (int i = 1; i < 10; ++i) CHECK_FALSE(limiter.admit("ann", start + i * 100ms));
    CHECK(limiter.admit("ann", start + 1s));
}

TEST_CASE("callers have their own rates") {
    RateLimiter limiter(1, 2);
    const RateLimiter::Clock::time_point start{1h};
    CHECK(admitted(limiter, "ann", start, 10) == 2);
    CHECK(admitted(limiter, "bob", start, 10) == 2);
}

TEST_CASE("without a rate everything passes") {
    RateLimiter limiter(0, 0);
    CHECK_FALSE(limiter.is_on());
    CHECK(admitted(limiter, "ann", {}, 1000) == 1000);
}

TEST_CASE("a flood of callers is let through, but nothing grows without bound, and who is known stays bound") {
    RateLimiter limiter(1, 1, 1600);
    const RateLimiter::Clock::time_point start{1h};
    for (int i = 0; i < 100'000; ++i) CHECK(limiter.admit("caller " + std::to_string(i), start));
    CHECK(limiter.admit("ann", start));
    CHECK_FALSE(limiter.admit("ann", start));
}

TEST_CASE("an address has so many connections at a time") {
    AddressCounts counts(2);
    CHECK(counts.enter("a"));
    CHECK(counts.enter("a"));
    CHECK_FALSE(counts.enter("a"));
    CHECK(counts.enter("b"));
    counts.leave("a");
    CHECK(counts.enter("a"));
    AddressCounts unlimited(0);
    for (int i = 0; i < 1000; ++i) CHECK(unlimited.enter("a"));
}
