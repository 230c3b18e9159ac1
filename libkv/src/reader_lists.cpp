#include <algorithm>

#include "authorize.h"
#include "environment.h"
#include "plan_parts.h"
#include "reader_run.h"
#include "tokens.h"
#include "watch.h"

namespace kv {

// ---- namespaces ----

Result<Reply> Reader::Run::run(ReadItem& item, const ListNamespaces& request) {
    const Actor& actor = item.operation.actor;
    if (!holds_anywhere(actor, Permission::namespace_read)) return denied(Permission::namespace_read);
    BytesWriter query;
    query.optional(request.application_id, [&](const std::string& text) { query.string(text); });
    query.optional(request.name, [&](const std::string& text) { query.string(text); });
    query.u8(request.deleted ? 1 : 0);
    KV_TRY(const std::string start, position(item, request.page, query));

    NamespaceRange range;
    range.application_id = request.application_id;
    range.name = request.name;
    range.deleted = request.deleted ? NamespaceRange::Deleted::deleted : NamespaceRange::Deleted::live;
    if (!start.empty()) {
        BytesReader at(start);
        NamespaceRange::After after;
        after.application_id = at.string();
        after.name = at.string();
        after.id = at.uuid();
        range.after = std::move(after);
    }
    const std::size_t limit = page_limit(request.page);
    NamespaceList reply;
    BytesWriter shown;
    bool more = true;
    while (more && reply.items.size() <= limit) {
        KV_TRY(std::vector<NamespaceRow> rows, storage_.scan_namespaces(range));
        more = rows.size() == range.limit;
        for (const NamespaceRow& row : rows) {
            range.after = NamespaceRange::After{row.application_id, row.name, row.id};
            // Purged ones wait for their end at the beginning of time: they cannot come back.
            const bool is_gone = row.deleted_at && *row.deleted_at == Time{};
            if (is_gone || !Rights(actor, row).allows(Permission::namespace_read)) continue;
            if (!vault_.is_intact(row)) {
                // Whose namespace it is, nobody knows then: it is left out, and that is on record.
                item.audit.push_back(record(item, &row, ""));
                mark_failed(item.audit.back(), tampered_namespace());
                continue;
            }
            reply.items.push_back(show_namespace(row));
            if (reply.items.size() > limit) break;
        }
    }
    if (reply.items.size() > limit) {
        reply.items.pop_back();
        const Namespace& last = reply.items.back();
        BytesWriter at;
        at.string(last.application_id);
        at.string(last.name);
        at.uuid(last.id);
        reply.next_cursor = cursor(item, query, at.str());
    }
    for (const Namespace& ns : reply.items) {
        shown.uuid(ns.id);
        shown.u64(ns.version);
        shown.u64(ns.revision);
        shown.u8(ns.sealing ? 1 : 0);
    }
    shown.u8(reply.next_cursor ? 1 : 0);
    reply.etag = list_etag(settings_.epoch, shown);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    item.audit.push_back(record(item, nullptr, ""));
    return Reply(std::move(reply));
}

// ---- tokens ----

Result<Reply> Reader::Run::run(ReadItem& item, const ListTokens& request) {
    const Actor& actor = item.operation.actor;
    if (!holds_anywhere(actor, Permission::token_admin)) return denied(Permission::token_admin);
    const BytesWriter query;
    KV_TRY(const std::string start, position(item, request.page, query));
    TokenRange range;
    if (!start.empty()) range.after = BytesReader(start).uuid();
    const std::size_t limit = page_limit(request.page);
    TokenList reply;
    for (bool more = true; more && reply.items.size() <= limit;) {
        KV_TRY(const std::vector<TokenRow> rows, storage_.scan_tokens(range));
        more = rows.size() == range.limit;
        for (const TokenRow& row : rows) {
            range.after = row.id;
            auto token = vault_.is_intact(row) ? show_token(row) : Error{Errc::integrity, "The token's row was changed outside the store."};
            if (!token) {
                // Whose token it is, nobody knows then: it is left out, and that is on record.
                item.audit.push_back(record(item, nullptr, token_subject(row.id)));
                mark_failed(item.audit.back(), token.error());
                continue;
            }
            if (!covers(actor, token->grants)) continue;
            reply.items.push_back(*std::move(token));
            if (reply.items.size() > limit) break;
        }
    }
    if (reply.items.size() > limit) {
        reply.items.pop_back();
        BytesWriter at;
        at.uuid(reply.items.back().id);
        reply.next_cursor = cursor(item, query, at.str());
    }
    item.audit.push_back(record(item, nullptr, ""));
    return Reply(std::move(reply));
}

// ---- entries and their versions ----

Result<std::vector<Entry>> Reader::Run::open_page(ReadItem& item, const NamespaceRow& ns, const EntryPage& page, bool values) {
    std::vector<Entry> entries;
    entries.reserve(page.rows.size());
    for (const EntryRow& row : page.rows) {
        Entry entry = show_entry(row);
        if (values) {
            KV_CHECK(show_value(ns, row, entry));
            record_entry(item, ns, entry);
        }
        entries.push_back(std::move(entry));
    }
    return entries;
}

Result<Reply> Reader::Run::run(ReadItem& item, const ListEntries& request) {
    KV_TRY(const auto ns, find_namespace(request.ns));
    KV_TRY(const Time now, settings_.time.now(storage_));
    KV_CHECK(enter(item.operation.actor, ns.get()));
    KV_TRY(EntryRange range, judge_list(item.operation.actor, request, ns.get(), now, page_limit(request.page)));
    if (request.wait_revision && ns->revision <= *request.wait_revision) {
        item.wait = ReadItem::Wait{ns->id, *request.wait_revision, std::chrono::seconds(request.wait_seconds)};
        return Reply(Done{});
    }
    BytesWriter query;
    query.uuid(ns->id);
    query.string(request.prefix);
    query.u8(static_cast<std::uint8_t>((request.fold_folders ? 1 : 0) | (request.include_values ? 2 : 0)));
    query.optional(request.expiring_before, [&](Time time) { query.time(time); });
    KV_TRY(range.start, position(item, request.page, query));
    if (request.include_values) range.bytes = limits_.page_value_bytes_max;

    EntryPage page;
    if (!range.ranges.empty()) {
        KV_TRY(page, storage_.scan_entries(range));
    }
    EntryList reply;
    reply.revision = ns->revision;
    AuditRecord row = record(item, ns.get(), request.prefix);
    item.audit.push_back(row);
    KV_TRY(reply.items, open_page(item, *ns, page, request.include_values));
    reply.prefixes = std::move(page.folders);
    if (page.more) reply.next_cursor = cursor(item, query, page.resume);
    BytesWriter shown;
    for (const Entry& entry : reply.items) write_item(shown, entry);
    for (const std::string& folder : reply.prefixes) shown.string(folder);
    shown.u8(reply.next_cursor ? 1 : 0);
    reply.etag = list_etag(settings_.epoch, shown);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    if (reply.not_modified) {
        reply.items.clear();
        item.audit.resize(1);  // no value leaves
    }
    defer_audit(item, *ns);
    return Reply(std::move(reply));
}

Result<Reply> Reader::Run::run(ReadItem& item, const WatchEntries& request) {
    KV_TRY(const auto ns, find_namespace(request.ns));
    KV_TRY(const Time now, settings_.time.now(storage_));
    const Actor& actor = item.operation.actor;
    KV_CHECK(enter(actor, ns.get()));
    ListEntries list;
    list.prefix = request.prefix;
    KV_CHECK(judge_list(actor, list, ns.get(), now, 1));
    item.audit.push_back(record(item, ns.get(), request.prefix));
    return Reply(WatchReply{begin_watch(settings_.feed, *ns, actor, request.prefix, request.from_revision), ns->revision});
}

Result<Reply> Reader::Run::run(ReadItem& item, const ListVersions& request) {
    KV_TRY(const Found found, find_one({request.ns, request.key_path, {}}, Want{request.include_values, false}));
    ns_ = found.ns;
    KV_TRY(const Time now, settings_.time.now(storage_));
    KV_CHECK(enter(item.operation.actor, found.ns.get()));
    KV_CHECK(judge_versions(item.operation.actor, request, found, now));
    const NamespaceRow& ns = *found.ns;
    const EntryRow& current = *found.entry;
    BytesWriter query;
    query.uuid(ns.id);
    query.string(request.key_path);
    query.u8(request.include_values ? 1 : 0);
    KV_TRY(const std::string start, position(item, request.page, query));

    const std::size_t limit = page_limit(request.page);
    VersionRange range;
    range.entry_id = current.id;
    range.above = visible_above(ns, current);
    range.below = start.empty() ? current.version : BytesReader(start).u64();
    range.values = request.include_values;
    range.limit = limit + 1;
    if (request.include_values) {
        const std::size_t current_bytes = start.empty() ? current.value.size() : 0;
        range.bytes = limits_.page_value_bytes_max - std::min(current_bytes, limits_.page_value_bytes_max);
    }

    VersionList reply;
    const auto add = [&](Version version, Result<SecretBytes> value) -> Result<void> {
        if (value) {
            version.value = *std::move(value);
        } else if (value.error().code == Errc::integrity) {
            version.error = std::move(value).error();
        } else {
            return std::move(value).error();
        }
        reply.items.push_back(std::move(version));
        return {};
    };
    const std::size_t current_shown = start.empty() ? 1 : 0;
    if (start.empty()) {
        if (request.include_values && !current.is_tombstone) {
            KV_CHECK(add(show_current(current), vault_.open(storage_, ns, current)));
        } else {
            reply.items.push_back(show_current(current));
        }
    }
    KV_TRY(const std::vector<VersionRow> rows, storage_.scan_versions(range));
    for (const VersionRow& row : rows) {
        if (reply.items.size() == limit) break;
        if (request.include_values && !row.is_tombstone) {
            KV_CHECK(add(show_version(row), vault_.open(storage_, ns, request.key_path, row)));
        } else {
            reply.items.push_back(show_version(row));
        }
    }
    // A page cut by bytes may be followed by an empty one; a version above the floor may remain.
    const std::size_t rows_shown = reply.items.size() - current_shown;
    const bool was_cut = rows_shown < rows.size() || (range.bytes != SIZE_MAX && !rows.empty() && rows.back().version > range.above + 1);
    if (was_cut && !reply.items.empty()) {
        BytesWriter at;
        at.u64(reply.items.back().version);
        reply.next_cursor = cursor(item, query, at.str());
    }
    BytesWriter shown;
    for (const Version& version : reply.items) shown.u64(version.version);
    shown.uuid(current.id);
    shown.u64(current.revision);
    shown.u8(reply.next_cursor ? 1 : 0);
    reply.etag = list_etag(settings_.epoch, shown);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    AuditRecord row = record(item, &ns, request.key_path);
    row.entry_id = current.id;
    item.audit.push_back(row);
    if (request.include_values && !reply.not_modified) {
        for (const Version& version : reply.items) {
            if (!version.value) continue;
            row.version = version.version;
            item.audit.push_back(row);
        }
    }
    if (reply.not_modified) reply.items.clear();
    defer_audit(item, ns);
    return Reply(std::move(reply));
}

// ---- audit ----

// A row is seen with kv-audit:read on what it is about: the key, the namespace, or (without one) the application.
Result<bool> Reader::Run::may_see(const Actor& actor, const AuditRecord& record) {
    NamespaceRow about;
    about.application_id = record.application_id;
    if (record.namespace_id) {
        auto [at, is_new] = seen_.try_emplace(*record.namespace_id);
        if (is_new) {
            KV_TRY(Found found, find_one({NamespaceRef(*record.namespace_id), "", {}}, {}));
            at->second = std::move(found.ns);
        }
        about.id = *record.namespace_id;
        // The application is the recorded one: nobody can have changed that.
        if (at->second) about.name = at->second->name;
    }
    const Rights rights(actor, about);
    return record.key_path.empty() ? rights.allows(Permission::audit_read)
                                   : rights.allows(Permission::audit_read, record.key_path);
}

Result<AuditRange> Reader::Run::audit_range(ReadItem& item, const ListAudit& request) {
    AuditRange range;
    if (request.ns) {
        KV_TRY(const auto ns, find_namespace(*request.ns));
        // Also of a deleted namespace: what happened in it stays on record.
        if (!ns || !Rights(item.operation.actor, *ns).touches()) return namespace_not_found();
        if (!vault_.is_intact(*ns)) return tampered_namespace();
        if (!Rights(item.operation.actor, *ns).allows_somewhere(Permission::audit_read)) return denied(Permission::audit_read);
        range.ns = ns->id;
    }
    range.key_path = request.key_path;
    range.user_id = request.user_id;
    range.credential_id = request.credential_id;
    range.action = request.action;
    range.operation = request.operation;
    range.success = request.success;
    range.from = request.from;
    range.to = request.to;
    range.newest_first = request.newest_first;
    range.walk = limits_.audit_rows_walked_max;
    return range;
}

Result<Reply> Reader::Run::run(ReadItem& item, const ListAudit& request) {
    const Actor& actor = item.operation.actor;
    if (!holds_anywhere(actor, Permission::audit_read)) return denied(Permission::audit_read);
    KV_TRY(AuditRange range, audit_range(item, request));
    BytesWriter query;
    query.optional(range.ns, [&](const Uuid& id) { query.uuid(id); });
    for (const auto* text : {&request.key_path, &request.user_id, &request.credential_id, &request.operation}) {
        query.optional(*text, [&](const std::string& one) { query.string(one); });
    }
    query.u8(request.action ? static_cast<std::uint8_t>(*request.action) : 0);
    query.optional(request.success, [&](bool success) { query.u8(success ? 1 : 0); });
    query.optional(request.from, [&](Time time) { query.time(time); });
    query.optional(request.to, [&](Time time) { query.time(time); });
    query.u8(request.newest_first ? 1 : 0);
    KV_TRY(const std::string start, position(item, request.page, query));
    if (!start.empty()) range.after = BytesReader(start).u64();

    const std::size_t limit = page_limit(request.page);
    range.limit = limit;
    AuditList reply;
    KV_TRY(AuditPage page, storage_.scan_audit(range));
    for (AuditRow& row : page.rows) {
        KV_TRY(const bool is_visible, may_see(actor, row.record));
        if (is_visible) reply.items.push_back(std::move(row.record));
    }
    if (page.resume) {
        BytesWriter at;
        at.u64(*page.resume);
        reply.next_cursor = cursor(item, query, at.str());
    }
    item.audit.push_back(record(item, ns_.get(), request.key_path.value_or("")));
    return Reply(std::move(reply));
}

// ---- export ----

Result<void> Reader::Run::check_export(const EntryPage& page) const {
    std::size_t bytes = 0;
    for (const EntryRow& row : page.rows) bytes += row.value.size();
    const bool has_too_many = page.rows.size() > limits_.export_keys_max;
    if (!has_too_many && !page.more && bytes <= limits_.export_bytes_max) return {};
    Error error{Errc::too_large, "There is more here than one export may hold; export a folder."};
    error.limit = has_too_many ? limits_.export_keys_max : limits_.export_bytes_max;
    return error;
}

Result<Reply> Reader::Run::run(ReadItem& item, const ExportEntries& request) {
    KV_TRY(const auto ns, find_namespace(request.ns));
    KV_TRY(const Time now, settings_.time.now(storage_));
    KV_CHECK(enter(item.operation.actor, ns.get()));
    KV_TRY(EntryRange range, judge_export(item.operation.actor, request, ns.get(), now));
    range.limit = limits_.export_keys_max + 1;
    range.bytes = limits_.export_bytes_max;
    EntryPage page;
    if (!range.ranges.empty()) {
        KV_TRY(page, storage_.scan_entries(range));
    }
    KV_CHECK(check_export(page));
    item.audit.push_back(record(item, ns.get(), request.prefix));
    KV_TRY(std::vector<Entry> entries, open_page(item, *ns, page, true));
    BytesWriter shown;
    shown.u8(static_cast<std::uint8_t>(request.format));
    for (const Entry& entry : entries) write_item(shown, entry);
    ExportReply reply;
    reply.etag = list_etag(settings_.epoch, shown);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    std::vector<Value> values;
    values.reserve(entries.size());
    std::vector<ExportItem> items;
    for (Entry& entry : entries) {
        values.push_back({entry.value_type, entry.value ? std::move(*entry.value) : SecretBytes()});
        items.push_back({entry.key_path, entry.error ? nullptr : &values.back()});
    }
    if (reply.not_modified) {
        item.audit.resize(1);
    } else {
        auto text = render_environment(items, request.prefix, request.format);
        if (!text) {
            item.audit.clear();  // nothing leaves; the refusal is what is recorded
            return std::move(text).error();
        }
        reply.text = *std::move(text);
    }
    defer_audit(item, *ns);
    return Reply(std::move(reply));
}

}  // namespace kv
