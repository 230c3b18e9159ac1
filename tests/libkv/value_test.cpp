#include "value.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace {

using namespace std::string_literals;
using kv::Errc;
using kv::ValueInput;
using kv::ValueType;

ValueInput asking_for(ValueType type, ValueInput input) {
    input.type = type;
    return input;
}

// "TYPE bytes", or the code and field of the failure.
std::string stored(const ValueInput& input, std::optional<ValueType> type = {}, std::size_t bytes_max = 1u << 20) {
    auto value = kv::normalize(input, type, bytes_max);
    if (!value) return std::string(kv::code_name(value.error().code)) + " " + value.error().field;
    return std::string(kv::to_string(value->type)) + " " + std::string(value->bytes.reveal());
}

}  // namespace

TEST_CASE("without a type the value's own form decides") {
    CHECK(stored(ValueInput::text("42")) == "STRING 42");
    CHECK(stored(ValueInput::text("")) == "STRING ");
    CHECK(stored(ValueInput::number("4.20e1")) == "NUMBER 4.20e1");
    CHECK(stored(ValueInput::boolean(true)) == "BOOLEAN true");
    CHECK(stored(ValueInput::boolean(false)) == "BOOLEAN false");
    CHECK(stored(ValueInput::json(R"({"a": 1.10})")) == R"(JSON {"a": 1.10})");
    CHECK(stored(ValueInput::json("[ ]")) == "JSON [ ]");
    CHECK(stored(ValueInput::bytes("\x00\xff"s)) == "BINARY \x00\xff"s);
}

TEST_CASE("a string may hold the text of any type that is asked for") {
    CHECK(stored(asking_for(ValueType::number, ValueInput::text("18446744073709551617"))) == "NUMBER 18446744073709551617");
    CHECK(stored(asking_for(ValueType::boolean, ValueInput::text("true"))) == "BOOLEAN true");
    CHECK(stored(asking_for(ValueType::json, ValueInput::text(" {\"a\":[1, 2]} "))) == "JSON  {\"a\":[1, 2]} ");
    CHECK(stored(asking_for(ValueType::binary, ValueInput::text("AP8="))) == "BINARY \x00\xff"s);
    CHECK(stored(asking_for(ValueType::string, ValueInput::text("true"))) == "STRING true");
}

TEST_CASE("a value keeps the digits and spaces it was written with") {
    CHECK(stored(ValueInput::number("-0.0")) == "NUMBER -0.0");
    CHECK(stored(ValueInput::number("1E400")) == "NUMBER 1E400");
    CHECK(stored(ValueInput::number("0.0000000001e-2147483639")) == "NUMBER 0.0000000001e-2147483639");
    CHECK(stored(ValueInput::json("{ \"b\":1.0,\n\"a\":\"\\u0041\" }")) == "JSON { \"b\":1.0,\n\"a\":\"\\u0041\" }");
}

TEST_CASE("what does not fit the type asked for is refused") {
    for (const char* text : {"", " 1", "1 ", "0x1", "01", "+1", "1,5", "NaN", "true", "\"1\"", "1e", "\xef\xbc\x91"}) {
        CAPTURE(text);
        CHECK(stored(asking_for(ValueType::number, ValueInput::text(text))) == "invalid-value value");
        CHECK(stored(ValueInput::number(text)) == "invalid-value value");
    }
    for (const char* text : {"", "True", "TRUE", "1", "yes", " true", "true ", "null"}) {
        CAPTURE(text);
        CHECK(stored(asking_for(ValueType::boolean, ValueInput::text(text))) == "invalid-value value");
    }
    for (const char* text : {"", "1", "\"text\"", "true", "null", "{", "{}x", "{\"a\":1,\"a\":2}", "[1,]", "[\"\\uD800\"]"}) {
        CAPTURE(text);
        CHECK(stored(asking_for(ValueType::json, ValueInput::text(text))) == "invalid-value value");
        CHECK(stored(ValueInput::json(text)) == "invalid-value value");
    }
    for (const char* text : {"AP8", "AP8=\n", " AP8=", "AP9=", "A===", "AP-_", "not base64"}) {
        CAPTURE(text);
        CHECK(stored(asking_for(ValueType::binary, ValueInput::text(text))) == "invalid-value value");
    }
}

TEST_CASE("a number, boolean or JSON value is not taken for another type") {
    const std::vector<ValueInput> inputs = {ValueInput::number("1"), ValueInput::boolean(true), ValueInput::json("[]")};
    const std::vector<ValueType> own = {ValueType::number, ValueType::boolean, ValueType::json};
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        for (const ValueType type :
             {ValueType::string, ValueType::json, ValueType::number, ValueType::boolean, ValueType::binary}) {
            CAPTURE(i);
            CAPTURE(kv::to_string(type));
            CHECK((stored(asking_for(type, inputs[i])) == "invalid-value value") == (type != own[i]));
        }
    }
}

