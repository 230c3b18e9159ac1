#include "json/json.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

namespace {

using namespace std::string_literals;
using kv::Errc;
using kv::json::Kind;
using kv::json::Node;
using kv::json::Writer;

// The tree as text: what kind each value is, what it holds and where it stands.
void dump(const Node& node, std::string& out) {
    constexpr const char* kinds[] = {"null", "boolean", "number", "string", "array", "object"};
    out += kinds[static_cast<int>(node.kind)];
    if (!node.text.empty()) out += " " + node.text;
    out += "@" + std::to_string(node.begin) + "-" + std::to_string(node.end);
    if (node.items.empty()) return;
    out += "(";
    for (std::size_t i = 0; i < node.items.size(); ++i) {
        if (i != 0) out += ", ";
        if (node.kind == Kind::object) out += node.names[i] + ": ";
        dump(node.items[i], out);
    }
    out += ")";
}

std::string read(std::string_view text) {
    auto node = kv::json::parse(text);
    if (!node) return node.error().message;
    std::string out;
    dump(*node, out);
    return out;
}

std::string string_in(std::string_view text) {
    auto node = kv::json::parse(text);
    if (!node) return "refused: " + node.error().message;
    return node->kind == Kind::string ? node->text : "no string";
}

std::string merged(std::string_view target, std::string_view patch) { return kv::json::merge_patch(target, patch).value(); }

}  // namespace

TEST_CASE("every kind of value is read, with the place where it stands") {
    CHECK(read("null") == "null@0-4");
    CHECK(read(" true ") == "boolean true@1-5");
    CHECK(read("\r\n\tfalse") == "boolean false@3-8");
    CHECK(read("-12.50e+3") == "number -12.50e+3@0-9");
    CHECK(read(R"("text")") == "string text@0-6");
    CHECK(read(R"("\"\\\/\b\f\n\r\t")") == "string \"\\/\b\f\n\r\t@0-18");
    CHECK(read("[]") == "array@0-2");
    CHECK(read("{}") == "object@0-2");
    CHECK(read(R"( [1, "a\n", [ ] , {"b" : null}] )") ==
          "array@1-31(number 1@2-3, string a\n@5-10, array@12-15, object@18-30(b: null@25-29))");
    CHECK(read(R"({"a":{"b":[true,""]},"c":0})") ==
          "object@0-27(a: object@5-20(b: array@10-19(boolean true@11-15, string@16-18)), c: number 0@25-26)");
}

TEST_CASE("the source of a value is its text as it was given") {
    const std::string_view text = R"({"value": { "a" : [1.50,  2] } , "n":-0})";
    auto node = kv::json::parse(text);
    REQUIRE(node);
    CHECK(node->find("value")->source(text) == R"({ "a" : [1.50,  2] })");
    CHECK(node->find("n")->source(text) == "-0");
    CHECK(node->find("absent") == nullptr);
}

TEST_CASE("numbers keep every digit") {
    for (const char* text : {"18446744073709551617", "1.10", "-0", "0.1e-7", "1E400", "0.0000000001e-2147483639", "1e99999999999999999999",
                             "123456789012345678901234567890.123456789012345678901234567890"}) {
        CAPTURE(text);
        auto node = kv::json::parse(text);
        REQUIRE(node);
        CHECK(node->text == text);
        CHECK(kv::json::is_number(text));
    }
    const std::string digits(5000, '7');
    CHECK(kv::json::parse("[" + digits + "]")->items.at(0).text == digits);
}

TEST_CASE("what is almost a number is refused") {
    for (const char* text : {"", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1.e5", "0x10", "1_000", "Infinity", "NaN", "-Infinity",
                             "1 2", "--1", "1e5.5", "\xd9\xa1"}) {
        CAPTURE(text);
        CHECK(kv::json::parse(text) == Errc::malformed_body);
        CHECK_FALSE(kv::json::is_number(text));
        CHECK(kv::json::parse("[" + std::string(text[0] == '\0' ? "," : text) + "]") == Errc::malformed_body);
    }
    CHECK_FALSE(kv::json::is_number(" 1"));
    CHECK_FALSE(kv::json::is_number("1 "));
    CHECK_FALSE(kv::json::is_number("1\0"s));
    CHECK_FALSE(kv::json::is_number("\"1\""));
}

