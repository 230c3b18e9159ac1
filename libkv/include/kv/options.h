#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/clock.h"
#include "kv/keys.h"
#include "kv/types.h"

namespace kv {

class EventSink;

// What one request may hold. Settable downwards: open() refuses larger figures than these.
struct Limits {
    std::size_t value_bytes_max = 1u << 20;
    std::size_t metadata_bytes_max = 16u << 10;
    std::size_t bulk_items_max = 1000;
    std::size_t page_items_max = 1000;
    std::size_t page_value_bytes_max = 8u << 20;      // a page with values ends early here
    std::size_t bulk_get_bytes_max = 16u << 20;       // beyond it keys land in `remaining`
    std::size_t export_keys_max = 10'000;
    std::size_t export_bytes_max = 16u << 20;
    std::size_t audit_rows_walked_max = 50'000;       // by one filtered page
};

// When the audit row of a read is committed: before the value is released, or (plain namespaces only) soon after: within
// 10 ms, 512 such reads or the next commit. A process that is killed loses the rows of the reads since then.
enum class ReadAudit : std::uint8_t { durable, deferred_for_plain };

// Which library does AES-256-GCM. `automatic` is libsodium where the CPU has AES instructions, else OpenSSL.
enum class CryptoBackend : std::uint8_t { automatic, libsodium, openssl };

enum class LogLevel : std::uint8_t { debug, info, warning, error };

// What a store is opened with. A host must give `keys`, unless the storage is "memory:" (then one is drawn).
struct Options {
    std::shared_ptr<KeyProvider> keys;  // shared with the host, which may open several stores with one
    Clock* clock = nullptr;             // borrowed, must outlive the store; null: make_system_clock()
    Limits limits;
    ReadAudit read_audit = ReadAudit::durable;
    CryptoBackend crypto = CryptoBackend::automatic;
    // While the master key is being changed: the one before. Everything is then wrapped by both, until
    // Store::forget_master_key() drops the old one's wraps.
    std::shared_ptr<KeyProvider> previous_keys;
    // A data key that sealed as many values is replaced and its values are sealed anew. Settable downwards.
    std::uint64_t seals_per_key = 1u << 30;
    std::chrono::seconds key_retirement{60};  // a data key that seals nothing any more is kept for, reads being under way

    std::chrono::seconds namespace_retention = std::chrono::hours(24 * 7);
    std::chrono::seconds expiry_grace = std::chrono::hours(1);
    std::chrono::seconds tombstone_retention = std::chrono::hours(24 * 30);
    std::chrono::milliseconds maintenance_interval{500};  // zero: only Store::run_maintenance() does it

    // The audit log: how long its rows stay, and how many bytes it may take (0: any). Older rows go, oldest first, after
    // they were appended to JSON lines files in `audit_archive` if that is set. With an archive rows also go when the disk is
    // nearly full.
    std::chrono::seconds audit_retention = std::chrono::hours(24 * 90);
    std::uint64_t audit_bytes_max = 0;
    std::string audit_archive;  // a folder; empty: none
    // Equal denials of one caller are one row for as long as this, with a count. Zero: each is a row.
    std::chrono::seconds denial_window{10};

    // Who is told every event (kv/events.h): borrowed, and must outlive the store.
    std::vector<EventSink*> sinks;
    // How long events are kept for sinks and watchers, and how many of a namespace. What a sink has not confirmed stays.
    std::chrono::seconds event_retention = std::chrono::hours(24 * 7);
    std::uint64_t events_max = 100'000;

    // Less room on the disk, and writes are Errc::storage_full, while reads and the archive go on. Empty: an eighth of the
    // disk, 256 MiB at most. Zero: no such guard.
    std::optional<std::uint64_t> disk_free_min;

    // A store whose last change lies further back than this was asleep, or its clock is wrong: nothing is destroyed then
    // until it is opened once with `trust_clock`.
    std::chrono::seconds clock_gap_max = std::chrono::hours(24 * 30);
    bool trust_clock = false;

    std::size_t bytes_in_flight_max = 256u << 20;  // of requests and replies under way
    std::size_t readers = 4;                       // connections that read at the same time

    // Called with our words only, never a value. Threads: any; must not block or call the store.
    std::function<void(LogLevel, std::string_view)> log;
    // Called with every audit row after its commit, in the order of the stream. The same rules.
    std::function<void(std::span<const AuditRecord>)> audit_copy;
};

}  // namespace kv
