#include "grants_json.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "text.h"

namespace kv {
namespace {

using json::Kind;
using json::Node;

constexpr std::size_t identifier_bytes_max = 255;

Result<PermissionSet> read_permissions(const Node& node, const std::string& where) {
    if (node.kind != Kind::array || node.items.empty())
        return wrong(where, "must be an array of permissions or [\"*\"]");
    if (node.items.size() == 1 && node.items[0].kind == Kind::string && node.items[0].text == "*")
        return PermissionSet::all();
    PermissionSet set;
    for (const Node& item : node.items) {
        const auto permission = item.kind == Kind::string ? parse_permission(item.text) : std::nullopt;
        if (!permission) return wrong(where, "unknown permission \"" + item.text + "\"");
        set.add(*permission);
    }
    return set;
}

Result<std::vector<KeyPattern>> read_keys(const Node& node, const std::string& where) {
    if (node.kind != Kind::array || node.items.empty())
        return wrong(where, "must be an array of key patterns or [\"*\"]");
    std::vector<KeyPattern> patterns;
    for (const Node& item : node.items) {
        auto pattern = item.kind == Kind::string ? KeyPattern::parse(item.text) : std::nullopt;
        if (!pattern) return wrong(where, "\"" + item.text + "\" is neither a key, nor \"folder/**\", nor \"*\"");
        patterns.push_back(*std::move(pattern));
    }
    return patterns;
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
    if (node.text.empty() || node.text.size() > identifier_bytes_max || has_control_character(node.text))
        return wrong(where, "must be 1 to 255 bytes without control characters");
    return node.text;
}

Result<Grant> read_grant(const Node& node, const std::string& where) {
    KV_CHECK(check_members(node, where, {"permissions", "applicationId", "namespaceId", "keys"}, {}));
    Grant grant;
    KV_TRY(grant.permissions, read_permissions(*node.find("permissions"), where + ".permissions"));
    KV_TRY(grant.application_id, read_identifier(*node.find("applicationId"), where + ".applicationId"));
    KV_TRY(const std::string ns, read_identifier(*node.find("namespaceId"), where + ".namespaceId"));
    if (ns != "*") {
        const auto ref = parse_namespace_ref(ns);
        if (!ref) return wrong(where + ".namespaceId", "must be a namespace's id, application~name, or \"*\"");
        std::visit([&grant](const auto& value) { grant.namespaces = value; }, *ref);
    }
    KV_TRY(grant.keys, read_keys(*node.find("keys"), where + ".keys"));
    return grant;
}

Result<std::vector<Grant>> read_grants(const Node& node, const std::string& where) {
    if (node.kind != Kind::array) return wrong(where, "must be an array");
    std::vector<Grant> grants;
    for (std::size_t i = 0; i < node.items.size(); ++i) {
        KV_TRY(Grant grant, read_grant(node.items[i], where + "[" + std::to_string(i) + "]"));
        grants.push_back(std::move(grant));
    }
    return grants;
}

std::string write_grants(const std::vector<Grant>& grants) {
    json::Writer out;
    write_grants(out, grants);
    return out.take();
}

void write_grants(json::Writer& out, const std::vector<Grant>& grants) {
    out.begin_array();
    for (const Grant& grant : grants) {
        out.begin_object();
        out.key("permissions");
        out.begin_array();
        if (grant.permissions == PermissionSet::all()) {
            out.string("*");
        } else {
            for (int i = 0; i < permission_count; ++i) {
                const auto permission = static_cast<Permission>(i);
                if (grant.permissions.contains(permission)) out.string(to_string(permission));
            }
        }
        out.end_array();
        out.member("applicationId", grant.application_id);
        out.key("namespaceId");
        if (const auto* id = std::get_if<NamespaceId>(&grant.namespaces)) out.string(id->to_string());
        else if (const auto* name = std::get_if<NamespaceName>(&grant.namespaces)) out.string(name->application_id + '~' + name->name);
        else out.string("*");
        out.key("keys");
        out.begin_array();
        for (const KeyPattern& keys : grant.keys) out.string(to_text(keys));
        out.end_array();
        out.end_object();
    }
    out.end_array();
}

std::string to_text(const KeyPattern& keys) {
    switch (keys.kind) {
        case KeyPattern::Kind::exact: return keys.path;
        case KeyPattern::Kind::folder: return keys.path + "/**";
        case KeyPattern::Kind::all: break;
    }
    return "*";
}

Result<std::vector<Grant>> parse_grants(std::string_view json) {
    KV_TRY(const Node node, json::parse(json));
    return read_grants(node, "grants");
}

}  // namespace kv
