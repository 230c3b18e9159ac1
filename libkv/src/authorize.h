#pragma once
#include <string_view>
#include <vector>

#include "kv/storage.h"
#include "kv/types.h"

namespace kv {

// What an actor may do in one namespace: its grants against a namespace row. Pure; borrows both.
class Rights {
public:
    Rights(const Actor& actor, const NamespaceRow& ns) : actor_(actor), ns_(ns) {}

    // Any grant on any key: below this the namespace does not exist for the actor.
    bool touches() const;
    // On the namespace as a whole: a grant for all keys.
    bool allows(Permission permission) const;
    bool allows(Permission permission, std::string_view key_path) const;
    // On some key at least.
    bool allows_somewhere(Permission permission) const;
    // The keys it holds on, as sorted, disjoint ranges.
    std::vector<KeyRange> ranges(Permission permission) const;

private:
    const Actor& actor_;
    const NamespaceRow& ns_;
};

// Whether kv-admin is granted on every namespace of every application.
bool is_admin(const Actor& actor);
// Whether one of the actor's grants holds wherever `grant` does. Grants that only together would are not told apart further.
bool covers(const Actor& actor, const Grant& grant);
bool covers(const Actor& actor, const std::vector<Grant>& grants);  // each of them
// For collections: is the permission held in any namespace?
bool holds_anywhere(const Actor& actor, Permission permission);

// The first string above every one that begins with `prefix`; empty if there is none.
std::string prefix_end(std::string_view prefix);
KeyRange prefix_range(std::string_view prefix);
std::vector<KeyRange> intersect(const std::vector<KeyRange>& a, const std::vector<KeyRange>& b);

}  // namespace kv
