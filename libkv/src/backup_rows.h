#pragma once
#include <type_traits>

#include "bytes.h"
#include "kv/rows.h"

// The rows of a backup as bytes. An exchange function hands every member of a row, in one order, to `io`, which writes or
// reads them. It names all members at once, so that a new one is not forgotten here: it does not compile then. Whoever
// adds one makes a new backup format, and reads the old one too.
namespace kv::backup {

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, KeyRow>
{
    auto& [purpose, ns, generation, application_id, created_at, wrap_key_id, wrap, second_wrap_key_id, second_wrap,
           commitment] = row;
    io(purpose, ns, generation, application_id, created_at, wrap_key_id, wrap, second_wrap_key_id, second_wrap, commitment);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, MetaRow>
{
    auto& [name, value] = row;
    io(name, value);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, NamespaceRow>
{
    auto& [id, application_id, name, description, is_secret, sealing, default_ttl_seconds, keeps_history, history_limit,
           deletion_protection, version, revision, key_generation, seals, version_floor, version_base, changed_at,
           created_at, created_by, updated_at, updated_by, deleted_at, mac] = row;
    io(id, application_id, name, description, is_secret, sealing, default_ttl_seconds, keeps_history, history_limit,
       deletion_protection, version, revision, key_generation, seals, version_floor, version_base, changed_at, created_at,
       created_by, updated_at, updated_by, deleted_at, mac);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, EntryRow>
{
    auto& [id, ns, key_path, is_tombstone, value, value_type, key_generation, version, revision, reason, comment,
           rolled_back_from, ttl_seconds, expires_at, metadata, history_floor, hidden_since, created_at, created_by,
           updated_at, updated_by, request_id] = row;
    io(id, ns, key_path, is_tombstone, value, value_type, key_generation, version, revision, reason, comment,
       rolled_back_from, ttl_seconds, expires_at, metadata, history_floor, hidden_since, created_at, created_by, updated_at,
       updated_by, request_id);
}

// Without the key path, which is its entry's.
template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, VersionRow>
{
    auto& [entry_id, ns, key_path, version, is_tombstone, value, value_type, key_generation, revision, reason, comment,
           rolled_back_from, ttl_seconds, expires_at, metadata, changed_at, changed_by, request_id] = row;
    static_cast<void>(key_path);
    io(entry_id, ns, version, is_tombstone, value, value_type, key_generation, revision, reason, comment,
       rolled_back_from, ttl_seconds, expires_at, metadata, changed_at, changed_by, request_id);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, EventRow>
{
    auto& [ns, revision, entry_id, key_path, kind, version, at, user_id] = row;
    io(ns, revision, entry_id, key_path, kind, version, at, user_id);
}

// Without the position: rows come in its order, and a storage gives its own.
template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, AuditRow>
{
    auto& [record, mac, position] = row;
    static_cast<void>(position);
    auto& [stream, sequence, timestamp, namespace_id, entry_id, key_path, action, operation, user_id, credential_id,
           application_id, peer, request_id, success, reason, version, revision, count] = record;
    io(stream, sequence, timestamp, namespace_id, entry_id, key_path, action, operation, user_id, credential_id,
       application_id, peer, request_id, success, reason, version, revision, count, mac);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, AuditHead>
{
    auto& [stream, sequence, mac, state] = row;
    io(stream, sequence, mac, state);
}

template <class Row, class Io>
void exchange(Row& row, Io&& io)
    requires std::is_same_v<std::remove_const_t<Row>, TokenRow>
{
    auto& [id, hash, name, user_id, grants, created_at, created_by, expires_at, last_used_at, mac] = row;
    io(id, hash, name, user_id, grants, created_at, created_by, expires_at, last_used_at, mac);
}

class RowWriter {
public:
    explicit RowWriter(BytesWriter& out) : out_(out) {}
    template <class... Members>
    void operator()(const Members&... members) {
        (put(members), ...);
    }

private:
    void put(bool value) { out_.u8(value ? 1 : 0); }
    void put(std::uint32_t value) { out_.u32(value); }
    void put(std::uint64_t value) { out_.u64(value); }
    void put(std::int64_t value) { out_.i64(value); }
    void put(const std::string& value) { out_.string(value); }
    void put(const Uuid& value) { out_.uuid(value); }
    void put(Time value) { out_.time(value); }
    void put(const Mac& value) { out_.raw({reinterpret_cast<const char*>(value.data()), value.size()}); }
    template <class T>
        requires std::is_enum_v<T>
    void put(T value) {
        static_assert(sizeof(T) == 1);
        out_.u8(static_cast<std::uint8_t>(value));
    }
    template <class T>
    void put(const std::optional<T>& value) {
        out_.optional(value, [&](const T& inner) { put(inner); });
    }

    BytesWriter& out_;
};

class RowReader {
public:
    explicit RowReader(BytesReader& in) : in_(in) {}
    template <class... Members>
    void operator()(Members&... members) {
        (get(members), ...);
    }

private:
    void get(bool& value) { value = in_.u8() != 0; }
    void get(std::uint32_t& value) { value = in_.u32(); }
    void get(std::uint64_t& value) { value = in_.u64(); }
    void get(std::int64_t& value) { value = in_.i64(); }
    void get(std::string& value) { value = in_.string(); }
    void get(Uuid& value) { value = in_.uuid(); }
    void get(Time& value) { value = in_.time(); }
    void get(Mac& value) {
        const std::string_view bytes = in_.raw(value.size());
        std::copy(bytes.begin(), bytes.end(), value.begin());
    }
    template <class T>
        requires std::is_enum_v<T>
    void get(T& value) {
        value = static_cast<T>(in_.u8());
    }
    template <class T>
    void get(std::optional<T>& value) {
        if (in_.u8() == 0) return value.reset();
        get(value.emplace());
    }

    BytesReader& in_;
};

}  // namespace kv::backup
