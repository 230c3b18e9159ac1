#include "kv/store.h"

#include <sys/mman.h>
#include <unistd.h>

#include "authorize.h"
#include "backup.h"
#include "beginning.h"
#include "commit_queue.h"
#include "crypto/keyring.h"
#include "crypto/random.h"
#include "epoch.h"
#include "event_feed.h"
#include "lanes.h"
#include "maintenance.h"
#include "operation_item.h"
#include "plan_parts.h"
#include "read_queue.h"
#include "relay.h"
#include "text.h"
#include "ticket.h"
#include "tokens.h"
#include "validate.h"
#include "value.h"
#include "watchdog.h"

namespace kv {
namespace {

// Only a storage on another machine goes away for longer than a disk takes.
constexpr std::chrono::milliseconds stuck_looked_at_each{100};

// One page that reads as zero in a child after fork: knowing costs one load, where getpid() is a system call.
class ForkMark {
public:
    ForkMark() {
        void* page = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) return;
        if (madvise(page, page_bytes, MADV_WIPEONFORK) != 0) {
            munmap(page, page_bytes);
            return;
        }
        page_ = static_cast<volatile char*>(page);
        *page_ = 1;
    }
    ~ForkMark() {
        if (page_ != nullptr) munmap(const_cast<char*>(page_), page_bytes);
    }
    ForkMark(const ForkMark&) = delete;
    bool is_child() const { return page_ != nullptr ? *page_ == 0 : getpid() != pid_; }

private:
    static constexpr std::size_t page_bytes = 4096;
    volatile char* page_ = nullptr;
    const pid_t pid_ = getpid();
};

// ---- making an operation ready to be planned ----

void normalise_values(Operation& operation, const Limits& limits) {
    if (auto* put = std::get_if<PutEntry>(&operation.request)) {
        operation.values.push_back(normalize(put->write.value, {}, limits.value_bytes_max));
    } else if (auto* set = std::get_if<BulkSet>(&operation.request)) {
        operation.values.reserve(set->entries.size());
        for (EntryWrite& write : set->entries) {
            operation.values.push_back(normalize(write.value, {}, limits.value_bytes_max));
            if (!operation.values.back()) operation.values.back().error().key_path = write.key_path;
        }
    }
}

Result<void> draw(Operation& operation, const crypto::Keyring& keys, Time now) {
    std::size_t ids = 0;
    const Request& request = operation.request;
    if (std::holds_alternative<PutEntry>(request) || std::holds_alternative<CreateNamespace>(request)) ids = 1;
    if (auto* set = std::get_if<BulkSet>(&request)) ids = set->entries.size();
    for (std::size_t i = 0; i < ids; ++i) operation.fresh_ids.push_back(crypto::make_uuid(now));
    if (auto* create = std::get_if<CreateNamespace>(&request); create != nullptr && create->is_secret) {
        KV_TRY(operation.data_key, keys.make_data_key(operation.fresh_ids[0], create->application_id, 1, now));
    }
    if (std::holds_alternative<CreateToken>(request)) {
        operation.token = crypto::random_token();
        operation.token_hash = crypto::sha256(operation.token->reveal());
    }
    if (auto* rotate = std::get_if<RotateEntry>(&request)) {
        if (auto* generate = std::get_if<Generate>(&rotate->value)) operation.generated = crypto::random_text(*generate);
    }
    return {};
}

}  // namespace

