#include "authorize.h"

#include <algorithm>

namespace kv {
namespace {

bool selects(const Grant& grant, const NamespaceRow& ns) {
    if (grant.application_id != "*" && grant.application_id != ns.application_id) return false;
    if (const auto* id = std::get_if<NamespaceId>(&grant.namespaces)) return *id == ns.id;
    if (const auto* name = std::get_if<NamespaceName>(&grant.namespaces)) {
        return name->application_id == ns.application_id && name->name == ns.name;
    }
    return true;
}

bool has_all_keys(const Grant& grant) {
    return std::any_of(grant.keys.begin(), grant.keys.end(),
                       [](const KeyPattern& keys) { return keys.kind == KeyPattern::Kind::all; });
}

// The application whose namespaces a grant selects; "*": any.
const std::string& application_of(const Grant& grant) {
    const auto* name = std::get_if<NamespaceName>(&grant.namespaces);
    return name != nullptr ? name->application_id : grant.application_id;
}

// Whether `own` selects every namespace that `other` does, or ever will: a name may come to mean another namespace, so that it
// never stands for an id.
bool selects_all_of(const Grant& own, const Grant& other) {
    if (own.application_id != "*" && own.application_id != application_of(other)) return false;
    if (const auto* id = std::get_if<NamespaceId>(&own.namespaces)) {
        const auto* theirs = std::get_if<NamespaceId>(&other.namespaces);
        return theirs != nullptr && *theirs == *id;
    }
    if (const auto* name = std::get_if<NamespaceName>(&own.namespaces)) {
        const auto* theirs = std::get_if<NamespaceName>(&other.namespaces);
        return theirs != nullptr && *theirs == *name;
    }
    return true;
}

bool holds_all_of(const KeyPattern& own, const KeyPattern& other) {
    switch (own.kind) {
        case KeyPattern::Kind::exact: return other.kind == KeyPattern::Kind::exact && other.path == own.path;
        case KeyPattern::Kind::folder: return other.kind != KeyPattern::Kind::all && (other.path + '/').starts_with(own.path + '/') &&
                                              (other.kind == KeyPattern::Kind::folder || other.path.size() > own.path.size());
        case KeyPattern::Kind::all: break;
    }
    return true;
}

KeyRange range_of(const KeyPattern& keys) {
    switch (keys.kind) {
        case KeyPattern::Kind::exact: return {keys.path, keys.path + '\0'};
        case KeyPattern::Kind::folder: return prefix_range(keys.path + '/');
        case KeyPattern::Kind::all: break;
    }
    return {};
}

// An empty end is above everything.
bool end_below(const std::string& a, const std::string& b) { return b.empty() ? !a.empty() : !a.empty() && a < b; }

std::vector<KeyRange> merge(std::vector<KeyRange> ranges) {
    std::sort(ranges.begin(), ranges.end(), [](const KeyRange& a, const KeyRange& b) { return a.from < b.from; });
    std::vector<KeyRange> merged;
    for (KeyRange& range : ranges) {
        const bool touches_last = !merged.empty() && (merged.back().to.empty() || range.from <= merged.back().to);
        if (!touches_last) {
            merged.push_back(std::move(range));
        } else if (end_below(merged.back().to, range.to)) {
            merged.back().to = std::move(range.to);
        }
    }
    return merged;
}

// Calls `visit` with the grants that select `ns`, until it returns true.
template <class F>
bool any_grant(const Actor& actor, const NamespaceRow& ns, F&& visit) {
    if (!actor.grants) return false;
    return std::any_of(actor.grants->begin(), actor.grants->end(),
                       [&](const Grant& grant) { return selects(grant, ns) && visit(grant); });
}

}  // namespace

bool Rights::touches() const {
    return actor_.is_trusted || any_grant(actor_, ns_, [](const Grant& grant) {
               return !grant.permissions.empty() && !grant.keys.empty();
           });
}

bool Rights::allows(Permission permission) const {
    return actor_.is_trusted || any_grant(actor_, ns_, [&](const Grant& grant) {
               return grant.permissions.contains(permission) && has_all_keys(grant);
           });
}

bool Rights::allows(Permission permission, std::string_view key_path) const {
    return actor_.is_trusted || any_grant(actor_, ns_, [&](const Grant& grant) {
               return grant.permissions.contains(permission) &&
                      std::any_of(grant.keys.begin(), grant.keys.end(),
                                  [&](const KeyPattern& keys) { return keys.matches(key_path); });
           });
}

bool Rights::allows_somewhere(Permission permission) const {
    return actor_.is_trusted || any_grant(actor_, ns_, [&](const Grant& grant) {
               return grant.permissions.contains(permission) && !grant.keys.empty();
           });
}

std::vector<KeyRange> Rights::ranges(Permission permission) const {
    if (allows(permission)) return {KeyRange{}};
    std::vector<KeyRange> ranges;
    any_grant(actor_, ns_, [&](const Grant& grant) {
        if (grant.permissions.contains(permission)) {
            for (const KeyPattern& keys : grant.keys) ranges.push_back(range_of(keys));
        }
        return false;
    });
    return merge(std::move(ranges));
}

bool is_admin(const Actor& actor) {
    if (actor.is_trusted) return true;
    return actor.grants && std::any_of(actor.grants->begin(), actor.grants->end(), [](const Grant& grant) {
               return grant.permissions.contains(Permission::admin) && grant.application_id == "*" &&
                      std::holds_alternative<Grant::AnyNamespace>(grant.namespaces) && has_all_keys(grant);
           });
}

bool covers(const Actor& actor, const Grant& grant) {
    if (actor.is_trusted) return true;
    if (!actor.grants) return false;
    for (int i = 0; i < permission_count; ++i) {
        const auto permission = static_cast<Permission>(i);
        if (!grant.permissions.contains(permission)) continue;
        for (const KeyPattern& keys : grant.keys) {
            const bool is_held = std::any_of(actor.grants->begin(), actor.grants->end(), [&](const Grant& own) {
                return own.permissions.contains(permission) && selects_all_of(own, grant) &&
                       std::any_of(own.keys.begin(), own.keys.end(), [&](const KeyPattern& mine) { return holds_all_of(mine, keys); });
            });
            if (!is_held) return false;
        }
    }
    return true;
}

bool covers(const Actor& actor, const std::vector<Grant>& grants) {
    return std::all_of(grants.begin(), grants.end(), [&](const Grant& grant) { return covers(actor, grant); });
}

bool holds_anywhere(const Actor& actor, Permission permission) {
    if (actor.is_trusted) return true;
    return actor.grants && std::any_of(actor.grants->begin(), actor.grants->end(), [&](const Grant& grant) {
               return grant.permissions.contains(permission) && !grant.keys.empty();
           });
}

std::string prefix_end(std::string_view prefix) {
    std::string end(prefix);
    while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xff) end.pop_back();
    if (!end.empty()) end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
    return end;
}

KeyRange prefix_range(std::string_view prefix) { return {std::string(prefix), prefix_end(prefix)}; }

std::vector<KeyRange> intersect(const std::vector<KeyRange>& a, const std::vector<KeyRange>& b) {
    std::vector<KeyRange> common;
    for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
        const std::string& from = std::max(a[i].from, b[j].from);
        const std::string& to = end_below(a[i].to, b[j].to) ? a[i].to : b[j].to;
        if (to.empty() || from < to) common.push_back({from, to});
        end_below(a[i].to, b[j].to) ? ++i : ++j;
    }
    return common;
}

}  // namespace kv
