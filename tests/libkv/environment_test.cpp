#include "environment.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "json/json.h"

namespace {

using namespace std::string_literals;
using kv::Errc;
using kv::Value;
using kv::ValueType;
using Format = kv::ExportEntries::Format;

struct Entry {
    std::string key_path;
    Value value;
};

Entry text_entry(std::string key_path, std::string_view text) { return {std::move(key_path), {ValueType::string, kv::SecretBytes(text)}}; }

kv::Result<kv::SecretBytes> try_render(const std::vector<Entry>& entries, Format format, std::string_view prefix = "") {
    std::vector<kv::ExportItem> items;
    for (const Entry& entry : entries) items.push_back({entry.key_path, &entry.value});
    return kv::render_environment(items, prefix, format);
}

std::string rendered(const std::vector<Entry>& entries, Format format, std::string_view prefix = "") {
    auto text = try_render(entries, format, prefix);
    return text ? std::string(text->reveal()) : "refused: " + text.error().message;
}

// The keys that were refused, and why.
std::string refused(const std::vector<Entry>& entries, Format format = Format::json, std::string_view prefix = "") {
    auto text = try_render(entries, format, prefix);
    if (text) return "rendered";
    std::string lines = std::string(kv::code_name(text.error().code)) + "\n";
    for (const kv::Error& item : text.error().items) lines += item.key_path + ": " + item.message + "\n";
    return lines;
}

// A file that is gone at the end of the test.
class TemporaryFile {
public:
    explicit TemporaryFile(std::string_view contents) {
        const int file = mkstemp(path_.data());
        REQUIRE(file >= 0);
        REQUIRE(write(file, contents.data(), contents.size()) == static_cast<ssize_t>(contents.size()));
        close(file);
    }
    ~TemporaryFile() { std::remove(path_.c_str()); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    const std::string& path() const { return path_; }

private:
    std::string path_ = "/tmp/kv-environment-XXXXXX";
};

std::string output_of(const std::string& command) {
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
    REQUIRE(pipe);
    std::string output;
    char buffer[4096];
    while (const std::size_t size = std::fread(buffer, 1, sizeof buffer, pipe.get())) output.append(buffer, size);
    return output;
}

bool succeeds(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

// Values that someone might have, and values that someone might think of.
std::vector<std::string> tricky_values() {
    std::vector<std::string> values = {"",
                                       "plain",
                                       "postgres://user:p%40ss@db/app?x=1&y=2#z",
                                       " leading and trailing ",
                                       "it's",
                                       "'",
                                       "''",
                                       "say \"hello\"",
                                       "it's \"both\"",
                                       "$HOME",
                                       "${HOME}",
                                       "$(touch /tmp/kv-was-run)",
                                       "`touch /tmp/kv-was-run`",
                                       "it's $HOME and `id`",
                                       "C:\\path\\new",
                                       "\\\\server\\share",
                                       "ends in a backslash\\",
                                       "\\",
                                       "it's\\",
                                       "\\n is not a line feed",
                                       "two\nlines",
                                       "\n",
                                       "ends in line feeds\n\n",
                                       "a # is no comment",
                                       "#",
                                       "=",
                                       "!history",
                                       "~",
                                       "{\"json\": [1, \"two\", null]}",
                                       "-----BEGIN KEY-----\nMIIB+/=\n-----END KEY-----\n",
                                       "caf\xc3\xa9 \xe2\x80\xa8\xe2\x80\xa9\xc2\x85\xc2\xa0 \xf0\x9f\x94\x91 \xef\xbb\xbf \xef\xbf\xbe",
                                       "null",
                                       "yes",
                                       "0x10",
                                       "\x01\x02\x1b[0m\x7f"};
    std::string ascii;
    for (int byte = 1; byte < 128; ++byte) ascii.push_back(static_cast<char>(byte));
    values.push_back(ascii);
    std::string points;  // every second byte of a two-byte sequence
    for (int byte = 0x80; byte < 0xc0; ++byte) points += {static_cast<char>(0xc3), static_cast<char>(byte)};
    values.push_back(points);
    return values;
}

std::vector<Entry> entries_of(const std::vector<std::string>& values) {
    std::vector<Entry> entries;
    for (std::size_t i = 0; i < values.size(); ++i) entries.push_back(text_entry("v" + std::to_string(i), values[i]));
    return entries;
}

bool has_carriage_return(const std::string& text) { return text.find('\r') != std::string::npos; }

// What a shell has in V0, V1... after reading the file.
std::vector<std::string> read_by_shell(const std::string& shell, const std::string& path, std::size_t count) {
    std::string command = shell + " -c '. " + path + "; printf \"%s\\\\000\"";
    for (std::size_t i = 0; i < count; ++i) command += " \"$V" + std::to_string(i) + "\"";
    const std::string output = output_of(command + "'");
    std::vector<std::string> values;
    for (std::size_t begin = 0; begin < output.size();) {
        const std::size_t end = output.find('\0', begin);
        values.push_back(output.substr(begin, end - begin));
        begin = end + 1;
    }
    return values;
}

// What a Python expression over the file's `path` gives, as JSON.
kv::Result<kv::json::Node> read_by_python(const std::string& modules, const std::string& expression, const std::string& path) {
    return kv::json::parse(
        output_of("python3 -c 'import json, sys, " + modules + "; path = sys.argv[1]; print(json.dumps(" + expression + "))' " + path));
}

bool python_has(const std::string& module) { return succeeds("python3 -c 'import " + module + "'"); }

}  // namespace

TEST_CASE("the folder is cut off and the rest of the key becomes a name") {
    const std::vector<Entry> entries = {text_entry("app/prod/db/host", "a"), text_entry("app/prod/log-level", "b"),
                                        text_entry("app/prod/API.key_2", "c"), text_entry("app/prod/_x", "d")};
    const std::string expected = R"({"DB_HOST":"a","LOG_LEVEL":"b","API_KEY_2":"c","_X":"d"})";
    CHECK(rendered(entries, Format::json, "app/prod") == expected);
    CHECK(rendered(entries, Format::json, "app/prod/") == expected);
    CHECK(rendered({entries[0]}, Format::json) == R"({"APP_PROD_DB_HOST":"a"})");
}

TEST_CASE("each format looks the way its readers expect") {
    const std::vector<Entry> entries = {text_entry("db/host", "db.example.com"), text_entry("motto", "it's \"on\"")};
    CHECK(rendered(entries, Format::dotenv) == "DB_HOST='db.example.com'\nMOTTO=\"it's \\\"on\\\"\"\n");
    CHECK(rendered(entries, Format::shell) == "export DB_HOST='db.example.com'\nexport MOTTO='it'\\''s \"on\"'\n");
    CHECK(rendered(entries, Format::yaml) == "DB_HOST: \"db.example.com\"\nMOTTO: \"it's \\\"on\\\"\"\n");
    CHECK(rendered(entries, Format::json) == R"({"DB_HOST":"db.example.com","MOTTO":"it's \"on\""})");
}

TEST_CASE("nothing to export is an empty file, or an empty mapping") {
    CHECK(rendered({}, Format::dotenv).empty());
    CHECK(rendered({}, Format::shell).empty());
    CHECK(rendered({}, Format::json) == "{}");
    CHECK(rendered({}, Format::yaml) == "{}\n");
}

TEST_CASE("every type of value is its text, and bytes are base64") {
    const std::vector<Entry> entries = {{"n", {ValueType::number, kv::SecretBytes("1.50")}},
                                        {"b", {ValueType::boolean, kv::SecretBytes("true")}},
                                        {"j", {ValueType::json, kv::SecretBytes(R"({"a": 1.0})")}},
                                        {"x", {ValueType::binary, kv::SecretBytes("\x00\xff"s)}},
                                        {"e", {ValueType::binary, kv::SecretBytes("")}}};
    CHECK(rendered(entries, Format::json) == R"({"N":"1.50","B":"true","J":"{\"a\": 1.0}","X":"AP8=","E":""})");
    CHECK(rendered(entries, Format::shell) ==
          "export N='1.50'\nexport B='true'\nexport J='{\"a\": 1.0}'\nexport X='AP8='\nexport E=''\n");
}

TEST_CASE("a key that makes no variable name is refused and named") {
    CHECK(refused({text_entry("ok", "1"), text_entry("1st", "x"), text_entry("a b", "x"), text_entry("caf\xc3\xa9", "x"), text_entry("a$b", "x"),
                   text_entry("a=b", "x")}) ==
          "name-conflict\n"
          "1st: its name would not be that of an environment variable\n"
          "a b: its name would not be that of an environment variable\n"
          "caf\xc3\xa9: its name would not be that of an environment variable\n"
          "a$b: its name would not be that of an environment variable\n"
          "a=b: its name would not be that of an environment variable\n");
    CHECK(refused({text_entry("folder/9lives", "x")}, Format::shell, "folder").starts_with("name-conflict"));
    CHECK(refused({text_entry("folder/9lives", "x")}) == "rendered");
}

TEST_CASE("keys that make the same name are refused, each of them") {
    CHECK(refused({text_entry("db/host", "1"), text_entry("other", "2"), text_entry("db-host", "3"), text_entry("DB_HOST", "4")}) ==
          "name-conflict\n"
          "db/host: its name would be that of another key\n"
          "db-host: its name would be that of another key\n"
          "DB_HOST: its name would be that of another key\n");
}

TEST_CASE("a NUL in a value is refused in every format, but not among bytes") {
    for (const Format format : {Format::dotenv, Format::json, Format::shell, Format::yaml}) {
        CHECK(refused({text_entry("ok", "1"), text_entry("nul", "a\0b"s)}, format) == "name-conflict\nnul: its value holds a NUL\n");
    }
    CHECK(refused({{"bytes", {ValueType::binary, kv::SecretBytes("a\0b"s)}}}) == "rendered");
}

TEST_CASE("a refusal never shows a value") {
    auto text = try_render({text_entry("a b", "s3cr3t"), text_entry("n", "s3cr3t\0"s)}, Format::dotenv);
    REQUIRE(text == Errc::name_conflict);
    CHECK(text.error().message == "2 keys cannot be environment variables");
    for (const kv::Error& item : text.error().items) CHECK(item.message.find("s3cr3t") == std::string::npos);
}

TEST_CASE("a shell reads back every byte of the shell format") {
    const std::vector<std::string> values = tricky_values();
    const TemporaryFile file(rendered(entries_of(values), Format::shell));
    for (const std::string shell : {"sh", "bash"}) {
        if (!succeeds(shell + " -c true")) continue;
        CAPTURE(shell);
        CHECK(read_by_shell(shell, file.path(), values.size()) == values);
    }
    CHECK(access("/tmp/kv-was-run", F_OK) != 0);
}

TEST_CASE("JSON readers read back every byte of the JSON format") {
    const std::vector<std::string> values = tricky_values();
    auto node = kv::json::parse(rendered(entries_of(values), Format::json));
    REQUIRE(node);
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(node->find("V" + std::to_string(i))->text == values[i]);
}

TEST_CASE("a YAML reader reads back every byte of the YAML format") {
    if (!python_has("yaml")) {
        MESSAGE("skipped: python3 has no yaml module");
        return;
    }
    const std::vector<std::string> values = tricky_values();
    const TemporaryFile file(rendered(entries_of(values), Format::yaml));
    auto node = read_by_python("yaml", "yaml.safe_load(open(path, \"rb\"))", file.path());
    REQUIRE(node);
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(node->find("V" + std::to_string(i))->text == values[i]);
}

TEST_CASE("names that YAML readers take for booleans or null stay names") {
    const std::vector<Entry> entries = {text_entry("no", "1"), text_entry("on", "2"), text_entry("null", "3"), text_entry("nope", "4")};
    CHECK(rendered(entries, Format::yaml) == "\"NO\": \"1\"\n\"ON\": \"2\"\n\"NULL\": \"3\"\nNOPE: \"4\"\n");
}

TEST_CASE("a shell that sources the dotenv format reads back every value without a carriage return") {
    std::vector<std::string> values;
    for (const std::string& value : tricky_values()) {
        if (!has_carriage_return(value)) values.push_back(value);
    }
    std::string ascii;
    for (int byte = 1; byte < 128; ++byte) {
        if (byte != '\r') ascii.push_back(static_cast<char>(byte));
    }
    values.push_back(ascii);
    const TemporaryFile file(rendered(entries_of(values), Format::dotenv));
    for (const std::string shell : {"sh", "bash"}) {
        if (!succeeds(shell + " -c true")) continue;
        CAPTURE(shell);
        CHECK(read_by_shell(shell, file.path(), values.size()) == values);
    }
    CHECK(access("/tmp/kv-was-run", F_OK) != 0);
}

TEST_CASE("the dotenv format is single-quoted where it can be and escaped where it must be") {
    const auto quoted = [](std::string_view value) { return rendered({text_entry("v", value)}, Format::dotenv); };
    CHECK(quoted("") == "V=''\n");
    CHECK(quoted("$HOME `id` \"x\" \\n #") == "V='$HOME `id` \"x\" \\n #'\n");
    CHECK(quoted("two\nlines") == "V='two\nlines'\n");
    CHECK(quoted("it's") == "V=\"it's\"\n");
    CHECK(quoted("it's $HOME `id` \"x\" \\n") == "V=\"it's \\$HOME \\`id\\` \\\"x\\\" \\\\n\"\n");
    CHECK(quoted("ends\\") == "V=\"ends\\\\\"\n");
    CHECK(quoted("dos\r\nlines\r\n") == "V=\"dos\\r\nlines\\r\n\"\n");
}

TEST_CASE("values that end in a backslash come last in the dotenv format") {
    CHECK(rendered({text_entry("a", "x\\"), text_entry("b", "it's"), text_entry("c", "y")}, Format::dotenv) ==
          "B=\"it's\"\nC='y'\nA=\"x\\\\\"\n");
}

TEST_CASE("python-dotenv reads back the dotenv format, but for backslash pairs and dollars beside quotes") {
    if (!python_has("dotenv")) {
        MESSAGE("skipped: python3 has no dotenv module");
        return;
    }
    std::vector<std::string> values = {"dos\r\nlines\r\n"};
    for (const std::string& value : tricky_values()) {
        const bool is_escaped = value.find_first_of("'\r") != std::string::npos || value.ends_with('\\');
        const bool has_dollar = value.find_first_of("$`") != std::string::npos;
        const bool has_pair = value.find("\\\\") != std::string::npos;
        const bool is_second_to_end_in_backslash = value.ends_with('\\') && value != "it's\\";
        if (!(is_escaped && has_dollar) && !has_pair && !is_second_to_end_in_backslash) values.push_back(value);
    }
    REQUIRE(values.size() > 25);
    const TemporaryFile file(rendered(entries_of(values), Format::dotenv));
    auto node = read_by_python("dotenv", "dotenv.dotenv_values(path, interpolate=False)", file.path());
    REQUIRE(node);
    for (std::size_t i = 0; i < values.size(); ++i) {
        CAPTURE(values[i]);
        const kv::json::Node* value = node->find("V" + std::to_string(i));
        REQUIRE(value != nullptr);
        CHECK(value->text == values[i]);
    }
}

TEST_CASE("a value that failed its integrity check is told in its place") {
    const kv::Value host{kv::ValueType::string, kv::SecretBytes("localhost")};
    const std::vector<kv::ExportItem> items = {{"db/host", &host}, {"db/password", nullptr}};
    const auto rendered = [&](Format format) {
        auto text = kv::render_environment(items, "db", format);
        return text ? std::string(text->reveal()) : text.error().message;
    };
    CHECK(rendered(Format::shell) == "export HOST='localhost'\n# PASSWORD: integrity\n");
    CHECK(rendered(Format::dotenv) == "HOST='localhost'\n# PASSWORD: integrity\n");
    CHECK(rendered(Format::yaml) == "HOST: \"localhost\"\n# PASSWORD: integrity\n");
    CHECK(rendered(Format::json) == R"({"HOST":"localhost","PASSWORD":{"error":"integrity"}})");
}
