#include "json/json.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cstring>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <system_error>
#include <tuple>

#include "text.h"

namespace kv::json {
namespace {

// What RapidJSON calls its own mistake must neither abort a server nor, in a release build, go unnoticed.
struct ReaderAssertion : std::logic_error {
    ReaderAssertion() : std::logic_error("JSON reader") {}
};

}  // namespace
}  // namespace kv::json

// A namespace of its own, so that these settings cannot mix with those of a host that also uses RapidJSON.
#define RAPIDJSON_NAMESPACE kv_rapidjson
#define RAPIDJSON_ASSERT(x) \
    if (!(x)) throw ::kv::json::ReaderAssertion()
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdangling-else"
#endif
#include <rapidjson/error/error.h>
#include <rapidjson/reader.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace kv::json {
namespace {

namespace rapid = kv_rapidjson;

// How many bytes stand before the first that JSON writes escaped: a quote, a backslash or a control character.
std::size_t plain_length(std::string_view text) noexcept {
    constexpr std::uint64_t ones = 0x0101'0101'0101'0101u;
    constexpr std::uint64_t highs = ones * 0x80;
    std::size_t at = 0;
    for (; at + 8 <= text.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, text.data() + at, sizeof word);
        // A byte that is below its subtrahend and has no high bit borrows: its own high bit comes out set. A borrow
        // only reaches further once such a byte was found, so "any" is exact.
        const std::uint64_t quote = word ^ ones * '"';
        const std::uint64_t backslash = word ^ ones * '\\';
        const std::uint64_t found =
            ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash);
        if ((found & highs) != 0) break;
    }
    for (; at < text.size(); ++at) {
        const auto byte = static_cast<unsigned char>(text[at]);
        if (byte < 0x20 || byte == '"' || byte == '\\') break;
    }
    return at;
}

std::size_t digits_length(std::string_view text) noexcept {
    std::size_t length = 0;
    while (length < text.size() && text[length] >= '0' && text[length] <= '9') ++length;
    return length;
}

// The length of the number `text` begins with; 0 if it begins with none, or with one that breaks off.
std::size_t number_length(std::string_view text) noexcept {
    std::size_t at = text.starts_with('-') ? 1 : 0;
    const std::size_t whole = text.substr(at).starts_with('0') ? 1 : digits_length(text.substr(at));
    if (whole == 0) return 0;
    at += whole;
    if (at < text.size() && text[at] == '.') {
        const std::size_t fraction = digits_length(text.substr(at + 1));
        if (fraction == 0) return 0;
        at += 1 + fraction;
    }
    if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
        ++at;
        if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
        const std::size_t exponent = digits_length(text.substr(at));
        if (exponent == 0) return 0;
        at += exponent;
    }
    return at;
}

// The stack on which RapidJSON decodes strings: it may hold secrets, so memory is wiped before it is given back.
class WipingAllocator {
public:
    void* Malloc(std::size_t size) {
        if (size == 0) return nullptr;
        auto* block = static_cast<Header*>(::operator new(sizeof(Header) + size));
        block->size = size;
        return block + 1;
    }
    void* Realloc(void* old, std::size_t old_size, std::size_t size) {
        void* grown = Malloc(size);
        if (old != nullptr && grown != nullptr) std::memcpy(grown, old, std::min(old_size, size));
        Free(old);
        return grown;
    }
    static void Free(void* memory) {
        if (memory == nullptr) return;
        Header* block = static_cast<Header*>(memory) - 1;
        secure_wipe(memory, block->size);
        ::operator delete(block);
    }

private:
    struct alignas(std::max_align_t) Header {
        std::size_t size;
    };
};

// The text as RapidJSON reads it. Strings without escapes and numbers are cut out here, at the start of a token, and
// RapidJSON is shown `""` and `0` in their place: plain strings need no copy byte by byte, and RapidJSON's own number
// reader, which counts exponents in an int and refuses what exceeds a double, never sees a digit.
class Source {
public:
    using Ch = char;

    explicit Source(std::string_view text) : text_(text), at_(text.data()), stop_(text.data() + text.size()) {}

    Ch Peek() const { return at_ != stop_ ? *at_ : '\0'; }
    Ch Take() { return at_ != stop_ ? *at_++ : '\0'; }
    std::size_t Tell() const { return is_cut_ ? token_end_ : static_cast<std::size_t>(at_ - text_.data()); }

    // Only parsing in place needs these.
    Ch* PutBegin() { throw ReaderAssertion(); }
    void Put(Ch) { throw ReaderAssertion(); }
    void Flush() { throw ReaderAssertion(); }
    std::size_t PutEnd(Ch*) { throw ReaderAssertion(); }