class Store::Impl {
public:
    Impl(std::unique_ptr<Clock> clock, std::unique_ptr<Storage> storage, Options options, std::unique_ptr<crypto::Keyring> keys,
         StoreMeta meta, TimeGuard time)
        : options_(std::move(options)),
          clock_(std::move(clock)),
          storage_(std::move(storage)),
          keys_(std::move(keys)),
          vault_(*keys_),
          meta_(std::move(meta)),
          epoch_(meta_.epoch),
          last_backup_(meta_.last_backup.value_or(Time{})),
          time_(std::move(time)),
          denials_fold_(options_.denial_window),
          disk_(*storage_, options_.disk_free_min, options_.log),
          feed_(std::make_shared<EventFeed>(*storage_, vault_)),
          lanes_(*storage_, vault_, commit_settings()),
          reader_(*storage_, vault_, {epoch_, &options_.limits, options_.read_audit, time_, feed_}),
          reads_(reader_, lanes_.records(), denials_fold_, in_flight_,
                 {options_.readers, options_.bytes_in_flight_max, storage_->is_shared(), feed_.get()}),
          maintenance_(*storage_, vault_, lanes_.upkeep(), denials_fold_, disk_, maintenance_settings()),
          watchdog_(storage_->is_shared() ? stuck_looked_at_each : std::chrono::milliseconds(0), [this] {
              lanes_.refuse_stuck();
              reads_.refuse_stuck(CommitQueue::Settings{}.queue_patience);
          }) {}
    ~Impl() { stop(); }

    void start(std::span<Submission> batch) noexcept;
    Result<Reply> wait(const Actor& actor, Request request);
    StoreStats stats() const;
    Result<void> ready();
    Result<bool> run_maintenance();
    void start_relays();
    void stop();
    // Judges and records what an operator asks for: in one namespace, or on the whole store.
    Result<void> enter_admin(const Actor& actor, std::string_view operation, const NamespaceRow* ns,
                             AuditAction action = AuditAction::write);
    Result<std::uint64_t> forget_master_key(const Actor& actor, const std::string& key_id);
    Result<std::unique_ptr<BackupReader>> backup(const Actor& actor);

    const Options options_;
    const std::unique_ptr<Clock> clock_;  // before the storage, which borrows it
    const std::unique_ptr<Storage> storage_;
    const std::unique_ptr<crypto::Keyring> keys_;
    const Vault vault_;
    const StoreMeta meta_;  // as it was at the opening
    const std::string& epoch_;
    std::atomic<Time> last_backup_;  // zero: none
    const TimeGuard time_;
    ForkMark fork_mark_;
    InFlight in_flight_;
    std::atomic<bool> is_stopping_{false};
    Denials denials_fold_;
    DiskGuard disk_;
    const std::shared_ptr<EventFeed> feed_;  // shared with watches, which may outlive the store
    std::vector<std::unique_ptr<Relay>> relays_;
    std::atomic<bool> has_relays_{false};  // they are all there; what was committed before they find themselves
    Lanes lanes_;
    const Reader reader_;
    ReadQueue reads_;
    Maintenance maintenance_;
    Watchdog watchdog_;

    Result<void> is_open() const;
    Result<std::vector<std::optional<Token>>> find_tokens(std::span<const TokenHash> hashes);

private:
    void hear(std::span<const Storage::Hint> committed) noexcept;
    CommitQueue::Settings commit_settings();
    Maintenance::Settings maintenance_settings() const;
    Result<void> find_room(const Request& request);
    Result<void> accept() const;
    Result<void> may_wait() const;
    // What a batch comes to: each kind goes to its queue at once.
    struct Intake {
        std::vector<std::unique_ptr<ReadItem>> reads;
        std::vector<std::unique_ptr<ReadItem>> refused;  // to be recorded and answered, no more
        std::vector<std::vector<std::unique_ptr<GroupItem>>> writes;  // of each lane
    };
    void take_in(Submission& submission, Intake& intake) noexcept;
    void pass_on(Intake& intake, bool caller_waits) noexcept;
    void begin(Operation operation, Ticket ticket, Intake& intake);
    void begin_write(Operation operation, Ticket ticket, Intake& intake);
    void refuse(Operation operation, Ticket ticket, Error error, Intake& intake);
    bool is_stopped_ = false;
    std::mutex stop_mutex_;
};

