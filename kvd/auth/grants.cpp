#include "kvd/auth/grants.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;

constexpr std::size_t identifier_bytes_max = 255;

Result<kv::PermissionSet> read_permissions(const Node& node, const std::string& where) {
    if (node.kind != Kind::array || node.items.empty())
        return wrong(where, "must be an array of permissions or [\"*\"]");
    if (node.items.size() == 1 && node.items[0].kind == Kind::string && node.items[0].text == "*")
        return kv::PermissionSet::all();
    kv::PermissionSet set;
    for (const Node& item : node.items) {
        const auto permission = item.kind == Kind::string ? kv::parse_permission(item.text) : std::nullopt;
        if (!permission) return wrong(where, "unknown permission \"" + item.text + "\"");
        set.add(*permission);
    }
    return set;
}

Result<std::vector<kv::KeyPattern>> read_keys(const Node& node, const std::string& where) {
    if (node.kind != Kind::array || node.items.empty())
        return wrong(where, "must be an array of key patterns or [\"*\"]");
    std::vector<kv::KeyPattern> patterns;
    for (const Node& item : node.items) {
        auto pattern = item.kind == Kind::string ? kv::KeyPattern::parse(item.text) : std::nullopt;
        if (!pattern) return wrong(where, "\"" + item.text + "\" is neither a key, nor \"folder/**\", nor \"*\"");
        patterns.push_back(*std::move(pattern));
    }
    return patterns;
}

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

Error wrong(const std::string& where, const std::string& what) {
    return Error{.code = Errc::invalid_request, .message = where + ": " + what, .field = where};
}

Result<void> check_members(const Node& node, const std::string& where, std::initializer_list<std::string_view> required,
                           std::initializer_list<std::string_view> optional) {
    if (node.kind != Kind::object) return wrong(where, "must be an object");
    const auto has = [](std::initializer_list<std::string_view> names, std::string_view name) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    for (const std::string& name : node.names)
        if (!has(required, name) && !has(optional, name)) return wrong(where, "unknown member \"" + name + "\"");
    for (std::string_view name : required)
        if (node.find(name) == nullptr) return wrong(where, "there is no \"" + std::string(name) + "\"");
    return {};
}

Result<std::string> read_identifier(const Node& node, const std::string& where) {
    if (node.kind != Kind::string) return wrong(where, "must be a string");
    if (node.text.empty() || node.text.size() > identifier_bytes_max || kv::has_control_character(node.text))
        return wrong(where, "must be 1 to 255 bytes without control characters");
    return node.text;
}

Result<kv::Grant> read_grant(const Node& node, const std::string& where) {
    KV_CHECK(check_members(node, where, {"permissions", "applicationId", "namespaceId", "keys"}, {}));
    kv::Grant grant;
    KV_TRY(grant.permissions, read_permissions(*node.find("permissions"), where + ".permissions"));
    KV_TRY(grant.application_id, read_identifier(*node.find("applicationId"), where + ".applicationId"));
    KV_TRY(const std::string ns, read_identifier(*node.find("namespaceId"), where + ".namespaceId"));
    if (ns != "*") {
        const auto ref = kv::parse_namespace_ref(ns);
        if (!ref) return wrong(where + ".namespaceId", "must be a namespace's id, application~name, or \"*\"");
        std::visit([&grant](const auto& value) { grant.namespaces = value; }, *ref);
    }
    KV_TRY(grant.keys, read_keys(*node.find("keys"), where + ".keys"));
    return grant;
}

Result<Grants> read_grants(const Node& node, const std::string& where) {
    if (node.kind != Kind::array) return wrong(where, "must be an array");
    Grants grants;
    for (std::size_t i = 0; i < node.items.size(); ++i) {
        KV_TRY(kv::Grant grant, read_grant(node.items[i], where + "[" + std::to_string(i) + "]"));
        grants.push_back(std::move(grant));
    }
    return grants;
}

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
