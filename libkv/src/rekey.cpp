#include "rekey.h"

#include <algorithm>
#include <vector>

#include "out_of_memory.h"

namespace kv {
namespace {

constexpr std::chrono::seconds look_interval{60};
constexpr std::size_t tasks_per_round = 16;
// A namespace whose values are still being sealed anew gets the next key only if this many seals were made meanwhile.
constexpr std::uint64_t seals_urgent = Vault::seals_per_key_max / 2;

// Errors that say something about one namespace, not about the storage.
bool is_of_namespace(const Error& error) {
    return error.code == Errc::integrity || error.code == Errc::wrong_key || error.code == Errc::overloaded ||
           error.code == Errc::internal;
}

// A value that its key, as far as it is at hand, does not open.
bool does_not_open(const Error& error) { return error.code == Errc::integrity || error.code == Errc::wrong_key; }

NamespaceId highest_id() {
    NamespaceId id;
    id.bytes.fill(0xff);
    return id;
}

// Whether a value is sealed by `generation` of the namespace's data keys.
Result<bool> is_in_use(StorageReader& reader, const NamespaceId& ns, std::uint32_t generation) {
    DueRange entries;
    entries.kind = DueRange::Kind::generation;
    entries.ns = ns;
    entries.generation = generation + 1;
    entries.after = DueRange::After{{}, generation - 1, highest_id()};
    entries.limit = 1;
    KV_TRY(const std::vector<EntryRow> rows, reader.scan_due(entries));
    if (!rows.empty()) return true;
    DueVersionRange versions{ns, generation + 1, DueVersionRange::After{generation - 1, highest_id(), INT64_MAX}, 1};
    KV_TRY(const std::vector<VersionRow> archived, reader.scan_due_versions(versions));
    return !archived.empty();
}

// Whether a value is older than `generation`.
Result<bool> has_older(StorageReader& reader, const NamespaceId& ns, std::uint32_t generation) {
    DueRange entries;
    entries.kind = DueRange::Kind::generation;
    entries.ns = ns;
    entries.generation = generation;
    entries.limit = 1;
    KV_TRY(const std::vector<EntryRow> rows, reader.scan_due(entries));
    if (!rows.empty()) return true;
    KV_TRY(const std::vector<VersionRow> archived, reader.scan_due_versions({ns, generation, {}, 1}));
    return !archived.empty();
}

KeyRef ref_of(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }
KeyWalk::After place_of(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }

Needs needs_of(const NamespaceId& ns) {
    Needs needs;
    needs.namespaces.push_back(ns);
    return needs;
}

Result<std::shared_ptr<const NamespaceRow>> find_namespace(StorageReader& reader, const NamespaceId& id) {
    const EntryRef ref{id, "", {}};
    KV_TRY(std::vector<Found> found, reader.find(std::span(&ref, 1), {}));
    return std::move(found.front().ns);
}

}  // namespace

Rekeying::Rekeying(Storage& storage, const Vault& vault, Steps& steps, Settings settings)
    : storage_(storage), vault_(vault), steps_(steps), settings_(std::move(settings)) {}

void Rekeying::log(LogLevel level, const std::string& message) const {
    if (settings_.log) settings_.log(level, "keys: " + message);
}

Rekeying::Stats Rekeying::stats() const noexcept { return {seals_max_, namespaces_}; }

Result<std::size_t> Rekeying::run(Time now) {
    if (is_asked_.exchange(false) || is_due(looked_at_, look_interval, now)) {
        auto looked = contain([&] { return look(now); });
        if (!looked) {
            is_asked_ = true;
            return std::move(looked).error();
        }
    }
    return run_tasks(now);
}

// ---- what is due ----

Result<void> Rekeying::look(Time now) {
    KV_CHECK(look_for_seals());
    KV_CHECK(add_sealing());
    KV_CHECK(add_outdated());
    looked_at_ = now;
    for (auto& [ns, task] : tasks_) {
        if (task.state == Task::State::waiting) restart(task, task.generation);
    }
    count_tasks();
    return {};
}

// Gives every namespace whose key has sealed much a new one.
Result<void> Rekeying::look_for_seals() {
    NamespaceRange range;
    range.seals_from = 1;
    std::uint64_t most = 0;
    while (true) {
        KV_TRY(const std::vector<NamespaceRow> rows, storage_.scan_namespaces(range));
        for (const NamespaceRow& row : rows) {
            most = std::max(most, row.seals);
            if (row.seals < settings_.seals_per_key) continue;
            const auto task = tasks_.find(row.id);
            const bool is_busy = task != tasks_.end() && task->second.state == Task::State::resealing;
            if (is_busy && row.seals < seals_urgent) continue;
            if (auto rotated = rotate(row.id); !rotated) {
                if (!is_of_namespace(rotated.error())) return rotated;
                log(LogLevel::error, "namespace " + row.id.to_string() + " gets no new data key: " + rotated.error().message);
            }
        }
        if (rows.size() < range.limit) break;
        range.after = NamespaceRange::After{rows.back().application_id, rows.back().name, rows.back().id};
    }
    seals_max_ = most;
    return {};
}

Result<void> Rekeying::rotate(const NamespaceId& ns) {
    return steps_.commit(needs_of(ns), [&](GroupContext& context) -> Result<void> {
        NamespaceState* state = context.overlay.find_namespace(ns);
        if (state == nullptr || !state->is_intact || !state->row.is_secret) return {};
        NamespaceRow& row = state->row;
        if (row.seals < settings_.seals_per_key) return {};
        KV_TRY(const KeyRow key, context.vault.keys().make_data_key(row.id, row.application_id, row.key_generation + 1,
                                                                    context.plan.now));
        replace_data_key(row, key, context.overlay);
        state->is_changed = true;
        AuditRecord record = make_record(system_actor(), describe(RotateDataKey{}), context.plan.now, &row);
        record.version = row.version;
        context.audit.push_back(std::move(record));
        return {};
    });
}

Result<void> Rekeying::add_sealing() {
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.sealing = true;
    while (true) {
        KV_TRY(const std::vector<NamespaceRow> rows, storage_.scan_namespaces(range));
        for (const NamespaceRow& row : rows) add_task(row.id, row.key_generation - 1);
        if (rows.size() < range.limit) return {};
        range.after = NamespaceRange::After{rows.back().application_id, rows.back().name, rows.back().id};
    }
}

Result<void> Rekeying::add_outdated() {
    KeyWalk walk;
    walk.outdated = true;
    while (true) {
        KV_TRY(const std::vector<KeyRow> rows, storage_.walk_keys(walk));
        for (const KeyRow& row : rows) add_task(row.ns, row.generation);
        if (rows.size() < walk.limit) return {};
        walk.after = place_of(rows.back());
    }
}

void Rekeying::add_task(const NamespaceId& ns, std::uint32_t outdated) {
    Task& task = tasks_[ns];
    // Its key was replaced again while the one before was on its way out.
    if (task.state == Task::State::retiring && outdated >= task.generation) restart(task, outdated + 1);
}

void Rekeying::restart(Task& task, std::uint32_t generation) {
    const bool was_reported = task.is_reported;
    task = {};
    task.generation = generation;
    task.is_reported = was_reported;
}

void Rekeying::count_tasks() {
    namespaces_ = static_cast<std::uint64_t>(std::count_if(
        tasks_.begin(), tasks_.end(), [](const auto& task) { return task.second.state != Task::State::retiring; }));
}

// ---- values ----

Result<std::size_t> Rekeying::run_tasks(Time now) {
    std::size_t done = 0;
    std::size_t worked = 0;
    auto at = tasks_.lower_bound(next_task_);
    for (std::size_t left = tasks_.size(); left > 0 && worked < tasks_per_round; --left) {
        if (at == tasks_.end()) at = tasks_.begin();
        const auto task = at++;
        KV_TRY(const std::size_t rows, run_task(task, now));
        done += rows;
        if (rows > 0) ++worked;
    }
    next_task_ = at == tasks_.end() ? NamespaceId{} : at->first;
    count_tasks();
    return done;
}

Result<std::size_t> Rekeying::run_task(Tasks::iterator at, Time now) {
    auto& [id, task] = *at;
    const bool is_idle = task.state == Task::State::waiting ||
                         (task.state == Task::State::retiring && !is_due(task.unused_since, settings_.key_retirement, now));
    if (is_idle) return std::size_t{0};
    KV_TRY(const auto ns, find_namespace(storage_, id));
    // What was purged has no keys any more, and what was tampered with is not touched.
    if (!ns || !vault_.is_intact(*ns) || !ns->is_secret) {
        tasks_.erase(at);
        return std::size_t{0};
    }
    if (task.generation != ns->key_generation) restart(task, ns->key_generation);
    if (task.state == Task::State::retiring) {
        KV_TRY(const bool is_done, erase_unused(id));
        if (is_done) {
            tasks_.erase(at);
        } else {
            task.state = Task::State::waiting;
        }
        return std::size_t{1};
    }
    auto advanced = advance(*ns, task, now);
    if (advanced || !is_of_namespace(advanced.error())) return advanced;
    report(id, task, advanced.error().message);
    task.state = Task::State::waiting;
    return std::size_t{0};
}

Result<std::size_t> Rekeying::advance(const NamespaceRow& ns, Task& task, Time now) {
    KV_TRY(const std::size_t entries, reseal_entries(ns, task));
    if (entries > 0) return entries;
    KV_TRY(const std::size_t versions, reseal_versions(ns, task));
    if (versions > 0) return versions;
    if (ns.sealing) KV_CHECK(end_sealing(ns.id));
    if (task.skipped > 0) {
        report(ns.id, task, std::to_string(task.skipped) + " values do not open; they stay as they are, and so does their key");
    }
    task.state = Task::State::retiring;
    task.unused_since = now;
    return std::size_t{1};
}

// Says once for each namespace what keeps it from being sealed anew.
void Rekeying::report(const NamespaceId& ns, Task& task, const std::string& why) {
    {
        std::lock_guard lock(mutex_);
        stuck_.insert(ns);
    }
    if (!task.is_reported) log(LogLevel::error, "namespace " + ns.to_string() + " is not sealed anew: " + why);
    task.is_reported = true;
}

Result<std::size_t> Rekeying::reseal_entries(const NamespaceRow& ns, Task& task) {
    DueRange due;
    due.kind = DueRange::Kind::generation;
    due.ns = ns.id;
    due.generation = ns.key_generation;
    due.values = true;
    due.after = task.after_entry;
    std::uint64_t skipped = 0;
    KV_TRY(const std::vector<EntryRow> rows, steps_.visit_due(due, [&] { skipped = 0; },
        [&](GroupContext& context, NamespaceState& state, EntryState& entry) -> Result<void> {
            if (entry.row.is_tombstone || entry.row.key_generation >= state.row.key_generation) return {};
            auto reseal = context.vault.reseal(context.storage, state.row, entry.row);
            if (reseal) {
                context.overlay.changes().reseals.push_back(*std::move(reseal));
                state.is_changed = true;  // it counts its seals
                return {};
            }
            if (!does_not_open(reseal.error())) return std::move(reseal).error();
            ++skipped;
            return {};
        }));
    task.skipped += skipped;
    if (skipped > 0) task.after_entry = DueRange::After{{}, rows.back().key_generation, rows.back().id};
    return rows.size();  // even where others wrote them anew meanwhile: there may be more
}

Result<std::size_t> Rekeying::reseal_versions(const NamespaceRow& ns, Task& task) {
    const DueVersionRange due{ns.id, ns.key_generation, task.after_version, Steps::batch_rows, Steps::batch_bytes};
    KV_TRY(const std::vector<VersionRow> rows, storage_.scan_due_versions(due));
    if (rows.empty()) return std::size_t{0};
    std::uint64_t skipped = 0;
    // An archived version never changes, but may have been erased meanwhile: then its reseal finds nothing.
    KV_CHECK(steps_.commit(needs_of(ns.id), [&](GroupContext& context) -> Result<void> {
        skipped = 0;
        NamespaceState* state = context.overlay.find_namespace(ns.id);
        if (state == nullptr || !state->is_intact) return {};
        for (const VersionRow& row : rows) {
            auto reseal = context.vault.reseal(context.storage, state->row, row);
            if (reseal) {
                context.overlay.changes().reseals.push_back(*std::move(reseal));
                state->is_changed = true;
            } else if (does_not_open(reseal.error())) {
                ++skipped;
            } else {
                return std::move(reseal).error();
            }
        }
        return {};
    }));
    task.skipped += skipped;
    if (skipped > 0) task.after_version = DueVersionRange::After{rows.back().key_generation, rows.back().entry_id, rows.back().version};
    return rows.size();
}

Result<void> Rekeying::end_sealing(const NamespaceId& ns) {
    return steps_.commit(needs_of(ns), [&](GroupContext& context) -> Result<void> {
        NamespaceState* state = context.overlay.find_namespace(ns);
        if (state == nullptr || !state->is_intact || !state->row.sealing) return {};
        KV_TRY(const bool is_unsealed, has_older(context.storage, ns, 1));
        if (is_unsealed) return {};
        state->row.sealing = false;
        state->is_changed = true;
        return {};
    });
}

// Erases the keys that no value is sealed by any more; false if an older one must stay.
Result<bool> Rekeying::erase_unused(const NamespaceId& ns) {
    bool is_done = true;
    std::vector<std::uint32_t> erased;
    KV_CHECK(steps_.commit(needs_of(ns), [&](GroupContext& context) -> Result<void> {
        is_done = true;
        erased.clear();
        const NamespaceState* state = context.overlay.find_namespace(ns);
        if (state == nullptr || !state->is_intact) return {};
        const KeyRef all{KeyPurpose::data, ns, {}};
        KV_TRY(const std::vector<KeyRow> rows, context.storage.get_keys(std::span(&all, 1)));
        for (const KeyRow& row : rows) {
            if (row.generation >= state->row.key_generation) continue;
            KV_TRY(const bool is_needed, is_in_use(context.storage, ns, row.generation));
            if (is_needed) {
                is_done = false;
            } else {
                context.overlay.changes().erase_keys.push_back(ref_of(row));
                erased.push_back(row.generation);
            }
        }
        return {};
    }));
    for (const std::uint32_t generation : erased) vault_.keys().forget(ns, generation);
    return is_done;
}

Result<bool> Rekeying::is_rekeying(const NamespaceId& ns) const {
    KV_TRY(const auto row, find_namespace(storage_, ns));
    if (!row) return Error{Errc::not_found, "There is no such namespace."};
    KV_TRY(const bool is_rekeying, has_older(storage_, ns, row->key_generation));
    std::lock_guard lock(mutex_);
    if (!is_rekeying || !stuck_.contains(ns)) return is_rekeying;
    return Error{Errc::integrity, "Values of the namespace do not open; they stay as they are, and so does their key."};
}

void Rekeying::ask() {
    std::lock_guard lock(mutex_);
    is_asked_ = true;
    stuck_.clear();  // what is stuck will be met again
}

}  // namespace kv
