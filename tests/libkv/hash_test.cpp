#include "crypto/hash.h"

#include <doctest/doctest.h>

#include <string>

#include "libkv/vector_file.h"

using namespace kv;
using namespace kv::crypto;
using namespace kv::testing;

TEST_CASE("BLAKE2b-256 agrees with another implementation") {
    for (const auto& words : read_vectors("blake2b_256.txt")) {
        CAPTURE(words.at(0));
        const std::string data = from_hex(words.at(2));
        if (words.at(1) == "-") {
            CHECK(hex_of(blake2b(data)) == words.at(3));
        } else {
            CHECK(hex_of(blake2b_keyed(to_array<32>(from_hex(words.at(1))), {data})) == words.at(3));
        }
    }
}

TEST_CASE("BLAKE2b-256 of abc is the well-known one") {
    CHECK(hex_of(blake2b("abc")) == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}

TEST_CASE("a keyed hash over parts is that of the parts put together") {
    const Key key = {7};
    const std::string text(300, 'x');
    const std::string_view view = text;
    CHECK(blake2b_keyed(key, {view.substr(0, 100), "", view.substr(100)}) == blake2b_keyed(key, {view}));
    CHECK(blake2b_keyed(key, {}) == blake2b_keyed(key, {""}));
}

TEST_CASE("a hash depends on its key and on its name") {
    CHECK(blake2b_keyed(Key{1}, {"text"}) != blake2b_keyed(Key{2}, {"text"}));
    CHECK(blake2b_named("one", "text") != blake2b_named("two", "text"));
    CHECK(blake2b_named("one", "text") != blake2b("text"));
    CHECK(blake2b_named("one", "text") == blake2b_keyed(Key{'o', 'n', 'e'}, {"text"}));
}

TEST_CASE("equal compares every byte and the length") {
    const std::array<std::uint8_t, 4> four = {1, 2, 3, 4};
    CHECK(equal(four, std::array<std::uint8_t, 4>{1, 2, 3, 4}));
    CHECK(equal({}, {}));
    CHECK_FALSE(equal(four, {}));
    CHECK_FALSE(equal(four, std::span(four).first(3)));
    for (std::size_t i = 0; i < four.size(); ++i) {
        auto other = four;
        other[i] ^= 0x80;
        CHECK_FALSE(equal(four, other));
    }
}
