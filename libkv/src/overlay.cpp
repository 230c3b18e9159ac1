#include "overlay.h"

#include <cstring>
#include <functional>

namespace kv {

std::size_t Overlay::KeyHash::operator()(const std::pair<NamespaceId, std::string>& key) const noexcept {
    std::size_t id_bits = 0;
    // The random tail of a version 7 UUID.
    std::memcpy(&id_bits, key.first.bytes.data() + 8, sizeof id_bits);
    return id_bits ^ std::hash<std::string>{}(key.second);
}

void Overlay::clear() {
    namespaces_.clear();
    entries_.clear();
    tokens_.clear();
    changes_ = {};
}

void Overlay::add_token(TokenRow row, bool is_intact) {
    const Uuid id = row.id;
    tokens_.insert_or_assign(id, TokenState{std::move(row), is_intact});
}

const TokenState* Overlay::find_token(const Uuid& id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
}

void Overlay::add_namespace(const NamespaceRow& row, bool is_intact) {
    namespaces_.try_emplace(row.id, NamespaceState{row, is_intact, false});
}

void Overlay::add_entry(Found found, const std::string& key_path, bool has_value) {
    if (!found.ns) return;
    auto [at, is_new] = entries_.try_emplace({found.ns->id, key_path});
    EntryState& state = at->second;
    if (is_new && !found.entry) {
        state.row.ns = found.ns->id;
        state.row.key_path = key_path;
    } else if (is_new) {
        state.row = std::move(*found.entry);
        state.exists = true;
        state.has_history = found.has_history;
        state.has_value = has_value;
    }
    if (found.version) state.picked = std::move(found.version);
}

NamespaceState* Overlay::find_namespace(const NamespaceRef& ref) {
    if (const auto* id = std::get_if<NamespaceId>(&ref)) {
        auto at = namespaces_.find(*id);
        return at == namespaces_.end() ? nullptr : &at->second;
    }
    const auto& name = std::get<NamespaceName>(ref);
    for (auto& [id, state] : namespaces_) {
        if (!state.row.deleted_at && state.row.name == name.name && state.row.application_id == name.application_id) {
            return &state;
        }
    }
    return nullptr;
}

NamespaceState& Overlay::new_namespace(NamespaceRow row) {
    const NamespaceId id = row.id;
    return namespaces_.insert_or_assign(id, NamespaceState{std::move(row), true, true}).first->second;
}

EntryState& Overlay::entry(const NamespaceState& ns, std::string_view key_path) {
    auto [at, is_new] = entries_.try_emplace({ns.row.id, std::string(key_path)});
    if (is_new) {
        at->second.row.ns = ns.row.id;
        at->second.row.key_path = key_path;
    }
    return at->second;
}

Changeset Overlay::take_changes() {
    for (auto& [id, state] : namespaces_) {
        if (state.is_changed) changes_.namespaces.push_back(state.row);
    }
    for (auto& [key, state] : entries_) {
        if (state.erase_to > 0) changes_.erase_versions.push_back({state.row.id, 0, state.erase_to});
        if (state.is_erased) {
            changes_.erase_entries.push_back(state.row.id);
        } else if (state.is_changed) {
            changes_.entries.push_back(std::move(state.row));
        }
    }
    return std::move(changes_);
}

}  // namespace kv
