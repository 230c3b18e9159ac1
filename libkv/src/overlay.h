#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/storage.h"

namespace kv {

struct NamespaceState {
    NamespaceRow row;
    bool is_intact = true;   // its MAC is right
    bool is_changed = false;
};

struct EntryState {
    EntryRow row;
    bool exists = false;        // stored or made by this group; a tombstone exists
    bool is_changed = false;    // row differs from what is stored, and carries its value
    bool is_erased = false;
    bool has_history = false;
    bool has_value = false;     // row.value was loaded
    std::uint64_t erase_to = 0; // versions up to this one are to be erased
    std::optional<VersionRow> picked;
};

struct TokenState {
    TokenRow row;
    bool is_intact = true;  // its MAC is right
};

// The group's view of the rows: what was loaded, and on top of it what earlier operations of the group changed.
// Pointers into it stay good until clear().
class Overlay {
public:
    void clear();

    void add_namespace(const NamespaceRow& row, bool is_intact);
    void add_entry(Found found, const std::string& key_path, bool has_value);

    // Null if there is none. By name it finds live ones only.
    NamespaceState* find_namespace(const NamespaceRef& ref);
    NamespaceState& new_namespace(NamespaceRow row);
    // What is at the key: loaded, or an empty state.
    EntryState& entry(const NamespaceState& ns, std::string_view key_path);

    void add_token(TokenRow row, bool is_intact);
    const TokenState* find_token(const Uuid& id) const;  // null: there is none

    // Changes that are not states: events, archived rows, keys.
    Changeset& changes() { return changes_; }
    // Everything the group changed; the overlay is spent afterwards.
    Changeset take_changes();

private:
    struct KeyHash {
        std::size_t operator()(const std::pair<NamespaceId, std::string>& key) const noexcept;
    };
    std::map<NamespaceId, NamespaceState> namespaces_;
    std::unordered_map<std::pair<NamespaceId, std::string>, EntryState, KeyHash> entries_;
    std::map<Uuid, TokenState> tokens_;
    Changeset changes_;
};

}  // namespace kv
