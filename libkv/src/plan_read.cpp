#include <algorithm>

#include "plan_parts.h"
#include "text.h"

namespace kv {

Result<void> may_touch(const Actor& actor, const NamespaceRow* ns) {
    if (ns == nullptr || ns->deleted_at || !Rights(actor, *ns).touches()) return namespace_not_found();
    return {};
}

Result<void> may(const Actor& actor, const NamespaceRow* ns, Permission permission) {
    KV_CHECK(may_touch(actor, ns));
    return require(Rights(actor, *ns), permission);
}

Result<void> may(const Actor& actor, const NamespaceRow* ns, Permission permission, std::string_view key_path) {
    KV_CHECK(may_touch(actor, ns));
    return require(Rights(actor, *ns), permission, key_path);
}

Result<Shown> judge_get(const Actor& actor, const GetEntry& request, const Found& found, Time now) {
    KV_CHECK(may(actor, found.ns.get(), Permission::entry_read, request.key_path));
    now = time_in(*found.ns, now);
    Error missing{Errc::not_found, request.version ? "There is no such version." : "There is no entry at this key."};
    missing.key_path = request.key_path;
    if (!found.entry) return missing;
    const EntryRow& row = *found.entry;
    if (!request.version || *request.version == row.version) {
        if (!is_live(row, now)) return missing;
        return Shown{&row, nullptr};
    }
    const auto& archived = found.version;
    if (is_hidden(row, now) || !archived || archived->is_tombstone || archived->version <= visible_above(*found.ns, row)) {
        return missing;
    }
    return Shown{nullptr, &*archived};
}

Result<EntryRange> judge_list(const Actor& actor, const ListEntries& request, const NamespaceRow* ns, Time now, std::size_t limit) {
    KV_CHECK(may_touch(actor, ns));
    const Rights rights(actor, *ns);
    if (!rights.allows_somewhere(Permission::namespace_read)) return denied(Permission::namespace_read);
    std::vector<KeyRange> visible = rights.ranges(Permission::namespace_read);
    if (request.include_values) {
        if (!rights.allows_somewhere(Permission::entry_read)) return denied(Permission::entry_read);
        visible = intersect(visible, rights.ranges(Permission::entry_read));
    }
    EntryRange range;
    range.ns = ns->id;
    range.ranges = intersect(visible, {prefix_range(request.prefix)});
    if (request.fold_folders) range.fold_from = request.prefix.size();
    range.now = time_in(*ns, now);
    range.expiring_before = request.expiring_before;
    range.values = request.include_values;
    range.limit = limit;
    return range;
}

Result<EntryRange> judge_export(const Actor& actor, const ExportEntries& request, const NamespaceRow* ns, Time now) {
    KV_CHECK(may_touch(actor, ns));
    const Rights rights(actor, *ns);
    if (!rights.allows_somewhere(Permission::entry_read)) return denied(Permission::entry_read);
    std::string folder = request.prefix;
    if (!folder.empty() && folder.back() != '/') folder.push_back('/');
    EntryRange range;
    range.ns = ns->id;
    range.ranges = intersect(rights.ranges(Permission::entry_read), {prefix_range(folder)});
    range.now = time_in(*ns, now);
    range.values = true;
    return range;
}

Result<void> judge_versions(const Actor& actor, const ListVersions& request, const Found& found, Time now) {
    KV_CHECK(may(actor, found.ns.get(), Permission::entry_read, request.key_path));
    now = time_in(*found.ns, now);
    const bool has_past = found.entry && !is_hidden(*found.entry, now) &&
                          (found.ns->keeps_history || is_live(*found.entry, now));
    if (has_past) return {};
    Error error{Errc::not_found, "There is no entry at this key."};
    error.key_path = request.key_path;
    return error;
}

Time time_in(const NamespaceRow& ns, Time now) { return std::max(now, ns.changed_at); }

bool is_live(const EntryRow& row, Time now) {
    return !row.is_tombstone && (!row.expires_at || *row.expires_at > now);
}

bool is_hidden(const EntryRow& row, Time now) {
    return row.is_tombstone ? row.version <= row.history_floor : !is_live(row, now);
}

std::uint64_t beyond_limit(const NamespaceRow& ns, std::uint64_t version) {
    const std::uint64_t base = version > ns.version_base ? ns.version_base : version - version % version_base_step;
    const bool is_limited = ns.history_limit && version - base > *ns.history_limit;
    return is_limited ? version - *ns.history_limit : 0;
}

std::uint64_t visible_above(const NamespaceRow& ns, const EntryRow& row) {
    if (!ns.keeps_history) return row.version - 1;
    return std::max(row.history_floor, beyond_limit(ns, row.version));
}

Entry show_entry(const EntryRow& row) {
    Entry entry;
    entry.id = row.id;
    entry.namespace_id = row.ns;
    entry.key_path = row.key_path;
    entry.value_type = row.value_type;
    entry.version = row.version;
    entry.revision = row.revision;
    entry.ttl_seconds = row.ttl_seconds;
    entry.expires_at = row.expires_at;
    entry.metadata = row.metadata;
    entry.created_at = row.created_at;
    entry.created_by = row.created_by;
    entry.updated_at = row.updated_at;
    entry.updated_by = row.updated_by;
    return entry;
}

Namespace show_namespace(const NamespaceRow& row) {
    Namespace ns;
    ns.id = row.id;
    ns.application_id = row.application_id;
    ns.name = row.name;
    ns.description = row.description;
    ns.is_secret = row.is_secret;
    ns.sealing = row.sealing;
    ns.default_ttl_seconds = row.default_ttl_seconds;
    ns.keeps_history = row.keeps_history;
    ns.history_limit = row.history_limit;
    ns.deletion_protection = row.deletion_protection;
    ns.version = row.version;
    ns.revision = row.revision;
    ns.created_at = row.created_at;
    ns.created_by = row.created_by;
    ns.updated_at = row.updated_at;
    ns.updated_by = row.updated_by;
    ns.deleted_at = row.deleted_at;
    return ns;
}

Version show_version(const VersionRow& row) {
    Version version;
    version.version = row.version;
    version.value_type = row.value_type;
    version.reason = row.reason;
    version.comment = row.comment;
    version.changed_by = row.changed_by;
    version.changed_at = row.changed_at;
    version.request_id = row.request_id;
    version.rolled_back_from = row.rolled_back_from;
    return version;
}

Version show_current(const EntryRow& row) {
    Version version;
    version.version = row.version;
    version.value_type = row.value_type;
    version.reason = row.reason;
    version.comment = row.comment;
    version.changed_by = row.updated_by;
    version.changed_at = row.updated_at;
    version.request_id = row.request_id;
    version.rolled_back_from = row.rolled_back_from;
    version.is_current = true;
    return version;
}

namespace {

std::string namespace_epoch(std::string_view epoch, const NamespaceId& ns) {
    constexpr std::size_t id_bytes = 6;  // of the random end of a version 7 UUID
    const auto* end = reinterpret_cast<const char*>(ns.bytes.data() + ns.bytes.size());
    return std::string(epoch) + hex_encode({end - id_bytes, id_bytes});
}

}  // namespace

std::string entry_etag(std::string_view epoch, const NamespaceId& ns, std::uint64_t revision) {
    return namespace_epoch(epoch, ns) + '-' + std::to_string(revision);
}

std::string namespace_etag(std::string_view epoch, const NamespaceRow& row) {
    return namespace_epoch(epoch, row.id) + "-n" + std::to_string(row.version) + '.' + std::to_string(row.revision) +
           (row.sealing ? "s" : "");
}

bool locks_namespace(const std::vector<std::string>& etags, std::string_view epoch, const NamespaceRow& row) {
    const std::string version = namespace_epoch(epoch, row.id) + "-n" + std::to_string(row.version) + '.';
    return std::any_of(etags.begin(), etags.end(),
                       [&](const std::string& etag) { return etag == "*" || etag.starts_with(version); });
}

bool matches_etag(const std::vector<std::string>& etags, std::string_view etag) {
    return std::any_of(etags.begin(), etags.end(), [&](const std::string& one) { return one == "*" || one == etag; });
}

}  // namespace kv