TEST_CASE("an integer is one written as an integer that fits 64 bits") {
    const auto integer = [](const char* text) { return kv::json::to_integer(*kv::json::parse(text)); };
    CHECK(integer("0") == 0);
    CHECK(integer("-0") == 0);
    CHECK(integer("9223372036854775807") == INT64_MAX);
    CHECK(integer("-9223372036854775808") == INT64_MIN);
    CHECK_FALSE(integer("9223372036854775808"));
    CHECK_FALSE(integer("-9223372036854775809"));
    CHECK_FALSE(integer("1.0"));
    CHECK_FALSE(integer("1e3"));
    CHECK_FALSE(integer("\"1\""));
    CHECK_FALSE(integer("true"));
}

TEST_CASE("errors say what is wrong and at which byte, and quote nothing") {
    CHECK(read("") == "malformed JSON: no value at byte 0");
    CHECK(read("  ") == "malformed JSON: no value at byte 2");
    CHECK(read("{\"a\":1} x") == "malformed JSON: something after the value at byte 8");
    CHECK(read("1 2") == "malformed JSON: something after the value at byte 2");
    CHECK(read("[1 2]") == "malformed JSON: missing comma or closing bracket in an array at byte 3");
    CHECK(read("{\"a\" 1}") == "malformed JSON: missing colon after a member name at byte 5");
    CHECK(read("{\"a\":1 \"b\":2}") == "malformed JSON: missing comma or closing brace in an object at byte 7");
    CHECK(read("{a:1}") == "malformed JSON: missing member name in an object at byte 1");
    CHECK(read("\"secret") == "malformed JSON: string without end at byte 7");
    CHECK(read("\"a\\x\"") == "malformed JSON: unknown escape or control character in a string at byte 2");
    CHECK(read("\"a\nb\"") == "malformed JSON: unknown escape or control character in a string at byte 2");
    CHECK(read("\"\\u12g4\"") == "malformed JSON: malformed \\u escape at byte 1");
    CHECK(read("\xef\xbb\xbf{}") == "malformed JSON: not a JSON value at byte 0");
    CHECK(read("\"caf\xe9\"") == "malformed JSON: invalid UTF-8 at byte 4");
}

TEST_CASE("what only lenient readers accept is refused") {
    for (const char* text : {"{", "}", "[", "]", "[1,]", "{\"a\":1,}", "[,1]", "[1,,2]", "{,}", "{\"a\"}", "{\"a\":}", "{1:2}", "'a'", "nul",
                             "nulL", "True", "tru", "falsee", "truefalse", "/* */1", "1 // one", "{} {}", "[1}", "{\"a\":1]", "\"\\'\"",
                             "\"\\u 123\"", "\"\\u+123\"", "\"\x1f\"", "\"\t\"", ":", ",", "\\", "undefined", "[1]]", "\v1", "\xc2\xa0" "1"}) {
        CAPTURE(text);
        CHECK(kv::json::parse(text) == Errc::malformed_body);
    }
}

TEST_CASE("a raw NUL is an error wherever it stands") {
    CHECK(read("{\"a\":1}\0garbage"s) == "malformed JSON: NUL at byte 7");
    CHECK(read("{\"a\":1}\0"s) == "malformed JSON: NUL at byte 7");
    CHECK(read("\0"s) == "malformed JSON: NUL at byte 0");
    CHECK(read("\"a\0b\""s) == "malformed JSON: NUL at byte 2");
    CHECK(read("[1,\0 2]"s) == "malformed JSON: NUL at byte 3");
}

TEST_CASE("an escaped NUL is part of the string") {
    CHECK(string_in(R"("a\u0000b")") == "a\0b"s);
    CHECK(kv::json::parse(R"({"a\u0000b":1})")->names.at(0) == "a\0b"s);
}

