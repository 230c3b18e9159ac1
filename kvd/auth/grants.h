#pragma once
#include <string>
#include <vector>

#include "grants_json.h"

// What others say was granted. Functions are pure.
namespace kvd {

using Grants = std::vector<kv::Grant>;
using kv::check_members;
using kv::read_grant;
using kv::read_grants;
using kv::read_identifier;
using kv::wrong;

// What SPEC's permission strings grant: everywhere in the application. Strings of other services are passed over. Nothing
// is granted without an application.
Grants grants_of_permissions(const std::vector<std::string>& permissions, const std::string& application_id);
// Those of `grants` that are about the application, any application being narrowed to it. None without one.
Grants limited_to(Grants grants, const std::string& application_id);

// Whether they grant the same, in the same words.
bool are_equal(const Grants& some, const Grants& others);

}  // namespace kvd
