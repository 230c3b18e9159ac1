#pragma once
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json/json.h"
#include "kv/result.h"
#include "kv/types.h"

// Grants as text: of the tokens file, of claims, of the permission service. Functions are pure.
namespace kvd {

using Grants = std::vector<kv::Grant>;

// Errors are Errc::invalid_request with the place in `field` and before the message: "tokens[3].grants[0].keys: ...".
kv::Error wrong(const std::string& where, const std::string& what);
// Members of an object, judged before they are read: none unknown, none of the required missing.
kv::Result<void> check_members(const kv::json::Node& node, const std::string& where, std::initializer_list<std::string_view> required,
                               std::initializer_list<std::string_view> optional);
// A user's or an application's id: 1 to 255 bytes without control characters.
kv::Result<std::string> read_identifier(const kv::json::Node& node, const std::string& where);
// {"permissions": [...], "applicationId": "...", "namespaceId": "...", "keys": [...]}, every member of which must be there: what
// somebody forgot to restrict would otherwise be granted.
kv::Result<kv::Grant> read_grant(const kv::json::Node& node, const std::string& where);
kv::Result<Grants> read_grants(const kv::json::Node& node, const std::string& where);

// What SPEC's permission strings grant: everywhere in the application. Strings of other services are passed over. Nothing
// is granted without an application.
Grants grants_of_permissions(const std::vector<std::string>& permissions, const std::string& application_id);
// Those of `grants` that are about the application, any application being narrowed to it. None without one.
Grants limited_to(Grants grants, const std::string& application_id);

// Whether they grant the same, in the same words.
bool are_equal(const Grants& some, const Grants& others);

}  // namespace kvd