CommitQueue::Settings Store::Impl::commit_settings() {
    CommitQueue::Settings settings;
    settings.epoch = epoch_;
    settings.limits = &options_.limits;
    settings.namespace_retention = options_.namespace_retention;
    settings.log = options_.log;
    settings.time = time_;
    settings.on_full = [this] { disk_.note_full(); };
    settings.audit_copy = options_.audit_copy;
    settings.version_base = meta_.version_base;
    settings.on_commit = [this](std::span<const Storage::Hint> committed) {
        hear(committed);
        storage_->announce(committed);
    };
    return settings;
}

Maintenance::Settings Store::Impl::maintenance_settings() const {
    return {options_.namespace_retention,
            options_.expiry_grace,
            options_.tombstone_retention,
            options_.maintenance_interval,
            options_.log,
            time_,
            {options_.audit_retention, options_.audit_bytes_max, options_.audit_archive, epoch_, options_.log},
            {options_.seals_per_key, options_.key_retirement, options_.log},
            {options_.event_retention, options_.events_max}};
}

// Commits of this process and of others; an empty span: of any.
void Store::Impl::hear(std::span<const Storage::Hint> committed) noexcept {
    feed_->note(committed);
    if (!has_relays_.load(std::memory_order_acquire)) return;
    for (const auto& relay : relays_) relay->note(committed);
}

// Once the queues are there through which relays write down how far they got.
void Store::Impl::start_relays() {
    for (EventSink* sink : options_.sinks) {
        Relay::Settings settings{storage_->is_shared(), {}, options_.log};
        if (settings.is_shared) settings.owner = crypto::make_uuid(Time{}).to_string();
        relays_.push_back(std::make_unique<Relay>(*sink, *storage_, Steps(*storage_, lanes_.upkeep()), std::move(settings)));
    }
    has_relays_.store(true, std::memory_order_release);
    storage_->listen([this](std::span<const Storage::Hint> committed) { hear(committed); });
}

// Writes give way before the disk is full; deletions a little later.
Result<void> Store::Impl::find_room(const Request& request) {
    disk_.expect(request_bytes(request));
    if (makes_room(request) ? !disk_.is_empty() : !disk_.is_low()) return {};
    return Error{Errc::storage_full, "The disk is nearly full: nothing is written until there is room."};
}

Result<void> Store::Impl::is_open() const {
    if (fork_mark_.is_child()) return Error{Errc::invalid_state, "The store was opened before fork(); open one in the child."};
    if (is_stopping_.load()) return Error{Errc::shutting_down, "The store is shutting down."};
    return {};
}

// Judges what is counted as in flight already: stop() waits for everything that it does not refuse.
Result<void> Store::Impl::accept() const {
    KV_CHECK(is_open());
    if (in_flight_.bytes.load(std::memory_order_relaxed) > options_.bytes_in_flight_max) {
        return Error{Errc::overloaded, "Too much is waiting to be done; try again shortly."};
    }
    return {};
}

void Store::Impl::start(std::span<Submission> batch) noexcept {
    Intake intake;
    for (Submission& submission : batch) take_in(submission, intake);
    pass_on(intake, false);
}

// `caller_waits`: and will lead what nobody leads yet. What a queue cannot take for want of memory says so itself.
void Store::Impl::pass_on(Intake& intake, bool caller_waits) noexcept {
    for (std::size_t lane = 0; lane < intake.writes.size(); ++lane) {
        if (!intake.writes[lane].empty()) attempt([&] { lanes_[lane].submit(std::move(intake.writes[lane]), !caller_waits); });
    }
    if (!intake.refused.empty()) attempt([&] { reads_.release(std::move(intake.refused), caller_waits); });
    if (!intake.reads.empty()) attempt([&] { reads_.submit(std::move(intake.reads), caller_waits); });
}

