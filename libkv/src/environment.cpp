#include "environment.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "json/json.h"
#include "text.h"

namespace kv {
namespace {

struct Variable {
    std::string name;
    std::string_view key_path;
    std::string_view value;
};

// Where rendered text goes. It is rendered twice: once into a sink without memory, to learn its size, then into memory
// of that size, so that no outgrown buffer keeps a secret.
class Sink {
public:
    Sink() = default;
    explicit Sink(SecretBytes& memory) : out_(memory.mutable_data()) {}

    void put(std::string_view text) {
        if (out_ != nullptr && !text.empty()) std::memcpy(out_ + size_, text.data(), text.size());
        size_ += text.size();
    }
    void put(char c) { put(std::string_view(&c, 1)); }
    std::size_t size() const { return size_; }

private:
    char* out_ = nullptr;
    std::size_t size_ = 0;
};

// ---- names ----

// What is left of a key below the folder.
std::string_view cut_folder(std::string_view key_path, std::string_view folder) {
    if (folder.ends_with('/')) folder.remove_suffix(1);
    if (folder.empty()) return key_path;
    assert(key_path.size() > folder.size() && key_path.starts_with(folder) && key_path[folder.size()] == '/');
    return key_path.substr(std::min(folder.size() + 1, key_path.size()));
}

std::string variable_name(std::string_view path) {
    std::string name(path);
    for (char& c : name) {
        if (c == '/' || c == '-' || c == '.') c = '_';
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    }
    return name;
}

bool is_variable_name(std::string_view name) {
    const auto may_begin = [](char c) { return (c >= 'A' && c <= 'Z') || c == '_'; };
    const auto may_follow = [=](char c) { return may_begin(c) || (c >= '0' && c <= '9'); };
    return !name.empty() && may_begin(name.front()) && std::all_of(name.begin(), name.end(), may_follow);
}

// ---- conflicts ----

// Positions of the variables whose name another one has too, in order.
std::vector<bool> find_shared_names(const std::vector<Variable>& variables) {
    std::vector<std::size_t> order(variables.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return variables[a].name < variables[b].name; });
    std::vector<bool> is_shared(variables.size());
    for (std::size_t i = 1; i < order.size(); ++i) {
        if (variables[order[i - 1]].name == variables[order[i]].name) is_shared[order[i - 1]] = is_shared[order[i]] = true;
    }
    return is_shared;
}

// Null if the variable can be rendered.
const char* variable_fault(const Variable& variable, bool shares_name) {
    if (!is_variable_name(variable.name)) return "its name would not be that of an environment variable";
    if (variable.value.find('\0') != std::string_view::npos) return "its value holds a NUL";
    if (shares_name) return "its name would be that of another key";
    return nullptr;
}

Result<void> check_variables(const std::vector<Variable>& variables) {
    const std::vector<bool> is_shared = find_shared_names(variables);
    Error error{Errc::name_conflict, {}};
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const char* fault = variable_fault(variables[i], is_shared[i]);
        if (fault == nullptr) continue;
        Error item{Errc::name_conflict, fault};
        item.key_path = variables[i].key_path;
        error.items.push_back(std::move(item));
    }
    if (error.items.empty()) return {};
    error.message = std::to_string(error.items.size()) + " keys cannot be environment variables";
    return error;
}

// ---- shell ----

// A POSIX shell takes everything between single quotes as it is; the quote itself is set outside them.
void put_shell_quoted(Sink& sink, std::string_view value) {
    sink.put('\'');
    for (std::size_t quote = value.find('\''); quote != std::string_view::npos; quote = value.find('\'')) {
        sink.put(value.substr(0, quote));
        sink.put("'\\''");
        value.remove_prefix(quote + 1);
    }
    sink.put(value);
    sink.put('\'');
}

void put_shell(Sink& sink, const Variable& variable) {
    sink.put("export ");
    sink.put(variable.name);
    sink.put('=');
    put_shell_quoted(sink, variable.value);
    sink.put('\n');
}

// ---- dotenv ----
//
// There is no standard. What Node's dotenv, python-dotenv, docker compose and a shell's `source` make of quoted text:
//
//                              single quotes                      double quotes
//   shell                      as it is                           \" \\ \$ \` escape, $ and ` expand
//   docker compose             as it is, \' is a quote            \" \\ \$ \n \r... escape, $ expands
//   python-dotenv              \\ and \' escape                   \" \\ \n \r... escape
//   Node's dotenv              as it is, but \' ends nothing      \n \r escape, \" ends nothing and stays
//   the last two, everywhere   a raw carriage return turns into a line feed (python also expands ${NAME})
//
// So single quotes are right for all of them as long as there is no quote, no carriage return, no backslash at the end
// (a pair of backslashes is right for all but python-dotenv); double quotes where nothing needs an escape. The rest is
// escaped in double quotes as shells do, for a value must not turn into a command there: `$` and the backquote always.
//
// The last two take a backslash before the closing quote for an escape, if they find another quote further down. So
// values that end in a backslash come last, where no other value can be misread for them.

bool fits_single_quotes(std::string_view value) {
    return value.find_first_of("'\r") == std::string_view::npos && !value.ends_with('\\');
}