    // RapidJSON calls this exactly before each token and after the last.
    void next_token() {
        if (is_cut_) resume();
        while (at_ != stop_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
        token_begin_ = Tell();
        const char first = Peek();
        if (first == '"') {
            cut_string();
        } else if (first == '-' || (first >= '0' && first <= '9')) {
            cut_number();
        }
    }

    std::size_t token_begin() const { return token_begin_; }
    // What was cut out in place of the token, without quotes; empty if RapidJSON read the token itself.
    std::optional<std::string_view> cut() const {
        if (!is_cut_) return std::nullopt;
        return cut_;
    }

private:
    void cut_string() {
        const std::string_view rest = text_.substr(token_begin_ + 1);
        const std::size_t length = plain_length(rest);
        if (length < rest.size() && rest[length] == '"') cut_out(rest.substr(0, length), length + 2, "\"\"");
    }
    void cut_number() {
        const std::string_view rest = text_.substr(token_begin_);
        const std::size_t length = number_length(rest);
        if (length != 0) cut_out(rest.substr(0, length), length, "0");
    }
    void cut_out(std::string_view what, std::size_t token_length, std::string_view shown) {
        cut_ = what;
        is_cut_ = true;
        token_end_ = token_begin_ + token_length;
        at_ = shown.data();
        stop_ = shown.data() + shown.size();
    }
    void resume() {
        is_cut_ = false;
        at_ = text_.data() + token_end_;
        stop_ = text_.data() + text_.size();
    }

    std::string_view text_;
    const char* at_;
    const char* stop_;
    std::size_t token_begin_ = 0;
    std::size_t token_end_ = 0;
    std::string_view cut_;
    bool is_cut_ = false;
};

// Found by argument-dependent lookup, before RapidJSON's own template.
void SkipWhitespace(Source& source) { source.next_token(); }

constexpr std::size_t small_object_members = 8;

// The positions of an object's members in the order of their names, equal names in the order they were written.
std::vector<std::uint32_t> sorted_by_name(const Node& object) {
    std::vector<std::uint32_t> order(object.names.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return std::tie(object.names[a], a) < std::tie(object.names[b], b);
    });
    return order;
}

// The position of a member whose name an earlier one has.
std::optional<std::size_t> find_duplicate(const Node& object) {
    const std::vector<std::string>& names = object.names;
    if (names.size() <= small_object_members) {
        for (std::size_t i = 1; i < names.size(); ++i) {
            if (std::find(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), names[i]) !=
                names.begin() + static_cast<std::ptrdiff_t>(i)) {
                return i;
            }
        }
        return std::nullopt;
    }
    const std::vector<std::uint32_t> order = sorted_by_name(object);
    const auto first = std::adjacent_find(order.begin(), order.end(),
                                          [&](std::uint32_t a, std::uint32_t b) { return names[a] == names[b]; });
    if (first == order.end()) return std::nullopt;
    return *std::next(first);
}

// Builds the tree from RapidJSON's events and judges what RapidJSON does not. An event answers false to stop.
class TreeBuilder {
public:
    TreeBuilder(Source& source, const Limits& limits, Node& root) : source_(source), limits_(limits), root_(root) {}

    // Where it stopped; nothing is wrong while `what` is empty.
    struct Fault {
        std::string what;
        std::size_t at = 0;
        std::string member = {};
    };
    const Fault& fault() const { return fault_; }

    bool Null() { return add_leaf(Kind::null, {}); }
    bool Bool(bool value) { return add_leaf(Kind::boolean, value ? "true" : "false"); }
    bool RawNumber(const char*, rapid::SizeType, bool) {
        return source_.cut() ? add_leaf(Kind::number, *source_.cut()) : fail("malformed number", source_.token_begin());
    }
    bool String(const char* text, rapid::SizeType size, bool) {
        const std::string_view decoded = source_.cut().value_or(std::string_view(text, size));
        return check_surrogates(decoded) && add_leaf(Kind::string, decoded);
    }
    bool StartObject() { return open(Kind::object); }
    bool StartArray() { return open(Kind::array); }
    bool Key(const char* text, rapid::SizeType size, bool) {
        const std::string_view decoded = source_.cut().value_or(std::string_view(text, size));
        if (!check_surrogates(decoded)) return false;
        Node& object = *open_.back();
        if (object.names.size() == limits_.members) {
            return fail("more than " + std::to_string(limits_.members) + " members in one object", source_.token_begin());
        }
        // Request bodies are flat: this spares the outermost object, and only it, most of its growing.
        if (open_.size() == 1 && object.names.empty()) {
            object.names.reserve(small_object_members);
            object.items.reserve(small_object_members);
        }
        object.names.emplace_back(decoded);
        return true;
    }
    bool EndObject(rapid::SizeType) {
        const Node& object = *open_.back();
        if (const auto duplicate = find_duplicate(object)) {
            // Further in, a name is part of what the member of a request holds: of a secret, perhaps.
            if (open_.size() == 1) fault_.member = object.names[*duplicate];
            return fail("duplicate member before the value", object.items[*duplicate].begin);
        }
        return close();
    }
    bool EndArray(rapid::SizeType) { return close(); }