void Store::Impl::take_in(Submission& submission, Intake& intake) noexcept {
    // Not counted, or stop() would wait for callers that do not tire of asking.
    if (auto open = contain([&] { return is_open(); }); !open) {
        InFlight none;
        Ticket(std::move(submission.done), 0, none).answer(std::move(open).error());
        return;
    }
    Ticket ticket(std::move(submission.done), request_bytes(submission.request), in_flight_);
    auto accepted = contain([&]() -> Result<void> {
        KV_CHECK(accept());
        Operation operation;
        operation.actor = std::move(submission.actor);
        operation.request = std::move(submission.request);
        begin(std::move(operation), std::move(ticket), intake);
        return {};
    });
    if (!accepted) ticket.answer(std::move(accepted).error());  // unless whoever had it by then did
}

void Store::Impl::begin(Operation operation, Ticket ticket, Intake& intake) {
    if (operation.actor.request_id.empty()) operation.actor.request_id = crypto::make_uuid(Time{}).to_string();
    // A refusal is recorded whatever was asked for; what is no key path at all is left out of the record.
    if (auto* refusal = std::get_if<RecordRefusal>(&operation.request)) {
        if (!check_prefix(refusal->key_path)) refusal->key_path.clear();
        if (is_denial(operation.actor, Error{refusal->reason, {}}, nullptr)) in_flight_.denials.fetch_add(1, std::memory_order_relaxed);
    }

    if (auto valid = validate(operation.actor, operation.request, options_.limits); !valid) {
        // What is wrong with the items of a bulk write is told only to those who may write them.
        const bool is_bulk = std::holds_alternative<BulkSet>(operation.request) || std::holds_alternative<BulkDelete>(operation.request);
        if (!is_bulk || valid.error().items.empty()) {
            refuse(std::move(operation), std::move(ticket), std::move(valid).error(), intake);
            return;
        }
        operation.fault = std::move(valid).error();
    }
    if (is_write(operation.request)) {
        begin_write(std::move(operation), std::move(ticket), intake);
    } else {
        intake.reads.push_back(std::make_unique<ReadItem>(std::move(operation), std::move(ticket)));
    }
}

void Store::Impl::begin_write(Operation operation, Ticket ticket, Intake& intake) {
    normalise_values(operation, options_.limits);
    if (auto* put = std::get_if<PutEntry>(&operation.request); put != nullptr && !operation.values[0]) {
        Error error = operation.values[0].error();
        error.key_path = put->write.key_path;
        refuse(std::move(operation), std::move(ticket), std::move(error), intake);
        return;
    }
    if (auto room = find_room(operation.request); !room) {
        refuse(std::move(operation), std::move(ticket), std::move(room).error(), intake);
        return;
    }
    auto now = time_.now(*storage_);
    auto drawn = now ? draw(operation, *keys_, *now) : Result<void>(now.error());
    if (!drawn) {
        refuse(std::move(operation), std::move(ticket), std::move(drawn).error(), intake);
        return;
    }
    const auto* remove = std::get_if<DeleteNamespace>(&operation.request);
    const bool purges = remove != nullptr && remove->purge;
    const auto* update = std::get_if<UpdateNamespace>(&operation.request);
    const bool rekeys = (update != nullptr && update->is_secret == true) || std::holds_alternative<RotateDataKey>(operation.request);
    const std::size_t lane = lanes_.lane_of(operation.request);
    auto item = std::make_unique<OperationItem>(std::move(operation), std::move(ticket), denials_fold_);
    if (purges) {
        item->then = [this](Ticket rest, Result<Reply>, NamespaceId ns) { maintenance_.purge(ns, std::move(rest)); };
    } else if (rekeys) {
        item->then = [this](Ticket rest, Result<Reply> reply, NamespaceId) {
            maintenance_.rekey();
            rest.answer(std::move(reply));
        };
    }
    if (intake.writes.empty()) intake.writes.resize(lanes_.size());
    intake.writes[lane].push_back(std::move(item));
}

