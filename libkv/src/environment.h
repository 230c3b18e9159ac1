#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kv/request.h"

namespace kv {

// A value that failed its integrity check is told in its place: {"error": "integrity"} in JSON, else a comment.
struct ExportItem {
    std::string key_path;
    const Value* value = nullptr;  // borrowed; null: it failed its integrity check
};

// Renders entries as environment variables: `prefix` (a folder) is cut off, `/`, `-` and `.` become `_`, letters upper case. BINARY
// values are their base64. Errc::name_conflict with one item per offending key: a name outside [A-Z_][A-Z0-9_]*, a NUL
// in a value, two keys with one name. Every byte is quoted right for the format: dotenv (double quotes, read back by common dotenv parsers), shell
// (POSIX single quotes, `export NAME=...`), yaml (double-quoted scalars), json (one object of strings).
Result<SecretBytes> render_environment(const std::vector<ExportItem>& items, std::string_view prefix, ExportEntries::Format format);

}  // namespace kv