    // Numbers arrive as text only.
    bool Int(int) { return false; }
    bool Uint(unsigned) { return false; }
    bool Int64(std::int64_t) { return false; }
    bool Uint64(std::uint64_t) { return false; }
    bool Double(double) { return false; }

private:
    bool fail(std::string what, std::size_t at) {
        fault_.what = std::move(what);
        fault_.at = at;
        return false;
    }

    // The source is valid UTF-8 as a whole, so only an escape can have made a string that is not.
    bool check_surrogates(std::string_view decoded) {
        if (source_.cut() || is_valid_utf8(decoded)) return true;
        return fail("lone surrogate in the string", source_.token_begin());
    }

    Node* place(Kind kind) {
        if (nodes_++ == limits_.nodes) {
            fail("more than " + std::to_string(limits_.nodes) + " values", source_.token_begin());
            return nullptr;
        }
        Node& node = open_.empty() ? root_ : open_.back()->items.emplace_back();
        node.kind = kind;
        node.begin = source_.token_begin();
        return &node;
    }

    bool add_leaf(Kind kind, std::string_view text) {
        Node* node = place(kind);
        if (node == nullptr) return false;
        node->text = text;
        node->end = source_.Tell();
        return true;
    }

    // An open node stays where it is: its parent's items grow again only after it is closed.
    bool open(Kind kind) {
        if (open_.size() == limits_.depth) {
            return fail("nested deeper than " + std::to_string(limits_.depth) + " levels", source_.token_begin());
        }
        Node* node = place(kind);
        if (node != nullptr) open_.push_back(node);
        return node != nullptr;
    }

    bool close() {
        open_.back()->end = source_.Tell() + 1;  // the bracket is not taken yet
        open_.pop_back();
        return true;
    }

    Source& source_;
    const Limits& limits_;
    Node& root_;
    std::vector<Node*> open_;
    std::size_t nodes_ = 0;
    Fault fault_;
};

const char* describe(rapid::ParseErrorCode code) {
    switch (code) {
        case rapid::kParseErrorDocumentEmpty: return "no value";
        case rapid::kParseErrorDocumentRootNotSingular: return "something after the value";
        case rapid::kParseErrorObjectMissName: return "missing member name in an object";
        case rapid::kParseErrorObjectMissColon: return "missing colon after a member name";
        case rapid::kParseErrorObjectMissCommaOrCurlyBracket: return "missing comma or closing brace in an object";
        case rapid::kParseErrorArrayMissCommaOrSquareBracket: return "missing comma or closing bracket in an array";
        case rapid::kParseErrorStringUnicodeEscapeInvalidHex: return "malformed \\u escape";
        case rapid::kParseErrorStringUnicodeSurrogateInvalid: return "lone surrogate in a string";
        case rapid::kParseErrorStringEscapeInvalid: return "unknown escape or control character in a string";
        case rapid::kParseErrorStringMissQuotationMark: return "string without end";
        case rapid::kParseErrorStringInvalidEncoding: return "invalid UTF-8";
        case rapid::kParseErrorNumberTooBig:
        case rapid::kParseErrorNumberMissFraction:
        case rapid::kParseErrorNumberMissExponent: return "malformed number";
        default: return "not a JSON value";
    }
}

Error malformed(std::string_view what, std::size_t at) {
    return {Errc::malformed_body, "malformed JSON: " + std::string(what) + " at byte " + std::to_string(at)};
}

// Names no member that could not be shown whole.
constexpr std::size_t shown_name_bytes_max = 255;

Error to_error(const TreeBuilder::Fault& fault) {
    Error error = malformed(fault.what, fault.at);
    if (fault.member.size() <= shown_name_bytes_max) error.field = fault.member;
    return error;
}

// RapidJSON counts a string's bytes in 32 bits.
constexpr std::size_t text_bytes_max = std::size_t{1} << 30;

