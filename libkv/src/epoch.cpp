#include "epoch.h"

#include <algorithm>
#include <charconv>

#include "crypto/random.h"
#include "kv/admin.h"
#include "steps.h"
#include "text.h"
#include "time_guard.h"

namespace kv {
namespace {

constexpr std::size_t namespaces_at_once = 500;
constexpr std::size_t entries_at_once = 2000;
// Room for the versions of a future that nobody knows, where the clock cannot tell how long it was.
constexpr std::uint64_t version_room = std::uint64_t{1} << 32;
// Versions stay below 2^53, up to which JavaScript counts: a clock beyond the year 2112 is not followed.
constexpr std::int64_t micros_believed = std::int64_t{1} << 52;

Result<StoreMeta> read_meta(const std::vector<MetaRow>& rows) {
    StoreMeta meta;
    for (const MetaRow& row : rows) {
        if (row.name == meta_epoch) meta.epoch = row.value;
        if (row.name == meta_last_backup) meta.last_backup = parse_time(row.value);
        if (row.name != meta_version_base) continue;
        const char* end = row.value.data() + row.value.size();
        const auto read = std::from_chars(row.value.data(), end, meta.version_base);
        if (read.ec != std::errc{} || read.ptr != end) return Error{Errc::integrity, "The store's version base is no number."};
    }
    return meta;
}

template <class Visit>
Result<void> each_namespace_page(StorageReader& storage, Visit&& visit) {
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.limit = namespaces_at_once;
    while (true) {
        KV_TRY(std::vector<NamespaceRow> rows, storage.scan_namespaces(range));
        if (rows.empty()) return {};
        range.after = {rows.back().application_id, rows.back().name, rows.back().id};
        KV_CHECK(visit(rows));
    }
}

// No version of the store is above this one, and no revision. Archived versions are below their entry's.
Result<std::uint64_t> highest_version(StorageReader& storage, std::uint64_t highest) {
    KV_CHECK(each_namespace_page(storage, [&](const std::vector<NamespaceRow>& rows) -> Result<void> {
        for (const NamespaceRow& row : rows) highest = std::max({highest, row.version, row.version_floor, row.version_base, row.revision});
        return {};
    }));
    EntryWalk walk;
    walk.values = false;
    walk.limit = entries_at_once;
    while (true) {
        KV_TRY(const std::vector<EntryRow> rows, storage.walk_entries(walk));
        if (rows.empty()) return highest;
        walk.after = {rows.back().ns, rows.back().key_path};
        for (const EntryRow& row : rows) highest = std::max(highest, row.version);
    }
}

// Past the commit queue, which would vouch for every row it writes, be it intact or not.
Result<void> raise_namespaces(Storage& storage, std::uint64_t base) {
    return each_namespace_page(storage, [&](std::vector<NamespaceRow>& rows) -> Result<void> {
        for (NamespaceRow& row : rows) {
            row.version_base = base;
            row.version = base + 1;
            row.revision = base;  // so that no watcher's position in the lost future means anything
        }
        Changeset changes;
        changes.namespaces = std::move(rows);
        return storage.write([&](StorageWriter& writer) { return writer.apply(changes); });
    });
}

// In an audit stream of its own, whose first rows bear witness to the streams that nobody closed.
Result<void> commit_epoch(Storage& storage, crypto::Keyring& keys, const std::string& epoch, std::uint64_t base,
                          const TimeGuard& time, const EpochChanges& changes) {
    const Vault vault(keys);
    const Limits limits;
    CommitQueue::Settings settings;
    settings.epoch = epoch;
    settings.limits = &limits;
    settings.time = time;
    CommitQueue commits(storage, vault, std::move(settings));
    const auto step = [&](GroupContext& context) -> Result<void> {
        Changeset& all = context.overlay.changes();
        all.meta = changes.meta;
        all.meta.push_back({std::string(meta_epoch), epoch});
        all.meta.push_back({std::string(meta_version_base), std::to_string(base)});
        all.erase_meta = changes.erase_meta;
        AuditRecord record = make_record(system_actor(), {AuditAction::write, "store.new-epoch"}, context.plan.now, nullptr);
        record.version = base;
        context.audit.push_back(std::move(record));
        return {};
    };
    Result<void> committed = Steps(storage, commits).commit({}, step, false);
    commits.stop();
    return committed;
}

}  // namespace

Result<StoreMeta> read_store_meta(StorageReader& storage) {
    KV_TRY(const std::vector<MetaRow> rows, storage.get_meta());
    for (const MetaRow& row : rows) {
        if (row.name != meta_restoring) continue;
        return Error{Errc::invalid_state, "A restore into this storage did not come to its end: restore into it again."};
    }
    return read_meta(rows);
}

std::string draw_epoch() {
    char bytes[8];
    crypto::random_bytes(bytes, sizeof bytes);
    return hex_encode({bytes, sizeof bytes});
}

Result<std::unique_ptr<crypto::Keyring>> open_keyring(StorageReader& storage, KeyProvider& keys) {
    KV_TRY(std::vector<KeyRow> stored, storage.internal_keys());
    if (stored.empty()) return Error{Errc::not_found, "There is no store in this storage."};
    KV_TRY(const SecretBytes master_key, keys.master_key());
    KV_TRY(const CryptoBackend backend, crypto::select_backend(CryptoBackend::automatic));
    KV_TRY(const Time now, storage.now());
    return crypto::Keyring::open(master_key, backend, std::move(stored), now);
}

// A backup can be restored more than once, and each time a future is lost that no row here tells of. In microseconds
// since 1970 a base is above whatever was made before now, for no key is changed as often as that.
std::uint64_t next_version_base(std::uint64_t highest, Time now) {
    const std::int64_t micros = now.time_since_epoch().count();
    const bool tells_time = micros > 0 && micros < micros_believed && static_cast<std::uint64_t>(micros) > highest;
    const std::uint64_t least = tells_time ? static_cast<std::uint64_t>(micros) : highest + version_room;
    return (least / version_base_step + 1) * version_base_step;
}

Result<std::string> begin_epoch(Storage& storage, crypto::Keyring& keys, const EpochChanges& changes) {
    KV_TRY(const std::vector<MetaRow> rows, storage.get_meta());
    KV_TRY(const StoreMeta meta, read_meta(rows));
    KV_TRY(const std::uint64_t highest, highest_version(storage, meta.version_base));
    // A gap in the store's time is noted now: what is recorded here would hide it, and nothing is to be destroyed in a store
    // that was restored from long ago before somebody has said that the clock is right.
    KV_TRY(const TimeGuard time, TimeGuard::open(storage, {nullptr, Options{}.clock_gap_max, false, {}}));
    KV_TRY(const Time now, time.now(storage));
    const std::uint64_t base = next_version_base(highest, now);
    KV_CHECK(raise_namespaces(storage, base));
    std::string epoch = draw_epoch();
    KV_CHECK(commit_epoch(storage, keys, epoch, base, time, changes));
    return epoch;
}

Result<std::string> begin_epoch(Storage& storage, KeyProvider& keys) {
    KV_CHECK(read_store_meta(storage));
    KV_TRY(const auto keyring, open_keyring(storage, keys));
    return begin_epoch(storage, *keyring, {});
}

}  // namespace kv
