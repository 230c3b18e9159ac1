#include <algorithm>
#include <map>

#include "authorize.h"
#include "cursor.h"
#include "environment.h"
#include "plan.h"
#include "plan_parts.h"
#include "read_queue.h"
#include "text.h"

namespace kv {
namespace {

constexpr std::size_t bulk_chunk = 32;  // keys of a bulk get found at once, which bounds what is held in memory

std::string list_etag(std::string_view epoch, const BytesWriter& shown) {
    const Mac hash = crypto::blake2b(shown.str());
    return std::string(epoch) + '-' + base64url_encode({reinterpret_cast<const char*>(hash.data()), 18});
}

void write_item(BytesWriter& shown, const Entry& entry) {
    shown.uuid(entry.id);
    shown.u64(entry.revision);
    shown.u8(entry.error ? 1 : 0);
}

}  // namespace

// The reads of one batch.
class Reader::Run {
public:
    explicit Run(const Reader& reader)
        : storage_(reader.storage_), vault_(reader.vault_), settings_(reader.settings_), limits_(*reader.settings_.limits) {}

    void point(std::vector<ReadItem*>& items);
    void single(ReadItem& item);

private:
    // ---- what every read does ----
    Result<std::shared_ptr<const NamespaceRow>> find_namespace(const NamespaceRef& ref);
    Result<Found> find_one(const EntryRef& ref, Want want);
    Result<void> enter(const Actor& actor, const NamespaceRow* ns) const;
    Result<void> show_value(const NamespaceRow& ns, const EntryRow& row, Entry& entry);
    AuditRecord record(const ReadItem& item, const NamespaceRow* ns, std::string_view key_path) const;
    void record_entry(ReadItem& item, const NamespaceRow& ns, const Entry& entry);
    void fail(ReadItem& item, const NamespaceRow* ns, Error error);
    void defer_audit(ReadItem& item, const NamespaceRow& ns) const;
    std::string bind(const ReadItem& item, BytesWriter query) const;
    Result<std::string> position(const ReadItem& item, const Page& page, const BytesWriter& query) const;
    std::string cursor(const ReadItem& item, const BytesWriter& query, std::string_view position) const;
    std::size_t page_limit(const Page& page) const {
        return page.limit ? static_cast<std::size_t>(*page.limit) : limits_.page_items_max;
    }

    // ---- one each ----
    Result<Reply> get_entry(ReadItem& item, const GetEntry& request, const Found& found, Time now);
    Result<Reply> get_namespace(ReadItem& item, const GetNamespace& request, const NamespaceRow* ns);
    Result<Reply> run(ReadItem& item, const ListNamespaces& request);
    Result<Reply> run(ReadItem& item, const ListEntries& request);
    Result<Reply> run(ReadItem& item, const ListVersions& request);
    Result<Reply> run(ReadItem& item, const BulkGet& request);
    Result<Reply> run(ReadItem& item, const ListAudit& request);
    Result<Reply> run(ReadItem& item, const ExportEntries& request);
    Result<Reply> run(ReadItem& item, const RecordRefusal& request);
    template <class R>
    Result<Reply> run(ReadItem&, const R&) {
        return Error{Errc::internal, "This request is not a read."};
    }

    Result<void> judge_keys(ReadItem& item, const BulkGet& request, const NamespaceRow* ns);
    Result<void> get_keys(ReadItem& item, const BulkGet& request, BulkGetReply& reply, Time now);
    Result<bool> may_see(const Actor& actor, const AuditRecord& record);
    Result<AuditRange> audit_range(ReadItem& item, const ListAudit& request);
    Result<void> check_export(const EntryPage& page) const;
    Result<std::vector<Entry>> open_page(ReadItem& item, const NamespaceRow& ns, const EntryPage& page, bool values);