// Bytes that no part of a JSON text may hold. RapidJSON would take a NUL for the end, and look at UTF-8 in strings only.
Result<void> check_bytes(std::string_view text) {
    if (text.size() > text_bytes_max) return malformed("too long", text_bytes_max);
    if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) return malformed("NUL", nul);
    if (const std::size_t valid = valid_utf8_prefix(text); valid != text.size()) return malformed("invalid UTF-8", valid);
    return {};
}

// Members of an object by name, without a search through all of them for each.
class Members {
public:
    explicit Members(const Node& object) : object_(object) {
        if (object.names.size() > small_object_members) order_ = sorted_by_name(object);
    }
    const Node* find(std::string_view name) const {
        if (order_.empty()) return object_.find(name);
        const auto found = std::lower_bound(order_.begin(), order_.end(), name, [&](std::uint32_t at, std::string_view wanted) {
            return object_.names[at] < wanted;
        });
        return found != order_.end() && object_.names[*found] == name ? &object_.items[*found] : nullptr;
    }

private:
    const Node& object_;
    std::vector<std::uint32_t> order_;
};

// Marks of a writer's open level: what it is, and whether something was written in it yet.
constexpr char fresh_object = '{';
constexpr char used_object = '}';
constexpr char fresh_array = '[';
constexpr char used_array = ']';

[[maybe_unused]] bool is_object(char level) { return level == fresh_object || level == used_object; }

void grow(std::string& out, std::size_t more) {
    std::string larger;
    larger.reserve(std::max(out.capacity() * 2, out.size() + more));
    larger.append(out);
    wipe(out);
    out = std::move(larger);
}

// Makes room for so much more without leaving outgrown, unwiped memory behind.
inline void make_room(std::string& out, std::size_t more) {
    if (out.capacity() - out.size() < more) grow(out, more);
}

inline void append(std::string& out, std::string_view text) {
    make_room(out, text.size());
    out.append(text);
}

inline void append(std::string& out, char byte) {
    make_room(out, 1);
    out.push_back(byte);
}

void append_escaped(std::string& out, char plain) {
    constexpr std::string_view letters = "btn?fr";  // of U+0008 to U+000D
    if (plain == '"' || plain == '\\') {
        const char escape[] = {'\\', plain};
        append(out, {escape, 2});
    } else if (plain >= '\b' && plain <= '\r' && plain != '\v') {
        const char escape[] = {'\\', letters[static_cast<std::size_t>(plain - '\b')]};
        append(out, {escape, 2});
    } else {
        append(out, "\\u00");
        append(out, hex_encode({&plain, 1}));
    }
}

// Decimal digits in the caller's buffer.
using NumberText = std::array<char, 24>;

template <class T>
std::string_view to_text(T value, NumberText& buffer) {
    const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
    return {buffer.data(), static_cast<std::size_t>(result.ptr - buffer.data())};
}

// The recursion of these two ends at the depth that parse() allowed.
void write_node(const Node& node, Writer& writer) {
    switch (node.kind) {
        case Kind::null: return writer.null();
        case Kind::boolean:
        case Kind::number: return writer.raw(node.text);
        case Kind::string: return writer.string(node.text);
        case Kind::array:
            writer.begin_array();
            for (const Node& item : node.items) write_node(item, writer);
            return writer.end_array();
        case Kind::object:
            writer.begin_object();
            for (std::size_t i = 0; i < node.items.size(); ++i) {
                writer.key(node.names[i]);
                write_node(node.items[i], writer);
            }
            return writer.end_object();
    }
}

void write_merged(const Node& target, const Node& patch, Writer& writer) {
    if (patch.kind != Kind::object) return write_node(patch, writer);
    static const Node nothing;
    const Node& base = target.kind == Kind::object ? target : nothing;
    const Members patched(patch);
    const Members present(base);
    writer.begin_object();
    for (std::size_t i = 0; i < base.items.size(); ++i) {
        const Node* change = patched.find(base.names[i]);
        if (change != nullptr && change->kind == Kind::null) continue;
        writer.key(base.names[i]);
        change != nullptr ? write_merged(base.items[i], *change, writer) : write_node(base.items[i], writer);
    }
    for (std::size_t i = 0; i < patch.items.size(); ++i) {
        if (patch.items[i].kind == Kind::null || present.find(patch.names[i]) != nullptr) continue;
        writer.key(patch.names[i]);
        write_merged(nothing, patch.items[i], writer);
    }
    writer.end_object();
}

}  // namespace

Node& Node::operator=(Node&& other) noexcept {
    if (this == &other) return *this;
    wipe(text);
    for (std::string& name : names) wipe(name);
    kind = other.kind;
    text = std::move(other.text);
    names = std::move(other.names);
    items = std::move(other.items);
    begin = other.begin;
    end = other.end;
    return *this;
}

