#include <algorithm>
#include <utility>

#include "epoch.h"
#include "kv/admin.h"
#include "steps.h"
#include "time_guard.h"

namespace kv {
namespace {

constexpr std::size_t namespaces_at_once = 500;
constexpr std::size_t events_at_once = 1000;

// Counted one by one: revisions have gaps where an epoch began.
Result<std::uint64_t> count_events(StorageReader& storage, const NamespaceId& ns, std::uint64_t after) {
    std::uint64_t count = 0;
    while (true) {
        EventRange range;
        range.from = {{ns, after}};
        range.limit = events_at_once;
        KV_TRY(const std::vector<EventRow> rows, storage.scan_events(range));
        count += rows.size();
        if (rows.size() < range.limit) return count;
        after = rows.back().revision;
    }
}

Result<std::uint64_t> count_pending(StorageReader& storage, const std::string& sink) {
    std::uint64_t count = 0;
    BacklogRange range;
    range.sink = sink;
    range.limit = namespaces_at_once;
    while (true) {
        KV_TRY(const std::vector<Backlog> rows, storage.scan_backlog(range));
        for (const Backlog& row : rows) {
            KV_TRY(const std::uint64_t pending, count_events(storage, row.ns, row.confirmed));
            count += pending;
        }
        if (rows.size() < range.limit) return count;
        range.after = rows.back().ns;
    }
}

bool is_owned(const SinkRow& row, Time now) { return !row.owner.empty() && row.owned_until > now; }

// In an audit stream of its own, like a new epoch.
Result<void> commit_forgetting(Storage& storage, crypto::Keyring& keys, const StoreMeta& meta, const TimeGuard& time,
                               const std::string& name) {
    const Vault vault(keys);
    const Limits limits;
    CommitQueue::Settings settings;
    settings.epoch = meta.epoch;
    settings.limits = &limits;
    settings.time = time;
    CommitQueue commits(storage, vault, std::move(settings));
    const auto step = [&](GroupContext& context) -> Result<void> {
        KV_TRY(const std::optional<SinkRow> row, context.storage.lock_sink(name));
        if (!row) return Error{Errc::not_found, "There is no sink of that name."};
        if (is_owned(*row, context.plan.now)) return Error{Errc::invalid_state, "A process delivers to this sink. Stop it first; if it died, wait until its time is over."};
        context.overlay.changes().erase_sinks.push_back(name);
        AuditRecord record = make_record(system_actor(), {AuditAction::delete_, "sink.forget", name}, context.plan.now, nullptr);
        context.audit.push_back(std::move(record));
        return {};
    };
    Result<void> committed = Steps(storage, commits).commit_along(step);
    commits.stop();
    return committed;
}

}  // namespace

Result<std::vector<SinkInfo>> list_sinks(StorageReader& storage) {
    KV_TRY(const std::vector<SinkRow> rows, storage.scan_sinks());
    KV_TRY(const Time now, storage.now());
    std::vector<SinkInfo> sinks;
    for (const SinkRow& row : rows) {
        KV_TRY(const std::uint64_t pending, count_pending(storage, row.name));
        sinks.push_back({row.name, row.registered_at, is_owned(row, now) ? row.owner : "", row.owned_until, pending});
    }
    return sinks;
}

Result<void> forget_sink(Storage& storage, KeyProvider& keys, std::string_view name) {
    KV_TRY(const StoreMeta meta, read_store_meta(storage));
    KV_TRY(const auto keyring, open_keyring(storage, keys));
    KV_TRY(const std::vector<SinkRow> rows, storage.scan_sinks());
    const bool is_known = std::any_of(rows.begin(), rows.end(), [&](const SinkRow& row) { return row.name == name; });
    if (!is_known) return Error{Errc::not_found, "There is no sink of that name."};  // and no audit stream is begun for it
    KV_TRY(const TimeGuard time, TimeGuard::open(storage, {nullptr, Options{}.clock_gap_max, false, {}}));
    return commit_forgetting(storage, *keyring, meta, time, std::string(name));
}

}  // namespace kv
