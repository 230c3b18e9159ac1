#include "crypto/random.h"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <map>
#include <set>
#include <string>

using namespace kv;
using namespace kv::crypto;
using Alphabet = Generate::Alphabet;

namespace {

// How often each character came up in `count` texts of 1000.
std::map<char, int> tally(Alphabet alphabet, int count) {
    std::map<char, int> seen;
    for (int i = 0; i < count; ++i) {
        const SecretBytes text = random_text({1000, alphabet});
        for (char c : text.reveal()) ++seen[c];
    }
    return seen;
}

std::string characters(const std::map<char, int>& seen) {
    std::string all;
    for (const auto& [c, count] : seen) all.push_back(c);
    return all;
}

constexpr std::string_view upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view lower = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view digits = "0123456789";

}  // namespace

TEST_CASE("a generated text has the length asked for") {
    for (std::uint32_t length : {16u, 17u, 32u, 63u, 64u, 65u, 1024u}) {
        for (Alphabet alphabet : {Alphabet::alphanumeric, Alphabet::hex, Alphabet::base64url, Alphabet::ascii}) {
            CHECK(random_text({length, alphabet}).size() == length);
        }
    }
}

TEST_CASE("a generated text uses every character of its alphabet and no other") {
    const auto of = [](std::string_view a, std::string_view b = {}, std::string_view c = {}, std::string_view d = {}, std::string_view e = {}) {
        return std::string(a).append(b).append(c).append(d).append(e);
    };
    CHECK(characters(tally(Alphabet::alphanumeric, 20)) == of(digits, upper, lower));
    CHECK(characters(tally(Alphabet::hex, 20)) == of(digits, "abcdef"));
    CHECK(characters(tally(Alphabet::base64url, 20)) == of("-", digits, upper, "_", lower));
    std::string printable;
    for (char c = 0x21; c <= 0x7e; ++c) printable.push_back(c);
    CHECK(characters(tally(Alphabet::ascii, 20)) == printable);
}

TEST_CASE("no character of an alphabet is likelier than another") {
    // Taking bytes modulo 94 would make the first 68 characters half as likely again as the rest. Here each is expected
    // 2,000 times with a standard deviation of 45, so a fifth off is nine of them.
    for (const auto& seen : {tally(Alphabet::ascii, 188), tally(Alphabet::alphanumeric, 124)}) {
        for (const auto& each : seen) {
            CAPTURE(each.first);
            CHECK(each.second > 1600);
            CHECK(each.second < 2400);
        }
    }
}

TEST_CASE("a new id is a UUID of version 7 that begins with the time") {
    const Time time{std::chrono::microseconds(0x0123456789ab) * 1000 + std::chrono::microseconds(999)};
    const Uuid id = make_uuid(time);
    const std::string text = id.to_string();
    CHECK(text.substr(0, 15) == "01234567-89ab-7");
    CHECK(std::string_view("89ab").find(text[19]) != std::string_view::npos);
}

TEST_CASE("the id of a time before 1970 begins with zeros") {
    CHECK(make_uuid(Time(std::chrono::microseconds(-1))).to_string().substr(0, 15) == "00000000-0000-7");
}

TEST_CASE("ids of the same instant differ, and all their random bits vary") {
    std::set<Uuid> ids;
    std::array<std::uint8_t, 16> ever_set{};
    std::array<std::uint8_t, 16> ever_clear{};
    for (int i = 0; i < 1000; ++i) {
        const Uuid id = make_uuid(Time{});
        ids.insert(id);
        for (std::size_t at = 0; at < 16; ++at) {
            ever_set[at] |= id.bytes[at];
            ever_clear[at] = static_cast<std::uint8_t>(ever_clear[at] | ~id.bytes[at]);
        }
    }
    CHECK(ids.size() == 1000);
    CHECK(ever_set == std::array<std::uint8_t, 16>{0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    CHECK(ever_clear == std::array<std::uint8_t, 16>{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x8f, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
}