TEST_CASE("a string decodes to the same text however it was escaped") {
    CHECK(string_in(R"("\u0041\u00e9\u20AC\ud83d\ude00")") == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(string_in("\"A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"") == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(string_in("\"\x7f\"") == "\x7f");
    for (std::size_t size = 0; size < 40; ++size) {
        for (std::size_t at = 0; at <= size; ++at) {
            const std::string before(at, 'x');
            const std::string after(size - at, 'y');
            CHECK(string_in("\"" + before + "\\n" + after + "\"") == before + "\n" + after);
            CHECK(string_in("\"" + before + "\xc3\xa9" + after + "\"") == before + "\xc3\xa9" + after);
            CHECK(kv::json::parse("\"" + before + "\n" + after + "\"") == Errc::malformed_body);
            CHECK(kv::json::parse("\"" + before + "\"" + after + "\"") == Errc::malformed_body);
        }
    }
}

TEST_CASE("a lone surrogate is refused, in names too") {
    for (const char* text : {R"("\uD800")", R"("\uDC00")", R"("\uDFFF")", R"("\uD83Dx")", R"("\uD83D\n")", R"("\uD83D\uD83D")",
                             R"("\uD83D\u0041")", R"("\uDE00\uD83D")", R"({"\uDC00":1})", "\"\xed\xa0\x80\"", "\"\xed\xb0\x80\""}) {
        CAPTURE(text);
        CHECK(kv::json::parse(text) == Errc::malformed_body);
    }
}

TEST_CASE("invalid UTF-8 is refused wherever it stands") {
    for (const char* bad : {"\xff", "\xc0\x80", "\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xf4\x90\x80\x80", "\xfe\xff"}) {
        CAPTURE(bad);
        CHECK(kv::json::parse("\"" + std::string(bad) + "\"") == Errc::malformed_body);
        CHECK(kv::json::parse("\"\\n" + std::string(bad) + "\"") == Errc::malformed_body);
        CHECK(kv::json::parse("{\"" + std::string(bad) + "\":1}") == Errc::malformed_body);
        CHECK(kv::json::parse("[1," + std::string(bad) + "]") == Errc::malformed_body);
    }
}

TEST_CASE("a member written twice is refused, and named unless it is part of a value") {
    auto twice = kv::json::parse(R"({"a":1,"b":2,"a":3})");
    REQUIRE(twice == Errc::malformed_body);
    CHECK(twice.error().field == "a");
    CHECK(twice.error().message == "malformed JSON: duplicate member before the value at byte 17");

    auto escaped = kv::json::parse(R"({"key":1,"k\u0065y":2})");
    REQUIRE(escaped == Errc::malformed_body);
    CHECK(escaped.error().field == "key");

    // Further in, the name may be part of a secret value.
    for (const char* text : {R"({"value":{"y":1,"y":1}})", R"([{"y":1,"y":1}])", R"({"entries":[{"value":{"x":{"y":1,"y":1}}}]})"}) {
        auto deep = kv::json::parse(text);
        REQUIRE(deep == Errc::malformed_body);
        CHECK(deep.error().field.empty());
    }

    CHECK(kv::json::parse(R"({"a":1,"A":2,"a ":3,"a\u0000":4,"":5})"));
    CHECK(kv::json::parse(R"([{"a":1},{"a":1}])"));
}

TEST_CASE("a member written twice is found among thousands") {
    std::string text = "{";
    for (int i = 0; i < 9'999; ++i) text += "\"member" + std::to_string(i) + "\":" + std::to_string(i) + ",";
    CHECK(kv::json::parse(text + "\"other\":0}"));
    auto twice = kv::json::parse(text + "\"member4711\":0}");
    REQUIRE(twice == Errc::malformed_body);
    CHECK(twice.error().field == "member4711");
    CHECK(twice.error().message.ends_with("at byte " + std::to_string(text.size() + 13)));
}

TEST_CASE("a name too long to show is not shown") {
    const std::string name(300, 'n');
    auto twice = kv::json::parse("{\"" + name + "\":1,\"" + name + "\":2}");
    REQUIRE(twice == Errc::malformed_body);
    CHECK(twice.error().field.empty());
}

TEST_CASE("nesting ends at 32 levels") {
    CHECK(kv::json::parse(std::string(32, '[') + std::string(32, ']')));
    CHECK(read(std::string(33, '[') + std::string(33, ']')) == "malformed JSON: nested deeper than 32 levels at byte 32");
    CHECK(read(std::string(1'000'000, '[')) == "malformed JSON: nested deeper than 32 levels at byte 32");
    std::string objects;
    for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
    CHECK(read(objects) == "malformed JSON: nested deeper than 32 levels at byte 160");
}

TEST_CASE("the number of values and of members is bounded") {
    kv::json::Limits limits;
    limits.nodes = 4;
    CHECK(kv::json::parse("[1,2,3]", limits));
    CHECK(kv::json::parse("[1,2,3,4]", limits) == Errc::malformed_body);
    CHECK(kv::json::parse("[1,[2,3]]", limits) == Errc::malformed_body);
    limits = {};
    limits.members = 2;
    CHECK(kv::json::parse(R"({"a":1,"b":2})", limits));
    CHECK(kv::json::parse(R"({"a":1,"b":2,"c":3})", limits) == Errc::malformed_body);
    std::string wide = "[0";
    for (int i = 0; i < 200'000; ++i) wide += ",0";
    CHECK(read(wide + "]") == "malformed JSON: more than 200000 values at byte 399999");
}

TEST_CASE("every cut of a valid text is refused") {
    const std::string text = R"({"a":[1.5e3,"x\u00e9\ud83d\ude00y",null,{"b":true}],"c":"plain"})";
    REQUIRE(kv::json::parse(text));
    for (std::size_t size = 0; size < text.size(); ++size) {
        CAPTURE(size);
        CHECK(kv::json::parse(std::string_view(text).substr(0, size)) == Errc::malformed_body);
        // The same in memory that ends there, so that a read beyond it is seen by the address sanitizer.
        const std::vector<char> exact(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK(kv::json::parse({exact.data(), exact.size()}) == Errc::malformed_body);
    }
}

TEST_CASE("damaged text is refused, or read as something that can be written again") {
    const std::string text = R"({"a":[1.5e3,"x\u00e9\ud83d\ude00y",null,{"b":true}],"c":"plain \" text","d":-0.0})";
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 20'000; ++round) {
        std::string damaged = text;
        for (unsigned hits = random() % 3 + 1; hits > 0; --hits) damaged[random() % damaged.size()] = static_cast<char>(random());
        if (!kv::json::parse(damaged)) continue;
        const std::string rewritten = merged("0", "[" + damaged + "]");
        CHECK(kv::json::parse(rewritten));
        CHECK(merged("0", rewritten) == rewritten);
    }
}

TEST_CASE("moving a node takes its contents along and wipes what was there") {
    auto node = kv::json::parse(R"({"a":["first","second"]})");
    REQUIRE(node);
    Node moved = std::move(*node);
    CHECK(moved.find("a")->items.at(1).text == "second");
    Node target = std::move(*kv::json::parse(R"("old")"));
    target = std::move(moved);
    CHECK(target.kind == Kind::object);
    CHECK(target.text.empty());
    CHECK(target.find("a")->items.at(0).text == "first");
}

TEST_CASE("wiping overwrites a string's memory") {
    std::string text = "a secret of more than fifteen bytes";
    const char* const memory = text.data();
    kv::json::wipe(text);
    CHECK(text.empty());
    CHECK(text.data() == memory);
    text.resize(20);
    CHECK(text == std::string(20, '\0'));
}

TEST_CASE("the writer separates members and elements") {
    Writer writer;
    writer.begin_object();
    writer.member("text", "value");
    writer.member("number", std::uint64_t{18446744073709551615u});
    writer.member("negative", std::int64_t{INT64_MIN});
    writer.member("flag", true);
    writer.key("list");
    writer.begin_array();
    writer.number(std::int64_t{1});
    writer.null();
    writer.boolean(false);
    writer.string("x");
    writer.begin_object();
    writer.end_object();
    writer.begin_array();
    writer.end_array();
    writer.raw(R"({"as":  "given"})");
    writer.end_array();
    writer.key("");
    writer.null();
    writer.end_object();
    const std::string expected =
        R"({"text":"value","number":18446744073709551615,"negative":-9223372036854775808,"flag":true,)"
        R"("list":[1,null,false,"x",{},[],{"as":  "given"}],"":null})";
    CHECK(writer.text() == expected);
    CHECK(writer.take() == expected);
    writer.string("used again");
    CHECK(writer.text() == R"("used again")");
}

TEST_CASE("the writer escapes what JSON must have escaped and nothing else") {
    Writer writer;
    writer.string("\"\\/\b\f\n\r\t\v\x01\x1f\x7f caf\xc3\xa9 \xe2\x80\xa8"s + '\0');
    CHECK(writer.text() == "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u000b\\u0001\\u001f\x7f caf\xc3\xa9 \xe2\x80\xa8\\u0000\"");
}

TEST_CASE("any text that is written is read back the same") {
    std::mt19937 random(7);
    for (int round = 0; round < 2'000; ++round) {
        std::string text(random() % 60, 'x');
        for (char& c : text) {
            if (random() % 3 == 0) c = static_cast<char>(random() % 128);
        }
        Writer writer;
        writer.begin_object();
        writer.member(text, text);
        writer.end_object();
        auto node = kv::json::parse(writer.text());
        REQUIRE(node);
        CHECK(node->names.at(0) == text);
        CHECK(node->items.at(0).text == text);
    }
}

TEST_CASE("a long text outgrows the writer's first memory") {
    const std::string part(1000, 'p');
    Writer writer;
    writer.begin_array();
    for (int i = 0; i < 100; ++i) writer.string(part);
    writer.end_array();
    auto node = kv::json::parse(writer.text());
    REQUIRE(node);
    CHECK(node->items.size() == 100);
    CHECK(node->items.at(99).text == part);
}

TEST_CASE("merge patch does what the examples of RFC 7396 say") {
    const std::vector<std::vector<const char*>> examples = {
        {R"({"a":"b"})", R"({"a":"c"})", R"({"a":"c"})"},
        {R"({"a":"b"})", R"({"b":"c"})", R"({"a":"b","b":"c"})"},
        {R"({"a":"b"})", R"({"a":null})", R"({})"},
        {R"({"a":"b","b":"c"})", R"({"a":null})", R"({"b":"c"})"},
        {R"({"a":["b"]})", R"({"a":"c"})", R"({"a":"c"})"},
        {R"({"a":"c"})", R"({"a":["b"]})", R"({"a":["b"]})"},
        {R"({"a":{"b":"c"}})", R"({"a":{"b":"d","c":null}})", R"({"a":{"b":"d"}})"},
        {R"({"a":[{"b":"c"}]})", R"({"a":[1]})", R"({"a":[1]})"},
        {R"(["a","b"])", R"(["c","d"])", R"(["c","d"])"},
        {R"({"a":"b"})", R"(["c"])", R"(["c"])"},
        {R"({"a":"foo"})", R"(null)", R"(null)"},
        {R"({"a":"foo"})", R"("bar")", R"("bar")"},
        {R"({"e":null})", R"({"a":1})", R"({"e":null,"a":1})"},
        {R"([1,2])", R"({"a":"b","c":null})", R"({"a":"b"})"},
        {R"({})", R"({"a":{"bb":{"ccc":null}}})", R"({"a":{"bb":{}}})"}};
    for (const auto& example : examples) CHECK(merged(example[0], example[1]) == example[2]);
}

TEST_CASE("merge patch keeps numbers and the order of members, and drops white space") {
    CHECK(merged(R"({ "z" : 1.10 , "a" : "x\ny" })", R"({"m": 18446744073709551617, "z": 2.50e1})") ==
          R"({"z":2.50e1,"a":"x\ny","m":18446744073709551617})");
}

TEST_CASE("merge patch finds its members among thousands") {
    std::string target = "{";
    std::string patch = "{";
    std::string expected = "{";
    for (int i = 0; i < 3000; ++i) {
        const std::string name = "\"" + std::to_string(i) + "\":";
        target += (i == 0 ? "" : ",") + name + "1";
        patch += (i == 0 ? "" : ",") + name + (i % 2 == 0 ? "null" : "2");
        if (i % 2 != 0) expected += (i == 1 ? "" : ",") + name + "2";
    }
    CHECK(merged(target + "}", patch + "}") == expected + "}");
}

TEST_CASE("merge patch refuses what is no JSON") {
    CHECK(kv::json::merge_patch("{", "{}") == Errc::malformed_body);
    CHECK(kv::json::merge_patch("{}", "{\"a\":1,\"a\":2}") == Errc::malformed_body);
}
