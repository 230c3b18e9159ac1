#include "cursor.h"

#include <doctest/doctest.h>

#include <string>

#include "kv/keys.h"
#include "libkv/vector_file.h"

using namespace kv;

namespace {

std::unique_ptr<crypto::Keyring> new_keys() {
    return crypto::Keyring::open(generate_master_key(), CryptoBackend::openssl, {}, Time{}).value();
}

constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

}  // namespace

TEST_CASE("a cursor gives its position back") {
    auto keys = new_keys();
    for (const std::string& position : {std::string(), std::string("a"), std::string("folder/key"), std::string("\0\xff", 2), std::string(1024, 'k')}) {
        const std::string cursor = make_cursor(*keys, "epoch", "list a b", position);
        CHECK(cursor.find_first_not_of(alphabet) == std::string::npos);
        CHECK(read_cursor(*keys, "epoch", "list a b", cursor).value() == position);
    }
}

TEST_CASE("a cursor with any character changed, left out or added is invalid") {
    auto keys = new_keys();
    for (const std::string& position : {std::string("key"), std::string("key1"), std::string("key12")}) {  // every length modulo 3
        const std::string cursor = make_cursor(*keys, "epoch", "binding", position);
        for (std::size_t i = 0; i < cursor.size(); ++i) {
            for (char c : alphabet) {
                if (c == cursor[i]) continue;
                std::string changed = cursor;
                changed[i] = c;
                CHECK(read_cursor(*keys, "epoch", "binding", changed) == Errc::invalid_cursor);
            }
            std::string shorter = cursor;
            shorter.erase(i, 1);
            CHECK(read_cursor(*keys, "epoch", "binding", shorter) == Errc::invalid_cursor);
        }
        CHECK(read_cursor(*keys, "epoch", "binding", cursor + "A") == Errc::invalid_cursor);
        CHECK(read_cursor(*keys, "epoch", "binding", cursor + "=") == Errc::invalid_cursor);
        CHECK(read_cursor(*keys, "epoch", "binding", cursor).value() == position);
    }
}

TEST_CASE("a cursor is good for one epoch, one query and one store") {
    auto keys = new_keys();
    const std::string cursor = make_cursor(*keys, "epoch", "binding", "position");
    CHECK(read_cursor(*keys, "epoch2", "binding", cursor) == Errc::invalid_cursor);
    CHECK(read_cursor(*keys, "epoch", "binding2", cursor) == Errc::invalid_cursor);
    CHECK(read_cursor(*keys, "epochb", "inding", cursor) == Errc::invalid_cursor);
    CHECK(read_cursor(*new_keys(), "epoch", "binding", cursor) == Errc::invalid_cursor);
}

TEST_CASE("rubbish is an invalid cursor, and the error names the parameter") {
    auto keys = new_keys();
    for (std::string_view rubbish : {"", "A", "AA", "AQ", "%%%", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "null"}) {
        auto position = read_cursor(*keys, "epoch", "binding", rubbish);
        REQUIRE(position == Errc::invalid_cursor);
        CHECK(position.error().field == "cursor");
    }
}
