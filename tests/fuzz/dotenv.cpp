#include <map>
#include <optional>
#include <set>

#include "environment.h"
#include "fuzz.h"
#include "json/json.h"
#include "text.h"
#include "validate.h"

// Environment files: what a strict reader of each format reads back is what was exported, or the export was refused for a
// reason that is there.
// Broken on purpose: a backslash not escaped between double quotes of dotenv (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

using Format = ExportEntries::Format;
// A name, and its value; empty: it is told that the value failed its integrity check.
using Variables = std::map<std::string, std::optional<std::string>>;

// ---- readers ----

// All of them give nothing for what is not exactly of their form.
class Reader {
public:
    explicit Reader(std::string_view text) : rest_(text) {}
    bool at_end() const { return rest_.empty(); }
    bool skip(std::string_view expected) {
        if (!rest_.starts_with(expected)) return false;
        rest_.remove_prefix(expected.size());
        return true;
    }
    std::optional<char> take() {
        if (rest_.empty()) return std::nullopt;
        const char c = rest_.front();
        rest_.remove_prefix(1);
        return c;
    }
    std::string name() {
        const std::size_t end = std::min(rest_.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"), rest_.size());
        std::string name(rest_.substr(0, end));
        rest_.remove_prefix(end);
        return name;
    }
    // Two hex digits at a time.
    std::optional<std::uint32_t> hex(std::size_t digits) {
        const auto bytes = hex_decode(rest_.substr(0, digits));
        if (!bytes || bytes->size() != digits / 2) return std::nullopt;
        rest_.remove_prefix(digits);
        std::uint32_t number = 0;
        for (const char byte : bytes->reveal()) number = number << 8 | static_cast<std::uint8_t>(byte);
        return number;
    }

private:
    std::string_view rest_;
};

std::optional<std::string> read_single_quoted(Reader& in) {
    std::string value;
    while (const auto c = in.take()) {
        if (*c == '\'') return value;
        value += *c;
    }
    return std::nullopt;
}

// 'it'\''s'
std::optional<std::string> read_shell_word(Reader& in) {
    std::string value;
    if (!in.skip("'")) return std::nullopt;
    for (;;) {
        const auto part = read_single_quoted(in);
        if (!part) return std::nullopt;
        value += *part;
        if (!in.skip("\\''")) return value;
        value += '\'';
    }
}

// As docker compose reads it; whatever a shell would run or replace must not be there.
std::optional<std::string> read_dotenv_value(Reader& in) {
    if (in.skip("'")) return read_single_quoted(in);
    if (!in.skip("\"")) return std::nullopt;
    std::string value;
    while (const auto c = in.take()) {
        if (*c == '"') return value;
        if (*c == '$' || *c == '`') return std::nullopt;
        if (*c != '\\') {
            value += *c;
            continue;
        }
        const auto escaped = in.take();
        if (!escaped || std::string_view("\"\\$`r").find(*escaped) == std::string_view::npos) return std::nullopt;
        value += *escaped == 'r' ? '\r' : *escaped;
    }
    return std::nullopt;
}

void append_point(std::string& out, std::uint32_t point) {
    if (point < 0x80) {
        out += static_cast<char>(point);
    } else if (point < 0x800) {
        out += static_cast<char>(0xc0 | point >> 6);
        out += static_cast<char>(0x80 | (point & 63));
    } else {
        out += static_cast<char>(0xe0 | point >> 12);
        out += static_cast<char>(0x80 | (point >> 6 & 63));
        out += static_cast<char>(0x80 | (point & 63));
    }
}

std::optional<std::string> read_yaml_value(Reader& in) {
    std::string value;
    if (!in.skip("\"")) return std::nullopt;
    while (const auto c = in.take()) {
        const auto byte = static_cast<std::uint8_t>(*c);
        if (*c == '"') return value;
        if (byte < 0x20 || byte == 0x7f) return std::nullopt;
        if (*c != '\\') {
            value += *c;
            continue;
        }
        const auto escaped = in.take();
        if (!escaped) return std::nullopt;
        std::optional<std::uint32_t> point;
        switch (*escaped) {
            case 'n': point = '\n'; break;
            case 't': point = '\t'; break;
            case '"': point = '"'; break;
            case '\\': point = '\\'; break;
            case 'x': point = in.hex(2); break;
            case 'u': point = in.hex(4); break;
            default: break;
        }
        if (!point) return std::nullopt;
        append_point(value, *point);
    }
    return std::nullopt;
}

// "# NAME: integrity"
bool read_broken(Reader& in, Variables& variables) {
    if (!in.skip("# ")) return false;
    const std::string name = in.name();
    if (!in.skip(": integrity\n")) return false;
    return variables.emplace(name, std::nullopt).second;
}

template <class ReadLine>
std::optional<Variables> read_lines(std::string_view text, ReadLine read_line) {
    Variables variables;
    Reader in(text);
    while (!in.at_end()) {
        if (read_broken(in, variables)) continue;
        std::string name;
        std::optional<std::string> value = read_line(in, name);
        if (!value || !in.skip("\n") || !variables.emplace(name, std::move(value)).second) return std::nullopt;
    }
    return variables;
}

std::optional<Variables> read_json(std::string_view text) {
    const auto root = json::parse(text);
    if (!root || root->kind != json::Kind::object) return std::nullopt;
    Variables variables;
    for (std::size_t i = 0; i < root->items.size(); ++i) {
        const json::Node& node = root->items[i];
        if (node.kind == json::Kind::string) {
            variables.emplace(root->names[i], node.text);
        } else if (const json::Node* error = node.find("error"); error != nullptr && error->text == "integrity") {
            variables.emplace(root->names[i], std::nullopt);
        } else {
            return std::nullopt;
        }
    }
    return variables;
}

std::optional<Variables> read(std::string_view text, Format format) {
    switch (format) {
        case Format::json: return read_json(text);
        case Format::shell:
            return read_lines(text, [](Reader& in, std::string& name) -> std::optional<std::string> {
                if (!in.skip("export ")) return std::nullopt;
                name = in.name();
                return in.skip("=") ? read_shell_word(in) : std::nullopt;
            });
        case Format::dotenv:
            return read_lines(text, [](Reader& in, std::string& name) -> std::optional<std::string> {
                name = in.name();
                return in.skip("=") ? read_dotenv_value(in) : std::nullopt;
            });
        case Format::yaml: break;
    }
    if (text == "{}\n") return Variables();
    return read_lines(text, [](Reader& in, std::string& name) -> std::optional<std::string> {
        const bool is_quoted = in.skip("\"");
        name = in.name();
        if (is_quoted && !in.skip("\"")) return std::nullopt;
        return in.skip(": ") ? read_yaml_value(in) : std::nullopt;
    });
}

// ---- what is exported ----

struct Item {
    std::string key_path;
    std::optional<Value> value;
};

// The prefix in a line; then for each item its kind (s: text, b: bytes, x: broken), key, 0xff, value, 0xff.
std::vector<Item> read_items(Input& input, std::string_view folder) {
    std::map<std::string, Item> items;
    while (!input.empty()) {
        const auto kind = static_cast<char>(input.u8());
        const std::string key = (folder.empty() ? "" : std::string(folder) + "/") + std::string(input.up_to('\xff'));
        const std::string_view bytes = input.up_to('\xff');
        if (!check_key_path(key)) continue;  // no entry has such a key
        Item item{key, std::nullopt};
        if (kind != 'x') {
            const bool is_text = kind != 'b' && is_valid_utf8(bytes);
            item.value = Value{is_text ? ValueType::string : ValueType::binary, SecretBytes(bytes)};
        }
        items.emplace(key, std::move(item));
    }
    std::vector<Item> sorted;
    for (auto& [key, item] : items) sorted.push_back(std::move(item));
    return sorted;
}

std::string name_of(std::string_view key_path, std::string_view folder) {
    std::string name(key_path.substr(folder.empty() ? 0 : folder.size() + 1));
    for (char& c : name) {
        if (c == '/' || c == '-' || c == '.') c = '_';
        else if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
    }
    return name;
}

// Empty if one of them cannot be exported.
std::optional<Variables> expected(const std::vector<Item>& items, std::string_view folder) {
    Variables variables;
    for (const Item& item : items) {
        const std::string name = name_of(item.key_path, folder);
        Reader reader(name);
        if (reader.name() != name || name.empty() || (name.front() >= '0' && name.front() <= '9')) return std::nullopt;
        std::optional<std::string> value;
        if (item.value) {
            const std::string_view bytes = item.value->bytes.reveal();
            value = item.value->type == ValueType::binary ? base64_encode(bytes) : std::string(bytes);
            if (value->find('\0') != std::string::npos) return std::nullopt;
        }
        if (!variables.emplace(name, value).second) return std::nullopt;
    }
    return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::string prefix(input.up_to('\n'));
    const std::string folder = prefix.ends_with('/') ? prefix.substr(0, prefix.size() - 1) : prefix;
    if (!folder.empty() && !check_key_path(folder)) return 0;
    const std::vector<Item> items = read_items(input, folder);
    std::vector<ExportItem> shown;
    for (const Item& item : items) shown.push_back({item.key_path, item.value ? &*item.value : nullptr});
    const auto variables = expected(items, folder);
    for (const Format format : {Format::dotenv, Format::json, Format::shell, Format::yaml}) {
        const auto text = render_environment(shown, prefix, format);
        KV_PROPERTY(text.has_value() == variables.has_value());
        if (text) {
            KV_PROPERTY(read(text->reveal(), format) == variables);
        } else {
            KV_PROPERTY(text.error().code == Errc::name_conflict && !text.error().items.empty());
        }
    }
    return 0;
}