// An operation that is wrong in itself: recorded, then answered.
void Store::Impl::refuse(Operation operation, Ticket ticket, Error error, Intake& intake) {
    auto now = time_.now(*storage_);
    if (!check_actor(operation.actor)) operation.actor = {};  // what cannot be recorded
    auto item = std::make_unique<ReadItem>(std::move(operation), std::move(ticket));
    item->audit.push_back(failure_record(item->operation, error, now ? *now : Time{}, nullptr));
    item->reply = std::move(error);
    intake.refused.push_back(std::move(item));
}

Result<Reply> Store::Impl::wait(const Actor& actor, Request request) {
    KV_CHECK(may_wait());
    struct Call {
        CommitQueue* commits;  // that commits what the operation comes to
        std::atomic<bool> is_done{false};
        Result<Reply> outcome = Reply(Done{});
    } waiting{&lanes_.records()};
    // It captures so little that it takes no memory.
    Submission submission{actor, std::move(request), [&waiting](Result<Reply> reply) {
                              CommitQueue& commits = *waiting.commits;
                              waiting.outcome = std::move(reply);
                              waiting.is_done.store(true, std::memory_order_release);  // whoever waits is gone with it
                              commits.wake_waiters();
                          }};
    Intake intake;
    take_in(submission, intake);
    for (std::size_t lane = 0; lane < intake.writes.size(); ++lane) {
        if (!intake.writes[lane].empty()) waiting.commits = &lanes_[lane];
    }
    CommitQueue& commits = *waiting.commits;
    pass_on(intake, true);
    commits.lead_until(waiting.is_done);
    return std::move(waiting.outcome);
}

// In a child after fork nothing may touch a lock: whoever held it then does not live there.
Result<void> Store::Impl::may_wait() const {
    if (fork_mark_.is_child()) return is_open();
    if (in_completion) return Error{Errc::invalid_state, "A completion must not wait for another operation; submit it."};
    return {};
}

Result<bool> Store::Impl::run_maintenance() {
    KV_CHECK(may_wait());
    KV_CHECK(is_open());
    Ticket ticket([](const Result<Reply>&) {}, 0, in_flight_);
    Result<bool> worked = false;
    if (auto open = is_open(); open) {
        worked = maintenance_.run_round();
    } else {
        worked = std::move(open).error();
    }
    ticket.answer(Reply(Done{}));
    return worked;
}

// ---- what an operator does ----

Result<void> Store::Impl::enter_admin(const Actor& actor, std::string_view operation, const NamespaceRow* ns, AuditAction action) {
    KV_CHECK(may_wait());
    KV_CHECK(is_open());
    const bool is_allowed = ns != nullptr ? Rights(actor, *ns).allows(Permission::admin) : is_admin(actor);
    RecordRefusal refusal{action, std::string(operation), {}, Errc::permission_denied};
    if (!is_allowed) {
        KV_CHECK(wait(actor, std::move(refusal)));
        return Error{Errc::permission_denied, "This needs kv-admin" + std::string(ns != nullptr ? "." : " on everything.")};
    }
    AuditRecord record = make_record(actor, {action, operation}, Time{}, ns);
    if (record.request_id.empty()) record.request_id = crypto::make_uuid(Time{}).to_string();
    return maintenance_.record(std::move(record));
}

Result<std::uint64_t> Store::Impl::forget_master_key(const Actor& actor, const std::string& key_id) {
    KV_CHECK(may_wait());
    Ticket ticket([](const Result<Reply>&) {}, 0, in_flight_);  // so that stop() waits
    constexpr std::string_view operation = "admin.forget-master-key";
    auto forgotten = [&]() -> Result<std::uint64_t> {
        KV_CHECK(enter_admin(actor, operation, nullptr));
        auto dropped = maintenance_.forget_master_key(key_id);
        if (dropped) return dropped;
        RecordRefusal refusal{AuditAction::write, std::string(operation), {}, dropped.error().code};
        KV_CHECK(wait(actor, std::move(refusal)));
        return dropped;
    }();
    ticket.answer(Reply(Done{}));
    return forgotten;
}