void put_dotenv_escaped(Sink& sink, std::string_view value) {
    for (const char c : value) {
        if (c == '\r') {
            sink.put("\\r");
            continue;
        }
        if (c == '"' || c == '\\' || c == '$' || c == '`') sink.put('\\');
        sink.put(c);
    }
}

void put_dotenv(Sink& sink, const Variable& variable) {
    const bool is_single_quoted = fits_single_quotes(variable.value);
    const char quote = is_single_quoted ? '\'' : '"';
    sink.put(variable.name);
    sink.put('=');
    sink.put(quote);
    is_single_quoted ? sink.put(variable.value) : put_dotenv_escaped(sink, variable.value);
    sink.put(quote);
    sink.put('\n');
}

void put_last_if_ending_in_backslash(std::vector<Variable>& variables) {
    std::stable_partition(variables.begin(), variables.end(),
                          [](const Variable& variable) { return !variable.value.ends_with('\\'); });
}

// ---- yaml ----

// Readers of YAML 1.1 take these for booleans or null, even as keys.
bool means_something_in_yaml(std::string_view name) {
    constexpr std::string_view words[] = {"Y", "YES", "ON", "TRUE", "N", "NO", "OFF", "FALSE", "NULL"};
    return std::find(std::begin(words), std::end(words), name) != std::end(words);
}

// The code point at the front of valid UTF-8, and its length.
std::pair<std::uint32_t, std::size_t> first_code_point(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
    const std::uint32_t lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    if (lead < 0xe0) return {(lead & 31) << 6 | (byte(1) & 63), 2};
    if (lead < 0xf0) return {(lead & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63), 3};
    return {(lead & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63), 4};
}

// What YAML 1.2 does not count among the printable characters, or takes for a line break or a byte order mark.
bool needs_yaml_escape(std::uint32_t point) {
    return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x2028 || point == 0x2029 || point == 0xfeff ||
           point == 0xfffe || point == 0xffff;
}

void put_yaml_escape(Sink& sink, std::uint32_t point) {
    const char high = static_cast<char>(point >> 8);
    const char low = static_cast<char>(point & 0xff);
    sink.put(point > 0xff ? "\\u" : "\\x");
    if (point > 0xff) sink.put(hex_encode({&high, 1}));
    sink.put(hex_encode({&low, 1}));
}

void put_yaml_escaped(Sink& sink, std::string_view value) {
    while (!value.empty()) {
        const auto [point, length] = first_code_point(value);
        if (point == '"' || point == '\\') {
            sink.put('\\');
            sink.put(value.front());
        } else if (point == '\n') {
            sink.put("\\n");
        } else if (point == '\t') {
            sink.put("\\t");
        } else if (needs_yaml_escape(point)) {
            put_yaml_escape(sink, point);
        } else {
            sink.put(value.substr(0, length));
        }
        value.remove_prefix(length);
    }
}

void put_yaml(Sink& sink, const Variable& variable) {
    const std::string_view quote = means_something_in_yaml(variable.name) ? "\"" : "";
    sink.put(quote);
    sink.put(variable.name);
    sink.put(quote);
    sink.put(": \"");
    put_yaml_escaped(sink, variable.value);
    sink.put("\"\n");
}

// ---- all together ----

template <class Put>
SecretBytes render_lines(const std::vector<Variable>& variables, Put put) {
    Sink measured;
    for (const Variable& variable : variables) put(measured, variable);
    SecretBytes text = SecretBytes::of_size(measured.size());
    Sink written(text);
    for (const Variable& variable : variables) put(written, variable);
    assert(written.size() == text.size());
    return text;
}

SecretBytes render_json(const std::vector<Variable>& variables) {
    json::Writer writer;
    writer.begin_object();
    for (const Variable& variable : variables) writer.member(variable.name, variable.value);
    writer.end_object();
    return SecretBytes(writer.text());
}

SecretBytes render(std::vector<Variable> variables, ExportEntries::Format format) {
    switch (format) {
        case ExportEntries::Format::dotenv:
            put_last_if_ending_in_backslash(variables);
            return render_lines(variables, put_dotenv);
        case ExportEntries::Format::shell: return render_lines(variables, put_shell);
        // A document without a line would be null, not an empty mapping.
        case ExportEntries::Format::yaml: return variables.empty() ? SecretBytes("{}\n") : render_lines(variables, put_yaml);
        case ExportEntries::Format::json: break;
    }
    return render_json(variables);
}

SecretBytes encode_secret(std::string_view bytes) {
    std::string text = base64_encode(bytes);
    SecretBytes encoded(text);
    json::wipe(text);
    return encoded;
}

}  // namespace

Result<SecretBytes> render_environment(const std::vector<ExportItem>& items, std::string_view prefix,
                                       ExportEntries::Format format) {
    std::vector<SecretBytes> encoded;
    encoded.reserve(items.size());  // variables look into it
    std::vector<Variable> variables;
    variables.reserve(items.size());
    for (const ExportItem& item : items) {
        std::string_view value = item.value->bytes.reveal();
        if (item.value->type == ValueType::binary) value = encoded.emplace_back(encode_secret(value)).reveal();
        variables.push_back({variable_name(cut_folder(item.key_path, prefix)), item.key_path, value});
    }
    KV_CHECK(check_variables(variables));
    return render(std::move(variables), format);
}

}  // namespace kv
