#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "json/json.h"
#include "kv/result.h"
#include "kv/types.h"

// Grants as text, which kvd shares: of the tokens file, of claims, of stored tokens. Functions are pure.
namespace kv {

// Errors are Errc::invalid_request with the place in `field` and before the message: "tokens[3].grants[0].keys: ...".
Error wrong(const std::string& where, const std::string& what);
// Members of an object, judged before they are read: none unknown, none of the required missing.
Result<void> check_members(const json::Node& node, const std::string& where, std::initializer_list<std::string_view> required,
                               std::initializer_list<std::string_view> optional);
// A user's or an application's id: 1 to 255 bytes without control characters.
Result<std::string> read_identifier(const json::Node& node, const std::string& where);
// {"permissions": [...], "applicationId": "...", "namespaceId": "...", "keys": [...]}, every member of which must be there: what
// somebody forgot to restrict would otherwise be granted.
Result<Grant> read_grant(const json::Node& node, const std::string& where);
Result<std::vector<Grant>> read_grants(const json::Node& node, const std::string& where);

// The same of a whole text.
Result<std::vector<Grant>> parse_grants(std::string_view json);
// What read_grants() reads.
std::string write_grants(const std::vector<Grant>& grants);
void write_grants(json::Writer& out, const std::vector<Grant>& grants);
// "config/**", as KeyPattern::parse() reads it.
std::string to_text(const KeyPattern& keys);

}  // namespace kv