TEST_CASE("bytes become any type whose text they are") {
    CHECK(stored(asking_for(ValueType::string, ValueInput::bytes("caf\xc3\xa9"))) == "STRING caf\xc3\xa9");
    CHECK(stored(asking_for(ValueType::string, ValueInput::bytes("caf\xe9"))) == "invalid-value value");
    CHECK(stored(asking_for(ValueType::number, ValueInput::bytes("12"))) == "NUMBER 12");
    CHECK(stored(asking_for(ValueType::number, ValueInput::bytes("12\n"))) == "invalid-value value");
    CHECK(stored(asking_for(ValueType::json, ValueInput::bytes("{}"))) == "JSON {}");
    // Bytes are never base64: they are what they are.
    CHECK(stored(asking_for(ValueType::binary, ValueInput::bytes("AP8="))) == "BINARY AP8=");
}

TEST_CASE("a string is valid UTF-8 and may hold a NUL") {
    CHECK(stored(ValueInput::text("a\0b"s)) == "STRING a\0b"s);
    CHECK(stored(ValueInput::text("\xff")) == "invalid-value value");
    CHECK(stored(ValueInput::text("\xed\xa0\x80")) == "invalid-value value");
}

TEST_CASE("a rotation keeps the type of the entry") {
    CHECK(stored(ValueInput::text("12"), ValueType::number) == "NUMBER 12");
    CHECK(stored(ValueInput::text("AP8="), ValueType::binary) == "BINARY \x00\xff"s);
    CHECK(stored(ValueInput::bytes("plain"), ValueType::string) == "STRING plain");
    CHECK(stored(ValueInput::number("12"), ValueType::string) == "invalid-value value");
    CHECK(stored(asking_for(ValueType::string, ValueInput::text("12")), ValueType::string) == "STRING 12");
    CHECK(stored(asking_for(ValueType::string, ValueInput::text("12")), ValueType::number) == "invalid-value valueType");
}

TEST_CASE("the size limit counts the bytes of the canonical form") {
    CHECK(stored(ValueInput::text("12345678"), {}, 8) == "STRING 12345678");
    CHECK(stored(ValueInput::text("123456789"), {}, 8) == "too-large value");
    CHECK(stored(ValueInput::bytes("123456789"), {}, 8) == "too-large value");
    CHECK(stored(asking_for(ValueType::binary, ValueInput::text("MTIzNDU2Nzg=")), {}, 8) == "BINARY 12345678");
    CHECK(stored(asking_for(ValueType::binary, ValueInput::text("MTIzNDU2Nzg5")), {}, 8) == "too-large value");
    CHECK(stored(asking_for(ValueType::binary, ValueInput::text("MTIzNDU2Nzg5MA==")), {}, 8) == "too-large value");
    auto value = kv::normalize(ValueInput::text("123456789"), {}, 8);
    REQUIRE(value == Errc::too_large);
    CHECK(value.error().limit == 8);
    CHECK(value.error().message == "the value is larger than 8 bytes");
}

TEST_CASE("a number has at most 1024 characters") {
    CHECK(stored(ValueInput::number(std::string(1024, '9'))).starts_with("NUMBER 999"));
    CHECK(stored(ValueInput::number(std::string(1025, '9'))) == "invalid-value value");
}

TEST_CASE("no error quotes the value") {
    const std::string secret = "s3cr3t";
    for (const ValueType type : {ValueType::json, ValueType::number, ValueType::boolean, ValueType::binary}) {
        for (const ValueInput& input : {ValueInput::text(secret + "!"), ValueInput::text("{\"" + secret + "\":1,\"" + secret + "\":2}")}) {
            auto value = kv::normalize(asking_for(type, input), {}, 1024);
            REQUIRE(value == Errc::invalid_value);
            CHECK(value.error().message.find(secret) == std::string::npos);
            CHECK(value.error().detail.find(secret) == std::string::npos);
            CHECK(value.error().field == "value");
        }
    }
}

TEST_CASE("an error tells what the value should have been") {
    CHECK(kv::normalize(asking_for(ValueType::number, ValueInput::text("x")), {}, 9).error().message ==
          "the value does not fit valueType NUMBER: it is not a JSON number");
    CHECK(kv::normalize(ValueInput::json("[1,]"), {}, 9).error().message ==
          "the value does not fit valueType JSON: it is not well-formed (malformed JSON: not a JSON value at byte 3)");
}

TEST_CASE("metadata is a JSON object of bounded size") {
    CHECK(kv::check_metadata("{}", 16));
    CHECK(kv::check_metadata("{}", 0));
    CHECK(kv::check_metadata(R"({"a":"12345678"})", 16));
    for (const char* text : {"", "[]", "null", "\"{}\"", "{", "{\"a\":1,\"a\":1}", "{} ,"}) {
        CAPTURE(text);
        auto checked = kv::check_metadata(text, 16);
        REQUIRE(checked == Errc::invalid_request);
        CHECK(checked.error().field == "metadata");
    }
    auto checked = kv::check_metadata(R"({"a":"123456789"})", 16);
    REQUIRE(checked == Errc::invalid_request);
    CHECK(checked.error().field == "metadata");
    CHECK(checked.error().limit == 16);
}
