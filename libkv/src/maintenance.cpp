#include "maintenance.h"

#include <algorithm>

#include "out_of_memory.h"
#include "tokens.h"

namespace kv {
namespace {

constexpr std::size_t batch_rows = Steps::batch_rows;
constexpr std::size_t pages_passed_max = 64;  // of rows that nothing can be done about, in one round

void record_removal(GroupContext& context, const NamespaceRow& ns, std::string_view operation, const EntryRow* row) {
    AuditRecord record = make_record(system_actor(), {AuditAction::delete_, operation, row ? std::string_view(row->key_path) : ""},
                                     context.plan.now, &ns);
    if (row != nullptr) {
        record.entry_id = row->id;
        record.version = row->version;
    }
    context.audit.push_back(std::move(record));
}

}  // namespace

Maintenance::Maintenance(Storage& storage, const Vault& vault, CommitQueue& commits, Denials& denials, DiskGuard& disk,
                         Settings settings)
    : storage_(storage),
      vault_(vault),
      commits_(commits),
      denials_(denials),
      disk_(disk),
      settings_(std::move(settings)),
      steps_(storage, commits),
      rewrapping_(storage, vault.keys(), steps_, settings_.log),
      rekeying_(storage, vault, steps_, settings_.rekeying),
      audit_(storage, settings_.audit),
      events_(storage, steps_, settings_.events) {
    thread_ = std::thread([this] { run(); });
}

Maintenance::~Maintenance() { stop(); }

void Maintenance::run() {
    std::unique_lock lock(mutex_);
    while (!is_stopping_) {
        const auto is_called = [&] { return is_stopping_ || is_hurried_ || !purges_.empty(); };
        if (settings_.interval.count() > 0) {
            wake_.wait_for(lock, settings_.interval, is_called);
        } else {
            wake_.wait(lock, is_called);
        }
        if (is_stopping_) break;
        is_hurried_ = false;
        lock.unlock();
        purge_waiting();
        const bool is_asked = settings_.interval.count() > 0;
        auto worked = is_asked ? contain([&] { return run_round(); }) : Result<bool>(false);
        if (!worked && settings_.log) {
            attempt([&] { settings_.log(LogLevel::warning, "maintenance: a round failed: " + worked.error().message); });
        }
        lock.lock();
        if (worked && *worked) is_hurried_ = true;
    }
}

Result<void> Maintenance::record(AuditRecord record, std::vector<MetaRow> meta) {
    return steps_.commit({}, [&](GroupContext& context) -> Result<void> {
        context.overlay.changes().meta = meta;
        context.audit.push_back(record);
        context.audit.back().timestamp = context.plan.now;
        return {};
    });
}

void Maintenance::flush() {
    auto written = contain([&] { return write_denials(denials_.take_all()); });
    if (!written && settings_.log) {
        attempt([&] { settings_.log(LogLevel::warning, "audit: folded denials could not be written: " + written.error().message); });
    }
}

void Maintenance::rekey() noexcept {
    rekeying_.ask();
    hurry();
}

Result<std::uint64_t> Maintenance::forget_master_key(const std::string& key_id) {
    std::lock_guard round(round_);
    return rewrapping_.forget(key_id);
}

void Maintenance::hurry() {
    {
        std::lock_guard lock(mutex_);
        is_hurried_ = true;
    }
    wake_.notify_one();
}

void Maintenance::stop() {
    {
        std::lock_guard lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
    purges_.clear();
}

Result<bool> Maintenance::run_round() {
    std::lock_guard round(round_);
    disk_.look();
    if (!commits_.last_failure()) KV_CHECK(resume());
    KV_TRY(const Time now, settings_.time.now(storage_));
    std::size_t done = 0;
    Result<void> failure;
    // A step that fails, for want of room perhaps, keeps no other from making some.
    const auto note = [&](Result<std::size_t> step) {
        if (step) {
            done += *step;
        } else if (failure) {
            failure = std::move(step).error();
        }
    };
    note(write_denials(denials_.take_ended(now)));
    note(trim_audit(now));
    note(events_.run(now, settings_.time.judge().has_value()));
    if (auto measured = measure_lag(now); !measured) note(std::move(measured).error());
    if (settings_.time.judge(now)) note(sweep(now));
    note(rewrapping_.run(now));
    note(rekeying_.run(now));
    KV_CHECK(failure);
    return done > 0;
}

// What the clock says is over.
Result<std::size_t> Maintenance::sweep(Time now) {
    KV_TRY(const std::size_t expired, expire(now));
    KV_TRY(const std::size_t destroyed, destroy_hidden(now));
    KV_TRY(const std::size_t forgotten, forget_tombstones(now));
    KV_TRY(const std::size_t purged, purge_due(now));
    KV_TRY(const std::size_t tokens, forget_tokens(now));
    return tokens + expired + destroyed + forgotten + purged;
}

Result<std::size_t> Maintenance::trim_audit(Time now) {
    const AuditRetention::Reason reason{settings_.time.judge(now).has_value(), disk_.is_tight()};
    return audit_.run(now, reason, [this](Steps::Step step) { return steps_.commit({}, std::move(step), false); });
}

Result<std::size_t> Maintenance::write_denials(std::vector<AuditRecord> rows) {
    if (rows.empty()) return std::size_t{0};
    std::uint64_t folded = 0;
    for (const AuditRecord& row : rows) folded += row.count;
    KV_CHECK(steps_.commit({}, [&](GroupContext& context) -> Result<void> {
        context.audit.insert(context.audit.end(), rows.begin(), rows.end());
        return {};
    }, false));
    folded_.fetch_add(folded, std::memory_order_relaxed);
    return rows.size();
}

Result<void> Maintenance::measure_lag(Time now) {
    DueRange due;
    due.before = now;
    due.limit = 1;
    KV_TRY(const std::vector<EntryRow> rows, storage_.scan_due(due));
    const auto lag = rows.empty() || !rows.front().expires_at ? std::chrono::microseconds(0) : now - *rows.front().expires_at;
    lag_.store(lag.count(), std::memory_order_relaxed);
    return {};
}

// After an outage the store is ready again once something was committed, and nobody asks one that is not ready.
Result<void> Maintenance::resume() {
    return steps_.commit({}, [](GroupContext& context) -> Result<void> {
        context.audit.push_back(make_record(system_actor(), {AuditAction::write, "audit.resume", {}}, context.plan.now, nullptr));
        return {};
    });
}

// ---- expiry ----

Result<std::size_t> Maintenance::expire(Time now) {
    DueRange due;
    due.kind = DueRange::Kind::expired;
    due.before = now;
    std::size_t done = 0;
    const auto end = [&](GroupContext& context, NamespaceState& ns, EntryState& entry) -> Result<void> {
        PlanContext plan = context.plan;
        plan.now = time_in(ns.row, plan.now);
        if (entry.row.is_tombstone || is_live(entry.row, plan.now)) return {};
        plan_expiry(ns, entry, plan, context.audit, context.overlay);
        ++done;
        return {};
    };
    // Rows of a tampered namespace stay: they must not be all that is ever looked at.
    for (std::size_t page = 0; page < pages_passed_max && done == 0; ++page) {
        KV_TRY(const std::vector<EntryRow> rows, steps_.visit_due(due, [&] { done = 0; }, end));
        if (rows.empty()) break;
        due.after = DueRange::After{rows.back().expires_at.value_or(now), 0, rows.back().id};
    }
    expired_.fetch_add(done, std::memory_order_relaxed);
    return done;
}

namespace {

// The versions that an expiry hid at `before` or earlier, and when the next expiry hid some.
struct Doomed {
    std::uint64_t up_to = 0;
    std::optional<Time> next;
};

Result<Doomed> find_doomed(StorageReader& storage, const EntryRow& row, Time before) {
    Doomed doomed;
    if (row.is_tombstone && row.reason == Reason::expiry) {
        if (row.updated_at <= before) return Doomed{row.version, {}};
        doomed.next = row.updated_at;
    }
    VersionRange range;
    range.entry_id = row.id;
    range.below = row.history_floor + 1;
    range.limit = batch_rows;
    while (true) {
        KV_TRY(const std::vector<VersionRow> versions, storage.scan_versions(range));
        for (const VersionRow& version : versions) {
            if (version.reason != Reason::expiry) continue;
            if (version.changed_at <= before) {
                doomed.up_to = version.version;
                return doomed;
            }
            doomed.next = version.changed_at;
        }
        if (versions.size() < range.limit) return doomed;
        range.below = versions.back().version;
    }
}

}  // namespace

Result<std::size_t> Maintenance::destroy_hidden(Time now) {
    DueRange due;
    due.kind = DueRange::Kind::hidden;
    due.before = now - settings_.expiry_grace;
    due.values = true;
    std::size_t done = 0;
    const auto destroy = [&](GroupContext& context, NamespaceState& ns, EntryState& entry) -> Result<void> {
        if (!entry.row.hidden_since || *entry.row.hidden_since > due.before) return {};
        KV_TRY(const Doomed doomed, find_doomed(context.storage, entry.row, due.before));
        entry.row.hidden_since = doomed.next;
        entry.erase_to = doomed.up_to;
        entry.is_changed = true;
        record_removal(context, ns.row, "entry.destroy", &entry.row);
        ++done;
        return {};
    };
    KV_CHECK(steps_.visit_due(due, [&] { done = 0; }, destroy));
    return done;
}

Result<std::size_t> Maintenance::forget_tombstones(Time now) {
    DueRange due;
    due.kind = DueRange::Kind::tombstones;
    due.before = now - settings_.tombstone_retention;
    due.values = true;  // for their history
    std::size_t done = 0;
    const auto forget = [&](GroupContext&, NamespaceState& ns, EntryState& entry) -> Result<void> {
        if (!entry.row.is_tombstone || entry.has_history || entry.row.updated_at > due.before) return {};
        entry.is_erased = true;
        // A key that comes back starts above every version that was forgotten.
        ns.row.version_floor = std::max(ns.row.version_floor, entry.row.version);
        ns.is_changed = true;
        ++done;
        return {};
    };
    KV_CHECK(steps_.visit_due(due, [&] { done = 0; }, forget));
    return done;
}

// ---- tokens ----

Result<void> Maintenance::note_token_uses(std::vector<TokenUse> uses) {
    if (uses.empty()) return {};
    return steps_.commit({}, [&](GroupContext& context) -> Result<void> {
        context.overlay.changes().token_uses = uses;
        return {};
    });
}

// Those that expired some time ago. Whoever had one was turned away since.
Result<std::size_t> Maintenance::forget_tokens(Time now) {
    TokenRange range;
    range.expired_before = now - settings_.expiry_grace;
    range.limit = batch_rows;
    KV_TRY(const std::vector<TokenRow> rows, storage_.scan_tokens(range));
    if (rows.empty()) return std::size_t{0};
    KV_CHECK(steps_.commit({}, [&](GroupContext& context) -> Result<void> {
        for (const TokenRow& row : rows) {
            context.overlay.changes().erase_tokens.push_back(row.id);
            context.audit.push_back(make_record(system_actor(), {AuditAction::delete_, "token.expire", token_subject(row.id)}, context.plan.now, nullptr));
        }
        return {};
    }));
    return rows.size();
}

// ---- purging namespaces ----

// Without memory for its turn the ticket is given up, and the namespace purged once it is found to be due.
void Maintenance::purge(NamespaceId ns, Ticket ticket) noexcept {
    attempt([&] {
        std::lock_guard lock(mutex_);
        purges_.emplace_back(ns, std::move(ticket));
    });
    wake_.notify_one();
}

void Maintenance::purge_waiting() {
    while (true) {
        std::unique_lock lock(mutex_);
        if (purges_.empty()) return;
        auto [ns, ticket] = std::move(purges_.front());
        purges_.pop_front();
        lock.unlock();
        std::lock_guard round(round_);
        Result<std::size_t> batch = std::size_t{1};
        // A copy, because clang 14 captures no structured binding.
        while (batch && *batch > 0) batch = contain([this, id = ns] { return purge_batch(id); });
        ticket.answer(batch ? Result<Reply>(Reply(Done{})) : Result<Reply>(std::move(batch).error()));
    }
}

Result<std::size_t> Maintenance::purge_due(Time now) {
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::deleted;
    range.deleted_before = now - settings_.namespace_retention;
    range.limit = 1;
    KV_TRY(const std::vector<NamespaceRow> due, storage_.scan_namespaces(range));
    if (due.empty()) return std::size_t{0};
    return purge_batch(due.front().id);
}

namespace {

// Events of a namespace that goes still reach the sinks that lack them: their cursors say how far each is, and whose it was.
Result<void> leave_to_sinks(GroupContext& context, const NamespaceRow& ns) {
    CursorRange range;
    range.ns = ns.id;
    KV_TRY(const std::vector<SinkRow> sinks, context.storage.scan_sinks());
    KV_TRY(const std::vector<SinkCursorRow> cursors, context.storage.scan_cursors(range));
    Changeset& changes = context.overlay.changes();
    for (const SinkRow& sink : sinks) {
        const auto cursor = std::find_if(cursors.begin(), cursors.end(), [&](const SinkCursorRow& row) { return row.sink == sink.name; });
        if (cursor == cursors.end()) {
            changes.cursors.push_back({sink.name, ns.id, ns.application_id, 0});
        } else if (cursor->revision >= ns.revision) {
            changes.erase_cursors.push_back({sink.name, ns.id});
        }
    }
    return {};
}

}  // namespace

// Erases a batch of a deleted namespace's rows, and when there are none left the namespace. Says how many rows went.
Result<std::size_t> Maintenance::purge_batch(const NamespaceId& ns) {
    DueRange due;
    due.kind = DueRange::Kind::all;
    due.ns = ns;
    due.limit = batch_rows;
    KV_TRY(const std::vector<EntryRow> rows, storage_.scan_due(due));
    Needs needs;
    needs.namespaces.push_back(ns);
    std::size_t done = 0;
    auto committed = steps_.commit(std::move(needs), [&](GroupContext& context) -> Result<void> {
        done = 0;
        NamespaceState* state = context.overlay.find_namespace(ns);
        const bool is_due = state != nullptr && state->row.deleted_at &&
                            *state->row.deleted_at + settings_.namespace_retention <= context.plan.now;
        if (!is_due) return {};
        Changeset& changes = context.overlay.changes();
        for (const EntryRow& row : rows) {
            changes.erase_versions.push_back({row.id, 0, UINT64_MAX >> 1});
            changes.erase_entries.push_back(row.id);
        }
        done = rows.size();
        if (!rows.empty()) return {};
        KV_CHECK(leave_to_sinks(context, state->row));
        changes.erase_namespaces.push_back(ns);
        done = 1;
        record_removal(context, state->row, "namespace.purge", nullptr);
        return {};
    });
    KV_CHECK(std::move(committed));
    if (rows.empty()) vault_.keys().forget(ns);
    return done;
}

}  // namespace kv
