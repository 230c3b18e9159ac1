#include "kvd/auth/grants.h"

#include <algorithm>
#include <utility>
#include <variant>

namespace kvd {
namespace {

bool is_equal(const kv::Grant& one, const kv::Grant& other) {
    const auto same_namespaces = [&](const auto& value) {
        using Selected = std::decay_t<decltype(value)>;
        const auto* theirs = std::get_if<Selected>(&other.namespaces);
        if constexpr (std::is_same_v<Selected, kv::Grant::AnyNamespace>) return theirs != nullptr;
        else return theirs != nullptr && *theirs == value;
    };
    const auto same_keys = [](const kv::KeyPattern& a, const kv::KeyPattern& b) { return a.kind == b.kind && a.path == b.path; };
    return one.permissions == other.permissions && one.application_id == other.application_id &&
           std::visit(same_namespaces, one.namespaces) &&
           std::equal(one.keys.begin(), one.keys.end(), other.keys.begin(), other.keys.end(), same_keys);
}

}  // namespace

Grants grants_of_permissions(const std::vector<std::string>& permissions, const std::string& application_id) {
    kv::Grant grant;
    grant.application_id = application_id;
    for (const std::string& text : permissions)
        if (const auto permission = kv::parse_permission(text)) grant.permissions.add(*permission);
    if (application_id.empty() || application_id == "*" || grant.permissions.empty()) return {};
    return {std::move(grant)};
}

Grants limited_to(Grants grants, const std::string& application_id) {
    if (application_id.empty() || application_id == "*") return {};
    std::erase_if(grants, [&](kv::Grant& grant) {
        if (grant.application_id == "*") grant.application_id = application_id;
        return grant.application_id != application_id;
    });
    return grants;
}

bool are_equal(const Grants& some, const Grants& others) {
    return std::equal(some.begin(), some.end(), others.begin(), others.end(), is_equal);
}

}  // namespace kvd
