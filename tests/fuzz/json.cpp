#include "json/json.h"

#include <cstring>
#include <functional>
#include <set>

#include "fuzz.h"
#include "kvd/json.h"
#include "text.h"

#define RAPIDJSON_NAMESPACE fuzz_rapidjson
#include <rapidjson/document.h>
#include <rapidjson/error/en.h>

// The JSON guard against RapidJSON read plainly: what the guard accepts RapidJSON reads as the same, what it refuses RapidJSON
// refuses too or one of our own rules does, and writing what was read changes nothing.
// Broken on purpose: duplicates looked for among objects of eight members at most (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

namespace rapid = fuzz_rapidjson;
using json::Kind;
using json::Node;

constexpr json::Limits limits{.depth = 8, .nodes = 64, .members = 12};

void write(const Node& node, json::Writer& out) {
    switch (node.kind) {
        case Kind::null: return out.null();
        case Kind::boolean:
        case Kind::number: return out.raw(node.text);
        case Kind::string: return out.string(node.text);
        case Kind::array:
            out.begin_array();
            for (const Node& item : node.items) write(item, out);
            return out.end_array();
        case Kind::object:
            out.begin_object();
            for (std::size_t i = 0; i < node.items.size(); ++i) {
                out.key(node.names[i]);
                write(node.items[i], out);
            }
            return out.end_object();
    }
}

std::string written(const Node& node) {
    json::Writer out;
    write(node, out);
    return out.take();
}

// ---- the second opinion ----

std::string_view text_of(const rapid::Value& value) { return {value.GetString(), value.GetStringLength()}; }

bool is_same(const Node& node, const rapid::Value& value) {
    switch (node.kind) {
        case Kind::null: return value.IsNull();
        case Kind::boolean: return value.IsBool() && (node.text == "true") == value.GetBool();
        case Kind::number: return value.IsString() && node.text == text_of(value);  // numbers were asked for as strings
        case Kind::string: return value.IsString() && node.text == text_of(value);
        case Kind::array:
            if (!value.IsArray() || value.Size() != node.items.size()) return false;
            for (rapid::SizeType i = 0; i < value.Size(); ++i) {
                if (!is_same(node.items[i], value[i])) return false;
            }
            return true;
        case Kind::object: break;
    }
    if (!value.IsObject() || value.MemberCount() != node.items.size()) return false;
    std::size_t i = 0;
    for (const auto& member : value.GetObject()) {
        if (node.names[i] != text_of(member.name) || !is_same(node.items[i], member.value)) return false;
        ++i;
    }
    return true;
}

// What RapidJSON takes and we do not.
struct Strictness {
    std::size_t nodes = 0;
    bool is_broken = false;

    void look(const rapid::Value& value, std::size_t depth) {
        if (++nodes > limits.nodes) is_broken = true;
        if (value.IsString() && !is_valid_utf8(text_of(value))) is_broken = true;  // a lone surrogate
        if ((value.IsArray() || value.IsObject()) && depth == limits.depth) is_broken = true;
        if (value.IsArray()) {
            for (const auto& item : value.GetArray()) look(item, depth + 1);
        }
        if (!value.IsObject()) return;
        std::set<std::string_view> names;
        for (const auto& member : value.GetObject()) {
            if (!is_valid_utf8(text_of(member.name)) || !names.insert(text_of(member.name)).second) is_broken = true;
            look(member.value, depth + 1);
        }
        if (names.size() > limits.members) is_broken = true;
    }
};

void check_places(const Node& node, std::string_view document) {
    KV_PROPERTY(node.begin < node.end && node.end <= document.size());
    auto again = json::parse(node.source(document), limits);
    KV_PROPERTY(again.has_value() && written(*again) == written(node));
    for (const Node& item : node.items) KV_PROPERTY(item.begin > node.begin && item.end < node.end);
}

void compare(std::string_view text) {
    const auto node = json::parse(text, limits);
    rapid::Document other;
    constexpr unsigned flags = rapid::kParseIterativeFlag | rapid::kParseNumbersAsStringsFlag | rapid::kParseValidateEncodingFlag;
    rapid::MemoryStream stream(text.data(), text.size());  // unlike Parse() it takes a byte order mark for what it is
    other.ParseStream<flags, rapid::UTF8<>>(stream);
    const bool other_reads = !other.HasParseError() && is_valid_utf8(text) && text.find('\0') == std::string_view::npos;
    if (!node) {
        KV_PROPERTY(node.error().code == Errc::malformed_body);
        Strictness strictness;
        if (other_reads) strictness.look(other, 0);
        KV_PROPERTY(!other_reads || strictness.is_broken);
        return;
    }
    // RapidJSON by itself counts what a double cannot hold among the errors, even where it only cuts numbers out.
    const bool has_opinion = other.GetParseError() != rapid::kParseErrorNumberTooBig;
    KV_PROPERTY(!has_opinion || (other_reads && is_same(*node, other)));
    Strictness strictness;
    if (has_opinion) strictness.look(other, 0);
    KV_PROPERTY(!strictness.is_broken);
    check_places(*node, text);
    const std::string once = written(*node);
    const auto again = json::parse(once, limits);
    KV_PROPERTY(again.has_value() && (!has_opinion || is_same(*again, other)) && written(*again) == once);
}

// RFC 7396: applying a patch twice is applying it once, and an empty one changes no object.
void merge(std::string_view target, std::string_view patch) {
    const auto once = json::merge_patch(target, patch);
    if (!once) return;
    const auto twice = json::merge_patch(*once, patch);
    KV_PROPERTY(twice.has_value() && *twice == *once);
    const auto unchanged = json::merge_patch(*once, "{}");
    const auto node = json::parse(*once);
    KV_PROPERTY(node.has_value() && unchanged.has_value());
    KV_PROPERTY(node->kind != Kind::object || *unchanged == *once);
}

template <class... Bodies>
void read_bodies(std::string_view text) {
    const auto read = [text](auto body) {
        const auto done = kvd::read_body(text, body);
        if (!done) {
            KV_PROPERTY(is_valid_utf8(done.error().message) && is_valid_utf8(done.error().field));
        }
    };
    (read(Bodies{}), ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::string text(input.rest());
    compare(text);
    const std::size_t middle = text.find('\n');
    if (middle != std::string::npos) merge(std::string_view(text).substr(0, middle), std::string_view(text).substr(middle + 1));
    read_bodies<CreateNamespace, UpdateNamespace, EntryWrite, PatchEntry, BulkGet, BulkSet, BulkDelete, RotateEntry, RollbackEntry,
                Precondition>(text);
    return 0;
}