Node::~Node() {
    wipe(text);
    for (std::string& name : names) wipe(name);
}

const Node* Node::find(std::string_view name) const noexcept {
    const auto found = std::find(names.begin(), names.end(), name);
    return found == names.end() ? nullptr : &items[static_cast<std::size_t>(found - names.begin())];
}

Result<Node> parse(std::string_view text, const Limits& limits) {
    KV_CHECK(check_bytes(text));
    Node root;
    Source source(text);
    TreeBuilder builder(source, limits, root);
    rapid::GenericReader<rapid::UTF8<>, rapid::UTF8<>, WipingAllocator> reader;
    try {
        constexpr unsigned flags = rapid::kParseIterativeFlag | rapid::kParseNumbersAsStringsFlag;
        const rapid::ParseResult result = reader.Parse<flags>(source, builder);
        if (!builder.fault().what.empty()) return to_error(builder.fault());
        // A token that was cut out is sound in itself: where RapidJSON complains, it stands in the wrong place.
        if (result.IsError()) return malformed(describe(result.Code()), source.cut() ? source.token_begin() : result.Offset());
    } catch (const ReaderAssertion&) {
        return malformed("not readable", source.Tell());
    }
    return root;
}

bool is_number(std::string_view text) noexcept { return !text.empty() && number_length(text) == text.size(); }

std::optional<std::int64_t> to_integer(const Node& number) noexcept {
    if (number.kind != Kind::number) return std::nullopt;
    std::int64_t value = 0;
    const char* const stop = number.text.data() + number.text.size();
    const auto [end, error] = std::from_chars(number.text.data(), stop, value);
    if (error != std::errc() || end != stop) return std::nullopt;
    return value;
}

Result<std::string> merge_patch(std::string_view target, std::string_view patch) {
    KV_TRY(const Node target_node, parse(target));
    KV_TRY(const Node patch_node, parse(patch));
    Writer writer;
    write_merged(target_node, patch_node, writer);
    return writer.take();
}

Writer::Writer() {
    out_.reserve(1024);  // enough for most, and so never in the object itself, from where a move would leave a copy behind
    first_.reserve(16);
}

Writer::~Writer() { wipe(out_); }

void Writer::separate() {
    if (after_key_) {
        after_key_ = false;
        return;
    }
    if (first_.empty()) {
        assert(out_.empty());  // one value in all
        return;
    }
    char& level = first_.back();
    assert(!is_object(level));  // a member needs its key first
    if (level == used_array) append(out_, ',');
    level = used_array;
}

void Writer::begin_object() {
    separate();
    append(out_, '{');
    first_.push_back(fresh_object);
}

void Writer::end_object() {
    assert(!first_.empty() && is_object(first_.back()) && !after_key_);
    first_.pop_back();
    append(out_, '}');
}

void Writer::begin_array() {
    separate();
    append(out_, '[');
    first_.push_back(fresh_array);
}

void Writer::end_array() {
    assert(!first_.empty() && !is_object(first_.back()));
    first_.pop_back();
    append(out_, ']');
}

void Writer::key(std::string_view name) {
    assert(!first_.empty() && is_object(first_.back()) && !after_key_);
    char& level = first_.back();
    if (level == used_object) append(out_, ',');
    level = used_object;
    quote(name);
    append(out_, ':');
    after_key_ = true;
}

void Writer::string(std::string_view text) {
    separate();
    quote(text);
}

void Writer::quote(std::string_view text) {
    make_room(out_, text.size() + 2);
    out_.push_back('"');
    for (;;) {
        const std::size_t plain = plain_length(text);
        append(out_, text.substr(0, plain));
        if (plain == text.size()) break;
        append_escaped(out_, text[plain]);
        text.remove_prefix(plain + 1);
    }
    append(out_, '"');
}

void Writer::raw(std::string_view json) {
    assert(!json.empty());
    separate();
    append(out_, json);
}

void Writer::number(std::int64_t value) {
    NumberText buffer;
    raw(to_text(value, buffer));
}

void Writer::number(std::uint64_t value) {
    NumberText buffer;
    raw(to_text(value, buffer));
}

void Writer::boolean(bool value) { raw(value ? "true" : "false"); }
void Writer::null() { raw("null"); }

std::string_view Writer::text() const noexcept { return out_; }

std::string Writer::take() {
    assert(first_.empty() && !after_key_);
    return std::exchange(out_, {});
}

void wipe(std::string& text) noexcept {
    text.resize(text.capacity());  // bytes beyond the size may be left over from longer contents
    secure_wipe(text.data(), text.size());
    text.clear();
}

}  // namespace kv::json