    Storage& storage_;
    const Vault& vault_;
    const Settings& settings_;
    const Limits& limits_;
    std::shared_ptr<const NamespaceRow> ns_;                              // of the item at hand
    std::map<NamespaceId, std::shared_ptr<const NamespaceRow>> seen_;     // by audit rows of a page
};

Reader::Reader(Storage& storage, const Vault& vault, Settings settings)
    : storage_(storage), vault_(vault), settings_(std::move(settings)) {}

bool Reader::is_point_read(const Request& request) {
    return std::holds_alternative<GetEntry>(request) || std::holds_alternative<GetNamespace>(request) ||
           std::holds_alternative<RecordRefusal>(request);
}

void Reader::run(std::vector<std::unique_ptr<ReadItem>>& batch) const {
    Run run(*this);
    std::vector<ReadItem*> points;
    for (auto& item : batch) {
        const Request& request = item->operation.request;
        const bool is_found = std::holds_alternative<GetEntry>(request) || std::holds_alternative<GetNamespace>(request);
        if (is_found) {
            points.push_back(item.get());
        } else {
            run.single(*item);
        }
    }
    if (!points.empty()) run.point(points);
}

// ---- what every read does ----

Result<Found> Reader::Run::find_one(const EntryRef& ref, Want want) {
    KV_TRY(auto found, storage_.find(std::span(&ref, 1), want));
    return std::move(found.front());
}

Result<std::shared_ptr<const NamespaceRow>> Reader::Run::find_namespace(const NamespaceRef& ref) {
    KV_TRY(Found found, find_one({ref, "", {}}, {}));
    ns_ = found.ns;
    return found.ns;
}

// What comes before every other judgement of a read in a namespace.
Result<void> Reader::Run::enter(const Actor& actor, const NamespaceRow* ns) const {
    KV_CHECK(may_touch(actor, ns));
    if (vault_.is_intact(*ns)) return {};
    return tampered_namespace();
}

// In a page an entry that does not open carries its error instead of its value.
Result<void> Reader::Run::show_value(const NamespaceRow& ns, const EntryRow& row, Entry& entry) {
    auto value = vault_.open(storage_, ns, row);
    if (value) {
        entry.value = *std::move(value);
    } else if (value.error().code == Errc::integrity) {
        entry.error = std::move(value).error();
    } else {
        return std::move(value).error();
    }
    return {};
}

AuditRecord Reader::Run::record(const ReadItem& item, const NamespaceRow* ns, std::string_view key_path) const {
    Description what = describe(item.operation.request);
    what.key_path = key_path;
    // The time is set when the row is committed, unless the storage's clock can be asked for nothing.
    auto now = storage_.now();
    return make_record(item.operation.actor, what, now ? *now : Time{}, ns);
}

void Reader::Run::record_entry(ReadItem& item, const NamespaceRow& ns, const Entry& entry) {
    AuditRecord row = record(item, &ns, entry.key_path);
    row.entry_id = entry.id;
    row.version = entry.version;
    if (entry.error) {
        row.success = false;
        row.reason = code_name(entry.error->code);
    }
    item.audit.push_back(std::move(row));
}

void Reader::Run::fail(ReadItem& item, const NamespaceRow* ns, Error error) {
    // What was going to be shown is not.
    std::erase_if(item.audit, [](const AuditRecord& row) { return row.success; });
    if (item.audit.empty()) {
        auto now = storage_.now();
        item.audit.push_back(failure_record(item.operation, error, now ? *now : Time{}, ns));
    }
    item.reply = std::move(error);
}

void Reader::Run::defer_audit(ReadItem& item, const NamespaceRow& ns) const {
    item.audit_may_wait = settings_.read_audit == ReadAudit::deferred_for_plain && !ns.is_secret;
}

std::string Reader::Run::bind(const ReadItem& item, BytesWriter query) const {
    BytesWriter binding;
    binding.string(describe(item.operation.request).operation);
    binding.string(item.operation.actor.user_id);
    binding.string(query.str());
    return binding.take();
}

// Where the page begins: empty for the first one.
Result<std::string> Reader::Run::position(const ReadItem& item, const Page& page, const BytesWriter& query) const {
    if (page.cursor.empty()) return std::string();
    return read_cursor(vault_.keys(), settings_.epoch, bind(item, query), page.cursor);
}

std::string Reader::Run::cursor(const ReadItem& item, const BytesWriter& query, std::string_view position) const {
    return make_cursor(vault_.keys(), settings_.epoch, bind(item, query), position);
}

// ---- point reads ----

void Reader::Run::point(std::vector<ReadItem*>& items) {
    std::vector<EntryRef> refs;
    refs.reserve(items.size());
    for (ReadItem* item : items) {
        if (auto* get = std::get_if<GetEntry>(&item->operation.request)) {
            VersionPick pick;
            if (get->version) pick = {VersionPick::Kind::exact, *get->version};
            refs.push_back({get->ns, get->key_path, pick});
        } else {
            refs.push_back({std::get<GetNamespace>(item->operation.request).ns, "", {}});
        }
    }
    auto found = storage_.find(refs, Want{true, false});
    auto now = storage_.now();
    for (std::size_t i = 0; i < items.size(); ++i) {
        ReadItem& item = *items[i];
        if (!found || !now) {
            fail(item, nullptr, found ? now.error() : found.error());
            continue;
        }
        const Found& one = (*found)[i];
        auto* get = std::get_if<GetEntry>(&item.operation.request);
        auto reply = get != nullptr ? get_entry(item, *get, one, *now)
                                    : get_namespace(item, std::get<GetNamespace>(item.operation.request), one.ns.get());
        if (reply) {
            item.reply = std::move(reply);
        } else {
            fail(item, one.ns.get(), std::move(reply).error());
        }
    }
}

Result<Reply> Reader::Run::get_entry(ReadItem& item, const GetEntry& request, const Found& found, Time now) {
    KV_CHECK(enter(item.operation.actor, found.ns.get()));
    KV_TRY(const Shown shown, judge_get(item.operation.actor, request, found, now));
    const NamespaceRow& ns = *found.ns;
    EntryReply reply;
    reply.entry = show_entry(*found.entry);
    if (shown.archived != nullptr) {
        const VersionRow& row = *shown.archived;
        reply.entry.version = row.version;
        reply.entry.revision = row.revision;
        reply.entry.value_type = row.value_type;
        reply.entry.ttl_seconds = row.ttl_seconds;
        reply.entry.expires_at = row.expires_at;
        reply.entry.metadata = row.metadata;
        reply.entry.updated_at = row.changed_at;
        reply.entry.updated_by = row.changed_by;
    }
    reply.etag = entry_etag(settings_.epoch, reply.entry.revision);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    if (!reply.not_modified) {
        KV_TRY(reply.entry.value, shown.archived != nullptr
                                      ? vault_.open(storage_, ns, request.key_path, *shown.archived)
                                      : vault_.open(storage_, ns, *shown.current));
    }
    record_entry(item, ns, reply.entry);
    defer_audit(item, ns);
    return Reply(std::move(reply));
}

Result<Reply> Reader::Run::get_namespace(ReadItem& item, const GetNamespace& request, const NamespaceRow* ns) {
    KV_CHECK(enter(item.operation.actor, ns));
    KV_CHECK(may(item.operation.actor, ns, Permission::namespace_read));
    NamespaceReply reply;
    reply.ns = show_namespace(*ns);
    reply.etag = namespace_etag(settings_.epoch, *ns);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    item.audit.push_back(record(item, ns, ""));
    return Reply(std::move(reply));
}

// ---- the rest ----

void Reader::Run::single(ReadItem& item) {
    ns_ = nullptr;
    auto reply = std::visit([&](const auto& request) { return run(item, request); }, item.operation.request);
    if (reply) {
        item.reply = std::move(reply);
    } else {
        fail(item, ns_.get(), std::move(reply).error());
    }
}

Result<Reply> Reader::Run::run(ReadItem& item, const RecordRefusal& request) {
    KV_TRY(const Time now, storage_.now());
    item.audit.push_back(failure_record(item.operation, Error{request.reason, ""}, now, nullptr));
    return Reply(Done{});
}

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
    KV_TRY(const Time now, storage_.now());
    KV_CHECK(enter(item.operation.actor, ns.get()));
    KV_TRY(EntryRange range, judge_list(item.operation.actor, request, ns.get(), now, page_limit(request.page)));
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

Result<Reply> Reader::Run::run(ReadItem& item, const ListVersions& request) {
    KV_TRY(const Found found, find_one({request.ns, request.key_path, {}}, Want{request.include_values, false}));
    ns_ = found.ns;
    KV_TRY(const Time now, storage_.now());
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

// ---- bulk get ----

Result<void> Reader::Run::judge_keys(ReadItem& item, const BulkGet& request, const NamespaceRow* ns) {
    const Actor& actor = item.operation.actor;
    const Rights rights(actor, *ns);
    Error error = denied(Permission::entry_read);
    for (const std::string& key : request.keys) {
        auto allowed = require(rights, Permission::entry_read, key);
        if (allowed) continue;
        AuditRecord row = record(item, ns, key);
        row.success = false;
        row.reason = code_name(Errc::permission_denied);
        item.audit.push_back(std::move(row));
        error.items.push_back(std::move(allowed).error());
    }
    if (error.items.empty()) return {};
    return error;
}

Result<void> Reader::Run::get_keys(ReadItem& item, const BulkGet& request, BulkGetReply& reply, Time now) {
    std::size_t bytes = 0;
    for (std::size_t at = 0; at < request.keys.size(); at += bulk_chunk) {
        const std::size_t end = std::min(at + bulk_chunk, request.keys.size());
        if (bytes >= limits_.bulk_get_bytes_max) {
            reply.remaining.insert(reply.remaining.end(), request.keys.begin() + static_cast<std::ptrdiff_t>(at), request.keys.end());
            return {};
        }
        std::vector<EntryRef> refs;
        for (std::size_t i = at; i < end; ++i) refs.push_back({NamespaceRef(ns_->id), request.keys[i], {}});
        KV_TRY(const std::vector<Found> found, storage_.find(refs, Want{true, false}));
        for (std::size_t i = at; i < end; ++i) {
            const Found& one = found[i - at];
            if (!one.entry || !is_live(*one.entry, now)) {
                AuditRecord row = record(item, ns_.get(), request.keys[i]);
                row.success = false;
                row.reason = code_name(Errc::not_found);
                item.audit.push_back(std::move(row));
                reply.missing.push_back(request.keys[i]);
            } else if (bytes >= limits_.bulk_get_bytes_max) {
                reply.remaining.push_back(request.keys[i]);
            } else {
                Entry entry = show_entry(*one.entry);
                KV_CHECK(show_value(*ns_, *one.entry, entry));
                bytes += entry.value ? entry.value->size() : 0;
                record_entry(item, *ns_, entry);
                reply.entries.push_back(std::move(entry));
            }
        }
    }
    return {};
}

Result<Reply> Reader::Run::run(ReadItem& item, const BulkGet& request) {
    KV_TRY(const auto ns, find_namespace(request.ns));
    KV_CHECK(enter(item.operation.actor, ns.get()));
    KV_CHECK(judge_keys(item, request, ns.get()));
    KV_TRY(const Time now, storage_.now());
    BulkGetReply reply;
    KV_CHECK(get_keys(item, request, reply, time_in(*ns, now)));
    BytesWriter shown;
    for (const Entry& entry : reply.entries) write_item(shown, entry);
    for (const auto* keys : {&reply.missing, &reply.remaining}) {
        shown.u32(static_cast<std::uint32_t>(keys->size()));
        for (const std::string& key : *keys) shown.string(key);
    }
    reply.etag = list_etag(settings_.epoch, shown);
    reply.not_modified = matches_etag(request.if_none_match, reply.etag);
    if (reply.not_modified) reply.entries.clear();
    defer_audit(item, *ns);
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
    KV_TRY(const Time now, storage_.now());
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
