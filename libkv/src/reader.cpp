#include <algorithm>

#include "authorize.h"
#include "crypto/hash.h"
#include "cursor.h"
#include "denials.h"
#include "plan_parts.h"
#include "reader_run.h"
#include "text.h"

namespace kv {
namespace {

constexpr std::size_t bulk_chunk = 32;  // keys of a bulk get found at once, which bounds what is held in memory

}  // namespace

std::string list_etag(std::string_view epoch, const BytesWriter& shown) {
    const Mac hash = crypto::blake2b(shown.str());
    return std::string(epoch) + '-' + base64url_encode({reinterpret_cast<const char*>(hash.data()), 18});
}

void write_item(BytesWriter& shown, const Entry& entry) {
    shown.uuid(entry.id);
    shown.u64(entry.revision);
    shown.u8(entry.error ? 1 : 0);
}

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

void Reader::refuse(ReadItem& item, Error error) const { Run(*this).refuse(item, std::move(error)); }

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
Result<void> Reader::Run::enter(const Actor& actor, const NamespaceRow* ns) {
    KV_CHECK(may_touch(actor, ns));
    if (ns == intact_) return {};
    if (!vault_.is_intact(*ns)) return tampered_namespace();
    if (shares_rows_) intact_ = ns;
    return {};
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
    auto now = settings_.time.now(storage_);
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
        auto now = settings_.time.now(storage_);
        item.audit.push_back(failure_record(item.operation, error, now ? *now : Time{}, ns));
    }
    item.is_denied = is_denial(item.operation.actor, error, ns);
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
    auto now = settings_.time.now(storage_);
    shares_rows_ = true;
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
    shares_rows_ = false;
    intact_ = nullptr;
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
    reply.etag = entry_etag(settings_.epoch, ns.id, reply.entry.revision);
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
    KV_TRY(const Time now, settings_.time.now(storage_));
    const Error error{request.reason, ""};
    item.audit.push_back(failure_record(item.operation, error, now, nullptr));
    item.is_denied = is_denial(item.operation.actor, error, nullptr);
    return Reply(Done{});
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
    KV_TRY(const Time now, settings_.time.now(storage_));
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
}  // namespace kv
