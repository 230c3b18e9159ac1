#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/result.h"
#include "kv/secret.h"

// The one guard around RapidJSON, for libkv and kvd alike. What it reads is well-formed in every way we rely on:
// bounded depth and size, no duplicate members, valid UTF-8 without lone surrogates, numbers kept as their text.
namespace kv::json {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };

// One JSON value. `text` is the decoded string, the number's literal, or "true"/"false". [begin, end) is where it stands
// in the source. Strings are wiped on destruction. Movable, not copyable.
struct Node {
    Kind kind = Kind::null;
    std::string text;
    std::vector<std::string> names;  // of an object's members, beside `items`
    std::vector<Node> items;         // elements, or members' values
    std::size_t begin = 0;
    std::size_t end = 0;

    Node() = default;
    Node(Node&& other) noexcept = default;
    Node& operator=(Node&& other) noexcept;
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;
    ~Node();

    const Node* find(std::string_view name) const noexcept;  // member of an object; null if there is none
    std::string_view source(std::string_view document) const noexcept { return document.substr(begin, end - begin); }
};

struct Limits {
    std::size_t depth = 32;           // nested arrays and objects
    std::size_t nodes = 200'000;      // values in all
    std::size_t members = 10'000;     // of one object
};

// Reads exactly one JSON text (RFC 8259). Errc::malformed_body saying what and at which byte, never quoting the text. Raw NUL bytes, anything after
// the value, duplicate members (named in `field`), lone surrogates, invalid UTF-8 and depth beyond the limit are errors.
Result<Node> parse(std::string_view text, const Limits& limits = {});

// True if `text` is one JSON number (RFC 8259 section 6).
bool is_number(std::string_view text) noexcept;

// The number as an integer if it is one written without fraction and exponent and fits.
std::optional<std::int64_t> to_integer(const Node& number) noexcept;

// Writes JSON text. The caller nests correctly (asserted in debug builds). Its buffers are wiped.
class Writer {
public:
    Writer();
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    void begin_object();
    void end_object();
    void begin_array();
    void end_array();
    void key(std::string_view name);
    void string(std::string_view text);  // valid UTF-8
    void raw(std::string_view json);     // one complete JSON value, copied as it is
    void number(std::int64_t value);
    void number(std::uint64_t value);
    void boolean(bool value);
    void null();

    void member(std::string_view name, std::string_view text) { key(name), string(text); }
    void member(std::string_view name, const std::string& text) { key(name), string(text); }
    void member(std::string_view name, const char* text) { key(name), string(text); }
    void member(std::string_view name, bool value) { key(name), boolean(value); }
    void member(std::string_view name, std::uint64_t value) { key(name), number(value); }
    void member(std::string_view name, std::int64_t value) { key(name), number(value); }

    std::string_view text() const noexcept;
    std::string take();  // the caller wipes it where it holds a secret

private:
    void separate();
    void quote(std::string_view text);
    std::string out_;
    std::vector<char> first_;   // per open level: nothing written in it yet
    bool after_key_ = false;
};

// RFC 7396 on the text of two JSON values, result serialised compactly; numbers keep their text. `target` and `patch` were accepted by parse().
Result<std::string> merge_patch(std::string_view target, std::string_view patch);

// Overwrites a string's bytes and clears it.
void wipe(std::string& text) noexcept;

}  // namespace kv::json
