#include "crypto/aes_gcm.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "crypto/key_memory.h"
#include "libkv/vector_file.h"

using namespace kv;
using namespace kv::crypto;
using namespace kv::testing;

namespace {

constexpr std::array<std::uint8_t, key_bytes> some_key = {1, 2, 3};
constexpr Nonce some_nonce = {4, 5, 6};

struct Vector {
    explicit Vector(const std::vector<std::string>& words)
        : name(words.at(0)),
          is_valid(words.at(1) == "valid"),
          key(to_array<key_bytes>(from_hex(words.at(2)))),
          nonce(to_array<nonce_bytes>(from_hex(words.at(3)))),
          associated(from_hex(words.at(4))),
          plaintext(from_hex(words.at(5))),
          sealed(from_hex(words.at(6)) + from_hex(words.at(7))) {}
    std::string name;
    bool is_valid;
    std::array<std::uint8_t, key_bytes> key;
    Nonce nonce;
    std::string associated, plaintext, sealed;
};

std::string seal(const AesGcm& aes, std::string_view associated, std::string_view plaintext, const Nonce& nonce = some_nonce) {
    std::string sealed(plaintext.size() + tag_bytes, '?');
    REQUIRE(aes.seal(nonce, associated, plaintext, sealed.data()));
    return sealed;
}

// What was sealed, or "refused"; then nothing of it may be in the output.
std::string open(const AesGcm& aes, std::string_view associated, std::string_view sealed, const Nonce& nonce = some_nonce) {
    std::string plaintext(sealed.size() - tag_bytes, '?');
    if (aes.open(nonce, associated, sealed, plaintext.data())) return plaintext;
    CHECK(plaintext == std::string(plaintext.size(), '\0'));
    return "refused";
}

// The kernel's flags ("rd wr lo dd ...") of the mapping that holds `address`; empty if it does not tell.
std::string mapping_flags(const void* address) {
    const auto wanted = reinterpret_cast<unsigned long>(address);
    std::ifstream maps("/proc/self/smaps");
    bool is_inside = false;
    for (std::string line; std::getline(maps, line);) {
        unsigned long from = 0;
        unsigned long to = 0;
        if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) is_inside = from <= wanted && wanted < to;
        if (is_inside && line.starts_with("VmFlags:")) return line.substr(8) + " ";
    }
    return {};
}

char flipped(char byte, int bit) { return static_cast<char>(byte ^ (1 << bit)); }

}  // namespace

TEST_CASE("every backend agrees with the published AES-256-GCM vectors") {
    int valid = 0;
    int invalid = 0;
    for (const auto& words : read_vectors("aes_256_gcm.txt")) {
        const Vector vector(words);
        CAPTURE(vector.name);
        (vector.is_valid ? valid : invalid) += 1;
        for (CryptoBackend backend : backends()) {
            auto aes = AesGcm::create(vector.key, backend);
            if (vector.is_valid) {
                CHECK(hex_encode(seal(*aes, vector.associated, vector.plaintext, vector.nonce)) == hex_encode(vector.sealed));
                CHECK(hex_encode(open(*aes, vector.associated, vector.sealed, vector.nonce)) == hex_encode(vector.plaintext));
            } else {
                CHECK(open(*aes, vector.associated, vector.sealed, vector.nonce) == "refused");
            }
        }
    }
    CHECK(valid == 114);
    CHECK(invalid == 77);
}

TEST_CASE("what one backend sealed the other opens, whatever its length") {
    const std::string text(5000, 'x');
    for (std::size_t size : {0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4096, 5000}) {
        for (CryptoBackend from : backends()) {
            for (CryptoBackend to : backends()) {
                auto sealer = AesGcm::create(some_key, from);
                auto opener = AesGcm::create(some_key, to);
                const std::string_view plaintext = std::string_view(text).substr(0, size);
                const std::string_view associated = std::string_view(text).substr(0, size % 97);
                CHECK(open(*opener, associated, seal(*sealer, associated, plaintext)) == plaintext);
            }
        }
    }
}

TEST_CASE("no flipped bit of ciphertext, tag, nonce or associated data goes unnoticed") {
    for (CryptoBackend backend : backends()) {
        auto aes = AesGcm::create(some_key, backend);
        const std::string plaintext = "a value of some length, over two blocks";
        const std::string associated = "what it is bound to";
        const std::string sealed = seal(*aes, associated, plaintext);
        for (int bit = 0; bit < 8; ++bit) {
            for (std::size_t i = 0; i < sealed.size(); ++i) {
                std::string changed = sealed;
                changed[i] = flipped(changed[i], bit);
                CHECK(open(*aes, associated, changed) == "refused");
            }
            for (std::size_t i = 0; i < associated.size(); ++i) {
                std::string changed = associated;
                changed[i] = flipped(changed[i], bit);
                CHECK(open(*aes, changed, sealed) == "refused");
            }
            for (std::size_t i = 0; i < nonce_bytes; ++i) {
                Nonce changed = some_nonce;
                changed[i] = static_cast<std::uint8_t>(changed[i] ^ (1 << bit));
                CHECK(open(*aes, associated, sealed, changed) == "refused");
            }
        }
        CHECK(open(*aes, associated, sealed) == plaintext);  // a refusal leaves nothing behind
    }
}