// A backup of a running store, which takes note once it was read to its end.
class NotedBackup final : public BackupReader {
public:
    NotedBackup(std::unique_ptr<BackupReader> reader, std::function<void(const BackupInfo&)> note)
        : reader_(std::move(reader)), note_(std::move(note)) {}
    Result<bool> next(std::string& out) override {
        return contain([&] {
            Result<bool> more = reader_->next(out);
            if (more && !*more && note_) std::exchange(note_, nullptr)(reader_->info());
            return more;
        });
    }
    const BackupInfo& info() const override { return reader_->info(); }

private:
    const std::unique_ptr<BackupReader> reader_;
    std::function<void(const BackupInfo&)> note_;
};

Result<std::unique_ptr<BackupReader>> Store::Impl::backup(const Actor& actor) {
    KV_CHECK(enter_admin(actor, "admin.backup", nullptr, AuditAction::read));
    KV_TRY(auto reader, open_backup(*storage_, *keys_));
    AuditRecord record = make_record(actor, {AuditAction::write, "admin.backup-done"}, Time{}, nullptr);
    auto note = [this, record = std::move(record)](const BackupInfo& info) {
        auto noted = maintenance_.record(record, {{std::string(meta_last_backup), format_time(info.taken_at)}});
        if (noted) last_backup_.store(info.taken_at);
        if (!noted && options_.log) options_.log(LogLevel::warning, "backup: not noted: " + noted.error().message);
    };
    return std::unique_ptr<BackupReader>(std::make_unique<NotedBackup>(std::move(reader), std::move(note)));
}

StoreStats Store::Impl::stats() const {
    StoreStats stats;
    if (fork_mark_.is_child()) return stats;
    const CommitQueue::Stats commits = lanes_.stats();
    stats.group_sizes = commits.group_sizes;
    stats.groups = commits.groups;
    stats.operations = commits.operations;
    stats.commit_microseconds = commits.microseconds;
    stats.groups_halved = commits.halved;
    stats.outcomes_unknown = commits.unknown;
    stats.audit_rows = commits.audit_rows;
    stats.queued = commits.queued;
    const ReadQueue::Stats reads = reads_.stats();
    stats.read_group_sizes = reads.group_sizes;
    stats.read_groups = reads.groups;
    stats.reads = reads.reads;
    stats.denials = in_flight_.denials.load(std::memory_order_relaxed);
    stats.integrity_failures = in_flight_.integrity_failures.load(std::memory_order_relaxed);
    stats.overloaded = in_flight_.overloaded.load(std::memory_order_relaxed);
    stats.expired_entries = maintenance_.expired();
    const Rekeying::Stats rekeying = maintenance_.rekeying().stats();
    stats.data_key_seals_max = rekeying.seals_max;
    stats.rekeying_namespaces = rekeying.namespaces;
    stats.master_key_rows_missing = maintenance_.rewrapping().rows_missing();
    stats.bytes_in_flight = in_flight_.bytes.load(std::memory_order_relaxed);
    stats.audit_latency = reads.audit_latency;
    stats.audit_microseconds = reads.audit_microseconds;
    stats.commit_latency = commits.latency;
    stats.audit_rows_removed = maintenance_.audit().removed();
    stats.audit_rows_archived = maintenance_.audit().archived();
    stats.audit_archive_failures = maintenance_.audit().failures();
    stats.audit_removals_forbidden = maintenance_.audit().removals_forbidden();
    stats.denials_folded = maintenance_.folded();
    stats.watches = feed_->watches.load(std::memory_order_relaxed);
    stats.events_removed = maintenance_.events().removed();
    for (const auto& relay : relays_) stats.sinks.push_back(relay->stats());
    stats.clock_skew_seconds = std::chrono::duration<double>(time_.skew()).count();
    stats.sweeper_lag_seconds = std::chrono::duration<double>(maintenance_.sweeper_lag()).count();
    stats.disk_free_min = disk_.free_min();
    stats.storage = storage_->stats();
    if (const Time at = last_backup_.load(); at != Time{}) stats.last_backup = at;
    return stats;
}

