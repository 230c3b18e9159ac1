#pragma once
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kv/memory.h"
#include "kv/sqlite.h"

// What every backend must do is tested with these. A backend is a struct with `open(clock)`, added to KV_BACKENDS.
namespace kv::conformance {

class FixedClock final : public Clock {
public:
    Time now() override { return Time(std::chrono::microseconds(1'700'000'000'123'456)); }
};

struct Memory {
    std::unique_ptr<Storage> open(Clock& clock) { return make_memory_storage(clock); }
};

struct Sqlite {
    Sqlite() {
        std::string name = (std::filesystem::temp_directory_path() / "kv-storage-XXXXXX").string();
        folder = ::mkdtemp(name.data());
    }
    ~Sqlite() { std::filesystem::remove_all(folder); }
    std::unique_ptr<Storage> open(Clock& clock) { return open_sqlite_storage({folder / "kv.db"}, clock).value(); }
    std::filesystem::path folder;
};

#ifndef KV_BACKENDS
#define KV_BACKENDS Memory, Sqlite
#endif

// ---- rows to work with ----

inline Uuid uuid(int number, int kind = 0) {
    Uuid id;
    id.bytes[0] = static_cast<std::uint8_t>(kind);
    for (int i = 0; i < 4; ++i) id.bytes[12 + i] = static_cast<std::uint8_t>(number >> (24 - 8 * i));
    return id;
}
inline NamespaceId ns_id(int number) { return uuid(number, 1); }
inline EntryId entry_id(int number) { return uuid(number, 2); }
inline StreamId stream_id(int number) { return uuid(number, 3); }
inline Time at(std::int64_t seconds) { return Time(std::chrono::seconds(seconds)); }
inline Mac mac(int number) {
    Mac value{};
    value[0] = static_cast<std::uint8_t>(number);
    value[31] = 0xff;
    return value;
}

inline NamespaceRow make_namespace(int number, std::string name = "production", std::string application = "default") {
    NamespaceRow row;
    row.id = ns_id(number);
    row.application_id = std::move(application);
    row.name = std::move(name);
    row.created_by = "maker";
    row.mac = mac(number);
    return row;
}

inline EntryRow make_entry(int number, std::string key, std::string value = "value", int ns = 1) {
    EntryRow row;
    row.id = entry_id(number);
    row.ns = ns_id(ns);
    row.key_path = std::move(key);
    row.value = std::move(value);
    row.version = 1;
    row.revision = static_cast<std::uint64_t>(number);
    row.created_by = row.updated_by = "writer";
    return row;
}

inline VersionRow make_version(int entry, std::uint64_t version, std::string value = "old") {
    VersionRow row;
    row.entry_id = entry_id(entry);
    row.ns = ns_id(1);
    row.version = version;
    row.value = std::move(value);
    return row;
}

inline AuditRow make_audit(int number) {
    AuditRow row;
    row.record.stream = stream_id(1);
    row.record.sequence = static_cast<std::uint64_t>(number);
    row.record.timestamp = at(number);
    row.record.operation = "entry.get";
    row.record.user_id = "user";
    row.mac = mac(number);
    return row;
}

inline EventRow make_event(int ns, std::uint64_t revision) {
    EventRow row;
    row.ns = ns_id(ns);
    row.revision = revision;
    row.entry_id = entry_id(1);
    row.key_path = "key";
    return row;
}

inline KeyRow make_key(KeyPurpose purpose, int ns = 0, std::uint32_t generation = 1) {
    KeyRow row;
    row.purpose = purpose;
    row.ns = ns ? ns_id(ns) : NamespaceId{};
    row.generation = generation;
    row.wrap = "wrapped";
    return row;
}

// ---- rows as one comparable value ----

inline auto tie(const NamespaceRow& r) {
    return std::tie(r.id, r.application_id, r.name, r.description, r.is_secret, r.sealing, r.default_ttl_seconds,
                    r.keeps_history, r.history_limit, r.deletion_protection, r.version, r.revision, r.key_generation,
                    r.seals, r.version_floor, r.version_base, r.changed_at, r.created_at, r.created_by, r.updated_at, r.updated_by,
                    r.deleted_at, r.mac);
}
inline auto tie(const EntryRow& r) {
    return std::tie(r.id, r.ns, r.key_path, r.is_tombstone, r.value, r.value_type, r.key_generation, r.version,
                    r.revision, r.reason, r.comment, r.rolled_back_from, r.ttl_seconds, r.expires_at, r.metadata,
                    r.history_floor, r.hidden_since, r.created_at, r.created_by, r.updated_at, r.updated_by,
                    r.request_id);
}
inline auto tie(const VersionRow& r) {
    return std::tie(r.entry_id, r.ns, r.version, r.is_tombstone, r.value, r.value_type, r.key_generation, r.revision,
                    r.reason, r.comment, r.rolled_back_from, r.ttl_seconds, r.expires_at, r.metadata, r.changed_at,
                    r.changed_by, r.request_id);
}
inline auto tie(const AuditRow& row) {
    const AuditRecord& r = row.record;
    return std::tie(r.stream, r.sequence, r.timestamp, r.namespace_id, r.entry_id, r.key_path, r.action, r.operation,
                    r.user_id, r.credential_id, r.application_id, r.peer, r.request_id, r.success, r.reason, r.version,
                    r.revision, r.count, row.mac);
}
inline auto tie(const EventRow& r) {
    return std::tie(r.ns, r.revision, r.entry_id, r.key_path, r.kind, r.version, r.at, r.user_id);
}
inline auto tie(const KeyRow& r) {
    return std::tie(r.purpose, r.ns, r.generation, r.application_id, r.created_at, r.wrap_key_id, r.wrap,
                    r.second_wrap_key_id, r.second_wrap, r.commitment);
}
inline auto tie(const SinkRow& r) { return std::tie(r.name, r.registered_at, r.owner, r.owned_until, r.owners); }
inline auto tie(const SinkCursorRow& r) { return std::tie(r.sink, r.ns, r.application_id, r.revision); }
inline auto tie(const TokenRow& r) {
    return std::tie(r.id, r.hash, r.name, r.user_id, r.grants, r.created_at, r.created_by, r.expires_at, r.last_used_at, r.mac);
}
inline auto tie(const AuditHead& r) { return std::tie(r.stream, r.sequence, r.mac, r.state); }

template <class Row>
bool same(const Row& a, const Row& b) {
    return tie(a) == tie(b);
}

// By value: a loop over the value of a temporary Result would outlive it.
template <class T>
T taken(Result<T> result) {
    return std::move(result).value();
}

// ---- the fixture ----

template <class Backend>
struct Fixture {
    FixedClock clock;
    Backend backend;
    std::unique_ptr<Storage> storage = backend.open(clock);

    Result<void> apply(const Changeset& changes) {
        return storage->write([&](StorageWriter& writer) { return writer.apply(changes); });
    }
    void put(const Changeset& changes) { apply(changes).value(); }
    void put_entries(std::vector<EntryRow> rows) {
        Changeset changes;
        changes.entries = std::move(rows);
        put(changes);
    }

    Found find(const EntryRef& ref, Want want = {.value = true, .history = true}) {
        return storage->find({&ref, 1}, want).value().at(0);
    }
    std::optional<EntryRow> entry(const std::string& key, int ns = 1) { return find({ns_id(ns), key}).entry; }

    // "a=1 b/ c=3": the rows and then the folders of a page.
    std::string list(const EntryRange& range) { return print(storage->scan_entries(range).value()); }
    static std::string print(const EntryPage& page) {
        std::string text;
        for (const EntryRow& row : page.rows) text += row.key_path + "=" + row.value + " ";
        for (const std::string& folder : page.folders) text += folder + " ";
        return text;
    }
    // All pages of at most `limit`, each closed by '|'.
    std::string pages(EntryRange range, std::size_t limit) {
        std::string text;
        range.limit = limit;
        for (;;) {
            const EntryPage page = storage->scan_entries(range).value();
            text += print(page) + "|";
            if (!page.more) return text;
            range.start = page.resume;
        }
    }
    std::string due(const DueRange& range) {
        std::string text;
        for (const EntryRow& row : taken(storage->scan_due(range))) text += row.key_path + "=" + row.value + " ";
        return text;
    }
    std::string versions(const VersionRange& range) {
        std::string text;
        for (const VersionRow& row : taken(storage->scan_versions(range))) {
            text += std::to_string(row.version) + "=" + row.value + " ";
        }
        return text;
    }
    std::string names(const NamespaceRange& range) {
        std::string text;
        for (const NamespaceRow& row : taken(storage->scan_namespaces(range))) {
            text += row.application_id + "~" + row.name + (row.deleted_at ? "(deleted) " : " ");
        }
        return text;
    }
    // The sequences of a page, then where the next begins.
    std::string audit(const AuditRange& range) {
        const AuditPage page = storage->scan_audit(range).value();
        std::string text;
        for (const AuditRow& row : page.rows) text += std::to_string(row.record.sequence) + " ";
        return text + (page.resume ? "> " + std::to_string(*page.resume) : "end");
    }
};

inline EntryRange all_of(int ns = 1) {
    EntryRange range;
    range.ns = ns_id(ns);
    range.ranges = {KeyRange{}};
    range.values = true;
    return range;
}

}  // namespace kv::conformance