TEST_CASE("cut or lengthened ciphertext, and anything shorter than a tag, is refused") {
    for (CryptoBackend backend : backends()) {
        auto aes = AesGcm::create(some_key, backend);
        const std::string sealed = seal(*aes, "", "text");
        for (std::size_t size = tag_bytes; size < sealed.size(); ++size) {
            CHECK(open(*aes, "", std::string_view(sealed).substr(0, size)) == "refused");
        }
        CHECK(open(*aes, "", sealed + '\0') == "refused");
        for (std::size_t size = 0; size < tag_bytes; ++size) {
            CHECK_FALSE(aes->open(some_nonce, "", std::string_view(sealed).substr(0, size), nullptr));
        }
    }
}

TEST_CASE("another key does not open") {
    for (CryptoBackend backend : backends()) {
        auto aes = AesGcm::create(some_key, backend);
        std::array<std::uint8_t, key_bytes> other_key = some_key;
        other_key[31] = 1;
        auto other = AesGcm::create(other_key, backend);
        CHECK(open(*other, "", seal(*aes, "", "text")) == "refused");
    }
}

TEST_CASE("one key seals and opens on many threads at once") {
    for (CryptoBackend backend : backends()) {
        auto aes = AesGcm::create(some_key, backend);
        std::atomic<int> failures = 0;
        std::vector<std::thread> threads;
        for (int thread = 0; thread < 4; ++thread) {
            threads.emplace_back([&, thread] {
                const std::string plaintext(static_cast<std::size_t>(100 + thread), static_cast<char>('a' + thread));
                for (std::uint8_t i = 0; i < 200; ++i) {
                    const Nonce nonce = {static_cast<std::uint8_t>(thread), i};
                    std::string sealed(plaintext.size() + tag_bytes, '\0');
                    std::string opened(plaintext.size(), '\0');
                    if (!aes->seal(nonce, "ad", plaintext, sealed.data())) ++failures;
                    if (!aes->open(nonce, "ad", sealed, opened.data()) || opened != plaintext) ++failures;
                    sealed[i % sealed.size()] = flipped(sealed[i % sealed.size()], 0);
                    if (aes->open(nonce, "ad", sealed, opened.data())) ++failures;
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        CHECK(failures == 0);
    }
}

TEST_CASE("automatic chooses a backend that passes its self-test, and a forced one stays") {
    auto automatic = select_backend(CryptoBackend::automatic);
    REQUIRE(automatic);
    CHECK(*automatic == backends().back());
    auto forced = select_backend(CryptoBackend::openssl);
    REQUIRE(forced);
    CHECK(*forced == CryptoBackend::openssl);
}

TEST_CASE("more bytes than the libraries count are refused instead of aborting") {
    const std::string_view endless("", (std::size_t{1} << 30) + 1);  // only its size is looked at
    for (CryptoBackend backend : backends()) {
        auto aes = AesGcm::create(some_key, backend);
        CHECK(aes->seal(some_nonce, "", endless, nullptr) == Errc::too_large);
        CHECK(aes->seal(some_nonce, endless, "", nullptr) == Errc::too_large);
        CHECK_FALSE(aes->open(some_nonce, "", endless, nullptr));
    }
}

TEST_CASE("key slots are aligned, apart from each other, and wiped before they are given out again") {
    std::set<std::uint8_t*> places;
    {
        std::vector<std::unique_ptr<KeySlot>> slots;
        for (int i = 0; i < 200; ++i) {  // more than one slab
            slots.push_back(std::make_unique<KeySlot>());
            std::uint8_t* data = slots.back()->data();
            CHECK(reinterpret_cast<std::uintptr_t>(data) % 16 == 0);
            std::fill_n(data, key_slot_bytes, std::uint8_t{0xaa});
            places.insert(data);
        }
        CHECK(places.size() == 200);
        for (auto next = std::next(places.begin()); next != places.end(); ++next) {
            CHECK(*next - *std::prev(next) >= static_cast<std::ptrdiff_t>(key_slot_bytes));
        }
    }
    KeySlot again;
    CHECK(places.count(again.data()) == 1);
    CHECK(std::all_of(again.data(), again.data() + key_slot_bytes, [](std::uint8_t byte) { return byte == 0; }));
}

TEST_CASE("key slots are left out of core dumps") {
    KeySlot slot;
    const std::string flags = mapping_flags(slot.data());
    if (!flags.empty()) CHECK(flags.find(" dd ") != std::string::npos);
}