Result<void> Store::Impl::ready() {
    KV_CHECK(is_open());
    KV_TRY([[maybe_unused]] const auto meta, storage_->get_meta());
    KV_CHECK(lanes_.last_failure());
    if (disk_.is_low()) return Error{Errc::storage_full, "The disk is nearly full: writes are refused, reads go on."};
    if (const auto missing = maintenance_.rewrapping().rows_missing(); missing > 0 && !options_.previous_keys) {
        return Error{Errc::unavailable, std::to_string(missing) + " stored keys are not wrapped by the master key in use, and what they seal "
                                        "is out of reach: start with KV_MASTER_KEY_PREVIOUS."};
    }
    return time_.judge();
}

void Store::Impl::stop() {
    if (fork_mark_.is_child()) return;
    std::lock_guard lock(stop_mutex_);
    if (is_stopped_) return;
    is_stopping_.store(true);
    feed_->stop();  // who waits for a change waits no longer
    for (auto left = in_flight_.operations.load(); left != 0; left = in_flight_.operations.load()) {
        in_flight_.operations.wait(left);
    }
    storage_->listen({});
    for (const auto& relay : relays_) relay->stop();
    maintenance_.stop();
    maintenance_.flush();
    watchdog_.stop();
    reads_.stop();
    lanes_.stop();
    is_stopped_ = true;
}

// ---- Store ----

Client::~Client() = default;

void Client::submit(std::span<Submission> batch) {
    for (Submission& one : batch) submit(std::move(one.actor), std::move(one.request), std::move(one.done));
}
Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
// A child after fork has the store's memory but not its threads, whose locks may be held for ever: it lets go of all.
Store::~Store() {
    if (impl_->fork_mark_.is_child()) static_cast<void>(impl_.release());
}

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Storage> storage, Options options) {
    return contain([&] { return open(nullptr, std::move(storage), std::move(options)); });
}

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<Clock> clock, std::unique_ptr<Storage> storage, Options options) {
    KV_CHECK(check_options(options));
    KV_TRY(const SecretBytes master_key, options.keys->master_key());
    KV_TRY(const CryptoBackend backend, crypto::select_backend(options.crypto));
    std::optional<SecretBytes> previous;
    if (options.previous_keys) {
        KV_TRY(previous, options.previous_keys->master_key());
    }
    KV_TRY(Beginning beginning, begin(*storage, master_key, backend, previous ? &*previous : nullptr));
    Clock* wall = clock ? clock.get() : options.clock;
    KV_TRY(TimeGuard time, TimeGuard::open(*storage, {wall, options.clock_gap_max, options.trust_clock, options.log}));
    auto impl = std::make_unique<Impl>(std::move(clock), std::move(storage), std::move(options), std::move(beginning.keys),
                                       std::move(beginning.meta), std::move(time));
    impl->start_relays();
    return std::unique_ptr<Store>(new Store(std::move(impl)));
}

void Store::submit(Actor actor, Request request, Completion done) {
    Submission submission{std::move(actor), std::move(request), std::move(done)};
    impl_->start(std::span(&submission, 1));
}
void Store::submit(std::span<Submission> batch) { impl_->start(batch); }

