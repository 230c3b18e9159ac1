#pragma once
#include "kv/rows.h"

// The columns of each table in one order, which the SQL texts and the exchange functions below share. An exchange
// function hands every field of a row, in that order, to `io`, which binds or reads them.
#define KV_NAMESPACE_COLUMNS                                                                                          \
    "id, application_id, name, description, is_secret, sealing, default_ttl_seconds, keeps_history, history_limit, " \
    "deletion_protection, version, revision, key_generation, seals, version_floor, version_base, changed_at, "       \
    "created_at, created_by, updated_at, updated_by, deleted_at, mac"
#define KV_ENTRY_COLUMNS                                                                                              \
    "id, namespace_id, key_path, is_tombstone, value_type, key_generation, version, revision, reason, comment, "     \
    "rolled_back_from, ttl_seconds, expires_at, metadata, history_floor, hidden_since, created_at, created_by, "     \
    "updated_at, updated_by, request_id"
#define KV_VERSION_COLUMNS                                                                                            \
    "entry_id, namespace_id, version, is_tombstone, value_type, key_generation, revision, reason, comment, "         \
    "rolled_back_from, ttl_seconds, expires_at, metadata, changed_at, changed_by, request_id"
#define KV_AUDIT_COLUMNS                                                                                              \
    "stream, sequence, at, namespace_id, entry_id, key_path, action, operation, user_id, credential_id, "            \
    "application_id, peer, request_id, success, reason, version, revision, count, mac"
#define KV_EVENT_COLUMNS "namespace_id, revision, entry_id, key_path, kind, version, at, user_id"
#define KV_SINK_COLUMNS "name, registered_at, owner, owned_until, owners"
#define KV_CURSOR_COLUMNS "sink, namespace_id, application_id, revision"
#define KV_TOKEN_COLUMNS "id, hash, name, user_id, grants, created_at, created_by, expires_at, last_used_at, mac"
#define KV_HEAD_COLUMNS "stream, sequence, mac, closed"
#define KV_KEY_COLUMNS                                                                                                \
    "purpose, namespace_id, generation, application_id, created_at, wrap_key_id, wrap, second_wrap_key_id, "         \
    "second_wrap, commitment"

namespace kv {

// Marks bytes that are to be bytes in the database; every other string is text.
template <class String>
struct Blob {
    String& bytes;
};
template <class String>
Blob(String&) -> Blob<String>;

// The highest number of an enumeration in a row: a database changed by others must not bring in numbers without a name.
template <class E>
inline constexpr int last_of = 0;
template <>
inline constexpr int last_of<ValueType> = 5;
template <>
inline constexpr int last_of<Reason> = 6;
template <>
inline constexpr int last_of<AuditAction> = 5;
template <>
inline constexpr int last_of<EventKind> = 7;
template <>
inline constexpr int last_of<KeyPurpose> = 6;
template <>
inline constexpr int last_of<HeadState> = 2;

template <class Row, class Io>
void exchange_namespace(Row& row, Io&& io) {
    io(row.id, row.application_id, row.name, row.description, row.is_secret, row.sealing, row.default_ttl_seconds,
       row.keeps_history, row.history_limit, row.deletion_protection, row.version, row.revision, row.key_generation,
       row.seals, row.version_floor, row.version_base, row.changed_at, row.created_at, row.created_by, row.updated_at,
       row.updated_by, row.deleted_at, row.mac);
}

template <class Row, class Io>
void exchange_entry(Row& row, Io&& io) {
    io(row.id, row.ns, row.key_path, row.is_tombstone, row.value_type, row.key_generation, row.version, row.revision,
       row.reason, row.comment, row.rolled_back_from, row.ttl_seconds, row.expires_at, row.metadata, row.history_floor,
       row.hidden_since, row.created_at, row.created_by, row.updated_at, row.updated_by, row.request_id,
       Blob{row.value});
}

template <class Row, class Io>
void exchange_version(Row& row, Io&& io) {
    io(row.entry_id, row.ns, row.version, row.is_tombstone, row.value_type, row.key_generation, row.revision,
       row.reason, row.comment, row.rolled_back_from, row.ttl_seconds, row.expires_at, row.metadata, row.changed_at,
       row.changed_by, row.request_id, Blob{row.value});
}

template <class Row, class Io>
void exchange_audit(Row& row, Io&& io) {
    auto& record = row.record;
    io(record.stream, record.sequence, record.timestamp, record.namespace_id, record.entry_id, record.key_path,
       record.action, record.operation, record.user_id, record.credential_id, record.application_id, record.peer,
       record.request_id, record.success, record.reason, record.version, record.revision, record.count,
       row.mac);
}

template <class Row, class Io>
void exchange_event(Row& row, Io&& io) {
    io(row.ns, row.revision, row.entry_id, row.key_path, row.kind, row.version, row.at, row.user_id);
}

template <class Row, class Io>
void exchange_sink(Row& row, Io&& io) {
    io(row.name, row.registered_at, row.owner, row.owned_until, row.owners);
}

template <class Row, class Io>
void exchange_cursor(Row& row, Io&& io) {
    io(row.sink, row.ns, row.application_id, row.revision);
}

template <class Row, class Io>
void exchange_token(Row& row, Io&& io) {
    io(row.id, row.hash, row.name, row.user_id, row.grants, row.created_at, row.created_by, row.expires_at, row.last_used_at, row.mac);
}

template <class Row, class Io>
void exchange_head(Row& row, Io&& io) {
    io(row.stream, row.sequence, row.mac, row.state);
}

template <class Row, class Io>
void exchange_key(Row& row, Io&& io) {
    io(row.purpose, row.ns, row.generation, row.application_id, row.created_at, row.wrap_key_id, Blob{row.wrap},
       row.second_wrap_key_id, Blob{row.second_wrap}, row.commitment);
}

}  // namespace kv
