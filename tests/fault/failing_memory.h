#pragma once
#include <atomic>
#include <cstdint>

namespace kv::test {

// The memory of this program: operator new in all its forms, SQLite's, OpenSSL's and the guarded memory of libsodium. While
// it is armed it counts what is asked for, and refuses some of that. Threads: any; arm and disarm on one.
class FailingMemory {
public:
    // Whose requests count: those of the thread that armed it, of every other, of all; guarded: of all, for libsodium's alone.
    enum class Of : std::uint8_t { caller, others, all, guarded };

    // Refuses `count` requests in a row, the `first` one (from 1) of those that count being the first.
    static void arm(Of of, std::uint64_t first, std::uint64_t count) noexcept;
    // Refuses one of `in` requests, by chance.
    static void arm_by_chance(Of of, std::uint32_t in, std::uint64_t seed) noexcept;
    static void disarm() noexcept;

    // Requests that counted since it was armed, and those of them that were refused.
    static std::uint64_t asked() noexcept;
    static std::uint64_t refused() noexcept;
    // Refused since the program began, by whom they would have been served.
    struct Refused {
        std::atomic<std::uint64_t> by_new{0};
        std::atomic<std::uint64_t> by_sqlite{0};
        std::atomic<std::uint64_t> by_openssl{0};
        std::atomic<std::uint64_t> by_sodium{0};
    };
    static const Refused& refused_by() noexcept;

    // What a test does for itself while memory is armed.
    class Exempt {
    public:
        Exempt() noexcept;
        ~Exempt();
        Exempt(const Exempt&) = delete;
    };
    // And what is not its own, inside of that.
    class Subject {
    public:
        Subject() noexcept;
        ~Subject();
        Subject(const Subject&) = delete;
    };
};

}  // namespace kv::test
