#include <string>

#include "grants_json.h"
#include "json/json.h"
#include "kvd/json.h"
#include "text.h"

namespace kvd {
namespace {

using kv::json::Writer;

void put(Writer& out, std::string_view text) { out.string(text); }
void put(Writer& out, const std::string& text) { out.string(text); }
void put(Writer& out, bool value) { out.boolean(value); }
void put(Writer& out, std::uint64_t value) { out.number(value); }
void put(Writer& out, std::int64_t value) { out.number(value); }
void put(Writer& out, const kv::Uuid& id) { out.string(id.to_string()); }
void put(Writer& out, kv::Time time) { out.string(kv::format_time(time)); }

template <class T>
void put(Writer& out, const std::optional<T>& value) {
    if (value) put(out, *value);
    else out.null();
}

template <class T>
void member(Writer& out, std::string_view name, const T& value) {
    out.key(name);
    put(out, value);
}

// Text that libkv leaves empty where there is nothing to tell.
void text_or_null(Writer& out, std::string_view name, const std::string& text) {
    out.key(name);
    if (text.empty()) out.null();
    else out.string(text);
}

void strings(Writer& out, std::string_view name, const std::vector<std::string>& list) {
    out.key(name);
    out.begin_array();
    for (const std::string& text : list) out.string(text);
    out.end_array();
}

// The native JSON form of a value.
void put_value(Writer& out, kv::ValueType type, std::string_view bytes) {
    switch (type) {
        case kv::ValueType::string: out.string(bytes); return;
        case kv::ValueType::json:
        case kv::ValueType::number:
        case kv::ValueType::boolean: out.raw(bytes); return;
        case kv::ValueType::binary: {
            std::string text = kv::base64_encode(bytes);
            out.string(text);
            kv::json::wipe(text);
            return;
        }
    }
}

// What there is to say about one item: as a member of a list of errors, or in the place of a value.
void put_item_error(Writer& out, const kv::Error& error) {
    out.begin_object();
    out.member("code", kv::code_name(error.code));
    out.member("detail", printable(error.message));
    if (!error.field.empty()) out.member("field", printable(error.field));
    if (!error.key_path.empty()) out.member("keyPath", printable(error.key_path));
    if (error.limit) out.member("limit", *error.limit);
    if (error.current_version) out.member("currentVersion", *error.current_version);
    out.end_object();
}

void value_or_error(Writer& out, kv::ValueType type, const std::optional<kv::SecretBytes>& value,
                    const std::optional<kv::Error>& error) {
    if (error) {
        out.key("error");
        put_item_error(out, *error);
    } else if (value) {
        out.key("value");
        put_value(out, type, value->reveal());
    }
}

void put(Writer& out, const kv::Namespace& ns) {
    out.begin_object();
    member(out, "id", ns.id);
    member(out, "name", ns.name);
    member(out, "description", ns.description);
    member(out, "applicationId", ns.application_id);
    member(out, "isSecretNamespace", ns.is_secret);
    member(out, "defaultTtlSeconds", ns.default_ttl_seconds);
    member(out, "keepsHistory", ns.keeps_history);
    member(out, "historyLimit", ns.history_limit);
    member(out, "deletionProtection", ns.deletion_protection);
    member(out, "sealing", ns.sealing);
    member(out, "version", ns.version);
    member(out, "revision", ns.revision);
    member(out, "createdAt", ns.created_at);
    member(out, "createdBy", ns.created_by);
    member(out, "updatedAt", ns.updated_at);
    member(out, "updatedBy", ns.updated_by);
    out.end_object();
}

void members(Writer& out, const kv::Token& token) {
    member(out, "id", token.id);
    member(out, "name", token.name);
    member(out, "userId", token.user_id);
    out.key("grants");
    kv::write_grants(out, token.grants);
    member(out, "createdAt", token.created_at);
    member(out, "createdBy", token.created_by);
    member(out, "expiresAt", token.expires_at);
    member(out, "lastUsedAt", token.last_used_at);
}

void put(Writer& out, const kv::Token& token) {
    out.begin_object();
    members(out, token);
    out.end_object();
}

void put(Writer& out, const kv::Entry& entry) {
    out.begin_object();
    member(out, "id", entry.id);
    member(out, "namespaceId", entry.namespace_id);
    member(out, "keyPath", entry.key_path);
    value_or_error(out, entry.value_type, entry.value, entry.error);
    member(out, "valueType", kv::to_string(entry.value_type));
    member(out, "version", entry.version);
    member(out, "revision", entry.revision);
    member(out, "ttlSeconds", entry.ttl_seconds);
    member(out, "expiresAt", entry.expires_at);
    out.key("metadata");
    out.raw(entry.metadata);
    member(out, "createdAt", entry.created_at);
    member(out, "createdBy", entry.created_by);
    member(out, "updatedAt", entry.updated_at);
    member(out, "updatedBy", entry.updated_by);
    out.end_object();
}

void put(Writer& out, const kv::Version& version) {
    out.begin_object();
    member(out, "version", version.version);
    member(out, "valueType", kv::to_string(version.value_type));
    member(out, "reason", kv::to_string(version.reason));
    member(out, "comment", version.comment);
    member(out, "changedBy", version.changed_by);
    member(out, "changedAt", version.changed_at);
    member(out, "requestId", version.request_id);
    member(out, "current", version.is_current);
    member(out, "rolledBackFrom", version.rolled_back_from);
    value_or_error(out, version.value_type, version.value, version.error);
    out.end_object();
}

void put(Writer& out, const kv::AuditRecord& record) {
    out.begin_object();
    // A stream numbers its rows without gaps, so that the two together name one.
    out.member("id", record.stream.to_string() + "-" + std::to_string(record.sequence));
    member(out, "stream", record.stream);
    member(out, "sequence", record.sequence);
    member(out, "timestamp", record.timestamp);
    member(out, "namespaceId", record.namespace_id);
    member(out, "entryId", record.entry_id);
    text_or_null(out, "keyPath", record.key_path);
    member(out, "action", kv::to_string(record.action));
    member(out, "operation", record.operation);
    text_or_null(out, "userId", record.user_id);
    text_or_null(out, "credentialId", record.credential_id);
    text_or_null(out, "applicationId", record.application_id);
    text_or_null(out, "peer", record.peer);
    text_or_null(out, "requestId", record.request_id);
    member(out, "success", record.success);
    text_or_null(out, "reason", record.reason);
    member(out, "version", record.version);
    member(out, "count", record.count);
    out.end_object();
}

void put(Writer& out, const kv::BulkSetResult& result) {
    using Status = kv::BulkSetResult::Status;
    out.begin_object();
    member(out, "keyPath", result.key_path);
    out.member("status", result.status == Status::created   ? "created"
                         : result.status == Status::updated ? "updated"
                                                            : "failed");
    out.key("version");
    if (result.status == Status::failed) out.null();
    else out.number(result.version);
    if (result.error) {
        out.key("error");
        put_item_error(out, *result.error);
    }
    out.end_object();
}

// Findings are about rows that may have been tampered with: their texts may be no UTF-8.
void put(Writer& out, const kv::Finding& finding) {
    out.begin_object();
    member(out, "kind", finding.kind);
    out.member("message", printable(finding.message));
    member(out, "namespaceId", finding.ns);
    text_or_null(out, "keyPath", printable(finding.key_path));
    member(out, "version", finding.version);
    member(out, "stream", finding.stream);
    member(out, "sequence", finding.sequence);
    out.end_object();
}

template <class T>
void array(Writer& out, std::string_view name, const std::vector<T>& items) {
    out.key(name);
    out.begin_array();
    for (const T& item : items) put(out, item);
    out.end_array();
}

template <class List>
std::string write_list(const List& list) {
    Writer out;
    out.begin_object();
    array(out, "items", list.items);
    member(out, "nextCursor", list.next_cursor);
    out.end_object();
    return out.take();
}

template <class T>
std::string write_one(const T& value) {
    Writer out;
    put(out, value);
    return out.take();
}

// "version-conflict" -> "Version conflict".
std::string title(kv::Errc code) {
    std::string text(kv::code_name(code));
    for (char& c : text) {
        if (c == '-') c = ' ';
    }
    text[0] = static_cast<char>(text[0] - 'a' + 'A');
    return text;
}

}  // namespace

std::string printable(std::string_view text) {
    if (kv::is_valid_utf8(text)) return std::string(text);
    std::string shown;
    for (char c : text) {
        if (static_cast<unsigned char>(c) < 0x80) shown.push_back(c);
        else shown += "\xef\xbf\xbd";
    }
    return shown;
}

std::string write_json(const kv::Namespace& ns) { return write_one(ns); }
std::string write_json(const kv::NamespaceList& list) { return write_list(list); }
std::string write_json(const kv::TokenList& list) { return write_list(list); }
std::string write_json(const kv::TokenReply& made) {
    Writer out;
    out.begin_object();
    out.member("token", made.secret.reveal());
    members(out, made.token);
    out.end_object();
    return out.take();
}
std::string write_json(const kv::Entry& entry) { return write_one(entry); }
std::string write_json(const kv::EntryList& list, bool with_prefixes) {
    Writer out;
    out.begin_object();
    array(out, "items", list.items);
    if (with_prefixes) strings(out, "prefixes", list.prefixes);
    member(out, "nextCursor", list.next_cursor);
    member(out, "revision", list.revision);
    out.end_object();
    return out.take();
}
std::string write_json(const kv::VersionList& list) { return write_list(list); }
std::string write_json(const kv::AuditList& list) { return write_list(list); }

std::string write_json(const kv::BulkGetReply& reply) {
    Writer out;
    out.begin_object();
    array(out, "entries", reply.entries);
    strings(out, "missing", reply.missing);
    strings(out, "remaining", reply.remaining);
    out.end_object();
    return out.take();
}

std::string write_json(const kv::BulkSetReply& reply) {
    Writer out;
    out.begin_object();
    array(out, "results", reply.results);
    out.end_object();
    return out.take();
}

std::string write_json(const kv::BulkDeleteReply& reply) {
    Writer out;
    out.begin_object();
    strings(out, "deleted", reply.deleted);
    strings(out, "missing", reply.missing);
    out.key("failed");
    out.begin_array();
    for (const kv::Error& error : reply.failed) put_item_error(out, error);
    out.end_array();
    out.end_object();
    return out.take();
}

std::string write_json(const kv::AuditRecord& record) { return write_one(record); }

std::string write_json(const kv::Event& event) {
    Writer out;
    out.begin_object();
    member(out, "id", event.id());
    member(out, "namespaceId", event.ns);
    member(out, "applicationId", event.application_id);
    member(out, "entryId", event.entry_id);
    member(out, "keyPath", event.key_path);
    member(out, "kind", kv::to_string(event.kind));
    member(out, "version", event.version);
    member(out, "revision", event.revision);
    member(out, "at", event.at);
    text_or_null(out, "userId", event.user_id);
    out.end_object();
    return out.take();
}

std::string write_json(const kv::VerifyReport& report) {
    Writer out;
    out.begin_object();
    member(out, "sound", report.is_sound());
    array(out, "findings", report.findings);
    member(out, "findingsTotal", report.findings_total);
    member(out, "keys", report.keys);
    member(out, "namespaces", report.namespaces);
    member(out, "streams", report.streams);
    member(out, "auditRows", report.audit_rows);
    member(out, "entries", report.entries);
    member(out, "versions", report.versions);
    member(out, "valuesOpened", report.values_opened);
    strings(out, "notes", report.notes);
    out.end_object();
    return out.take();
}

std::string write_problem(const kv::Error& error, unsigned status, std::string_view request_id) {
    Writer out;
    std::string code(kv::code_name(error.code));
    out.begin_object();
    out.member("type", "urn:kvd:problem:" + code);
    out.member("title", title(error.code));
    out.member("status", std::uint64_t{status});
    out.member("detail", printable(error.message));
    out.member("code", code);
    out.member("requestId", printable(request_id));
    if (!error.field.empty()) out.member("field", printable(error.field));
    if (!error.key_path.empty()) out.member("keyPath", printable(error.key_path));
    if (error.limit) out.member("limit", *error.limit);
    if (error.current_version) out.member("currentVersion", *error.current_version);
    if (!error.items.empty()) {
        out.key("errors");
        out.begin_array();
        for (const kv::Error& item : error.items) put_item_error(out, item);
        out.end_array();
    }
    out.end_object();
    return out.take();
}

}  // namespace kvd