Result<Reply> Store::wait(const Actor& actor, Request request) {
    return contain([&] { return impl_->wait(actor, std::move(request)); });
}
const std::string& Store::epoch() const noexcept { return impl_->epoch_; }
const std::string& Store::key_id() const noexcept { return impl_->keys_->key_id(); }
std::string_view Store::crypto_backend() const noexcept {
    return impl_->keys_->backend() == CryptoBackend::libsodium ? "libsodium" : "openssl";
}
StoreStats Store::stats() const { return impl_->stats(); }
std::vector<AuditHead> Store::audit_heads() const {
    if (impl_->fork_mark_.is_child()) return {};
    return impl_->lanes_.heads();
}
Result<void> Store::ready() const {
    return contain([&] { return impl_->ready(); });
}
Result<bool> Store::run_maintenance() {
    return contain([&] { return impl_->run_maintenance(); });
}
Result<std::vector<std::optional<Token>>> Store::find_tokens(std::span<const TokenHash> hashes) const {
    return contain([&]() -> Result<std::vector<std::optional<Token>>> {
        KV_CHECK(impl_->is_open());
        return impl_->find_tokens(hashes);
    });
}
Result<bool> Store::has_tokens() const {
    return contain([&]() -> Result<bool> {
        KV_CHECK(impl_->is_open());
        KV_TRY(const std::vector<TokenRow> rows, impl_->storage_->scan_tokens({.limit = 1}));
        return !rows.empty();
    });
}
Result<void> Store::note_token_uses(std::span<const TokenUse> uses) {
    return contain([&]() -> Result<void> {
        KV_CHECK(impl_->is_open());
        return impl_->maintenance_.note_token_uses({uses.begin(), uses.end()});
    });
}
void Store::release_waiters() noexcept {
    if (!impl_->fork_mark_.is_child()) impl_->feed_->release();
}
void Store::stop() { impl_->stop(); }

Result<std::vector<std::optional<Token>>> Store::Impl::find_tokens(std::span<const TokenHash> hashes) {
    std::vector<Uuid> ids;
    for (const TokenHash& hash : hashes) ids.push_back(token_id(hash));
    KV_TRY(const std::vector<TokenRow> rows, storage_->get_tokens(ids));
    std::vector<std::optional<Token>> tokens(hashes.size());
    for (const TokenRow& row : rows) {
        auto token = vault_.is_intact(row) ? show_token(row) : Error{Errc::integrity, {}};
        if (!token) {
            in_flight_.integrity_failures.fetch_add(1, std::memory_order_relaxed);
            if (options_.log) options_.log(LogLevel::error, "token " + row.id.to_string() + ": its row was changed outside the store; it counts as none");
            continue;
        }
        for (std::size_t i = 0; i < hashes.size(); ++i)
            if (crypto::equal(hashes[i], row.hash)) tokens[i] = *token;
    }
    return tokens;
}

Result<void> Store::may_administer(const Actor& actor, AuditAction action, std::string_view operation) {
    return contain([&] { return impl_->enter_admin(actor, operation, nullptr, action); });
}
Result<VerifyReport> Store::verify(const Actor& actor, const VerifyOptions& options) {
    return contain([&]() -> Result<VerifyReport> {
        KV_CHECK(impl_->enter_admin(actor, "admin.verify", nullptr));
        VerifyOptions with_keys = options;
        with_keys.previous_keys = impl_->options_.previous_keys;
        return kv::verify(*impl_->storage_, *impl_->options_.keys, with_keys);
    });
}
Result<std::unique_ptr<BackupReader>> Store::backup(const Actor& actor) {
    return contain([&] { return impl_->backup(actor); });
}
Result<NamespaceReply> Store::rotate_data_key(const Actor& actor, const NamespaceRef& ns) {
    return contain([&] { return call(actor, RotateDataKey{ns}); });
}
Result<bool> Store::is_rekeying(const NamespaceId& ns) const {
    return contain([&]() -> Result<bool> {
        KV_CHECK(impl_->is_open());
        return impl_->maintenance_.rekeying().is_rekeying(ns);
    });
}
Result<std::uint64_t> Store::forget_master_key(const Actor& actor, const std::string& key_id) {
    return contain([&] { return impl_->forget_master_key(actor, key_id); });
}

}  // namespace kv
