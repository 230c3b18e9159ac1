#include "text.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

namespace {

using namespace std::string_literals;

// The same answer from the definition: decode code point by code point.
bool is_valid_utf8_by_definition(const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at]);
        const int length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
        if (length == 0 || at + static_cast<std::size_t>(length) > text.size()) return false;
        std::uint32_t point = length == 1 ? lead : lead & (0xffu >> (length + 1));
        for (int i = 1; i < length; ++i) {
            const auto next = static_cast<unsigned char>(text[at + static_cast<std::size_t>(i)]);
            if (next >> 6 != 2) return false;
            point = point << 6 | (next & 63u);
        }
        constexpr std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
        if (point < smallest[length] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return false;
        at += static_cast<std::size_t>(length);
    }
    return true;
}

std::string decoded(std::string_view text) {
    auto bytes = kv::base64_decode(text);
    return bytes ? std::string(bytes->reveal()) : "refused";
}

}  // namespace

TEST_CASE("every sequence of up to three bytes is UTF-8 exactly when RFC 3629 says so") {
    std::size_t wrong = 0;
    for (std::uint32_t bits = 0; bits < 1u << 24; bits += 3) {  // 3 divides no power of two: every byte occurs everywhere
        const std::string text = {static_cast<char>(bits >> 16), static_cast<char>(bits >> 8), static_cast<char>(bits)};
        wrong += kv::is_valid_utf8(text) != is_valid_utf8_by_definition(text);
    }
    CHECK(wrong == 0);
}

TEST_CASE("four-byte UTF-8 ends at U+10FFFF and has one form") {
    CHECK(kv::is_valid_utf8("\xf0\x90\x80\x80"));
    CHECK(kv::is_valid_utf8("\xf4\x8f\xbf\xbf"));
    CHECK_FALSE(kv::is_valid_utf8("\xf0\x8f\xbf\xbf"));
    CHECK_FALSE(kv::is_valid_utf8("\xf4\x90\x80\x80"));
    CHECK_FALSE(kv::is_valid_utf8("\xf5\x80\x80\x80"));
    CHECK_FALSE(kv::is_valid_utf8("\xf0\x9f\x98"));
    CHECK_FALSE(kv::is_valid_utf8("\xf0\x9f\x98 "));
}

TEST_CASE("a bad byte is found wherever it stands in a long text") {
    for (std::size_t size = 0; size < 40; ++size) {
        CHECK(kv::is_valid_utf8(std::string(size, 'a')));
        for (std::size_t at = 0; at < size; ++at) {
            std::string text(size, 'a');
            text[at] = '\xff';
            CHECK_FALSE(kv::is_valid_utf8(text));
            text[at] = '\xc3';
            CHECK_FALSE(kv::is_valid_utf8(text));
        }
    }
}

TEST_CASE("the first byte that is not UTF-8 is named") {
    CHECK(kv::valid_utf8_prefix("") == 0);
    CHECK(kv::valid_utf8_prefix("caf\xc3\xa9") == 5);
    CHECK(kv::valid_utf8_prefix("caf\xc3\xa9 and then \xc3") == 15);
    CHECK(kv::valid_utf8_prefix("\xed\xa0\x80") == 0);
}

TEST_CASE("control characters are U+0000 to U+001F and U+007F to U+009F") {
    for (int byte = 0; byte < 128; ++byte) {
        CAPTURE(byte);
        CHECK(kv::has_control_character("ab"s + static_cast<char>(byte)) == (byte < 0x20 || byte == 0x7f));
    }
    for (std::size_t at = 0; at < 20; ++at) {
        for (const char* control : {"\x01", "\x1f", "\x7f", "\xc2\x80", "\xc2\x9f"}) {
            CHECK(kv::has_control_character(std::string(at, 'a') + control + std::string(20, ' ')));
        }
        CHECK_FALSE(kv::has_control_character(std::string(at, '~') + "\xc2\xa0" + std::string(20, ' ')));
    }
    CHECK(kv::has_control_character("\xc2\x80"));
    CHECK(kv::has_control_character("x\xc2\x9fy"));
    CHECK_FALSE(kv::has_control_character("\xc2\xa0"));
    CHECK_FALSE(kv::has_control_character("caf\xc3\xa9 \xe2\x82\x82 \xf0\x9f\x98\x80"));
    CHECK_FALSE(kv::has_control_character(""));
}

TEST_CASE("base64 gives the texts of RFC 4648 section 10 and reads them back") {
    const std::vector<std::pair<std::string, std::string>> examples = {
        {"", ""},         {"f", "Zg=="},       {"fo", "Zm8="},          {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xbf", "+/+/"}};
    for (const auto& [bytes, text] : examples) {
        CHECK(kv::base64_encode(bytes) == text);
        CHECK(kv::base64_encoded_size(bytes.size()) == text.size());
        CHECK(decoded(text) == bytes);
    }
}

TEST_CASE("base64 that another reader might read differently is refused") {
    for (const char* text : {"Zg", "Zg=", "Zg===", "Zg====", "Zh==", "Zm9=", "Zm8", "Z", "=", "==", "====", "Z===", "Zg==Zg==", "Zm9v\n",
                             "Zm 9v", " Zm9v", "Zm9v    ", "Zm-_", "Zm9\xc3", "Zg=a", "=Zg=", "Zm=v"}) {
        CAPTURE(text);
        CHECK(decoded(text) == "refused");
    }
    CHECK(decoded("Zm9\0"s) == "refused");
}

TEST_CASE("of all two-byte endings of a base64 group only the canonical ones are read") {
    std::size_t accepted = 0;
    for (int a = 0; a < 256; ++a) {
        for (int b = 0; b < 256; ++b) {
            accepted += kv::base64_decode(std::string{static_cast<char>(a), static_cast<char>(b), '=', '='}).has_value();
        }
    }
    CHECK(accepted == 256);
}

TEST_CASE("base64url has no padding and its own two characters") {
    CHECK(kv::base64url_encode("\xfb\xff\xbf") == "-_-_");
    CHECK(kv::base64url_encode("f") == "Zg");
    CHECK(kv::base64url_decode("Zg") == "f");
    CHECK(kv::base64url_decode("Zm8") == "fo");
    CHECK(kv::base64url_decode("") == "");
    for (const char* text : {"Zg==", "Zm8=", "+/+/", "Z", "Zm9vY", "Zh", "Zm9", "Zm9v "}) {
        CAPTURE(text);
        CHECK_FALSE(kv::base64url_decode(text));
    }
}

TEST_CASE("any bytes survive base64, base64url and hex") {
    std::mt19937 random(20240115);
    for (std::size_t size = 0; size < 300; ++size) {
        std::string bytes(size, '\0');
        for (char& byte : bytes) byte = static_cast<char>(random());
        CHECK(decoded(kv::base64_encode(bytes)) == bytes);
        CHECK(kv::base64url_decode(kv::base64url_encode(bytes)) == bytes);
        auto from_hex = kv::hex_decode(kv::hex_encode(bytes));
        REQUIRE(from_hex);
        CHECK(from_hex->reveal() == bytes);
    }
}

TEST_CASE("hex is written in lower case and read in any") {
    CHECK(kv::hex_encode("\x01\xab\xff"s) == "01abff");
    CHECK(kv::hex_decode("01aBFf")->reveal() == "\x01\xab\xff"s);
    for (const char* text : {"0", "0g", "0x01", " 1", "1 ", "@1", "`1", "/0", ":0"}) {
        CAPTURE(text);
        CHECK_FALSE(kv::hex_decode(text));
    }
}
