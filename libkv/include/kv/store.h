#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kv/admin.h"
#include "kv/events.h"
#include "kv/options.h"
#include "kv/request.h"
#include "kv/storage.h"

namespace kv {

class BoundNamespace;
class Store;

// Opens "sqlite:PATH" or "memory:" (PostgreSQL: a build with it). Errc::invalid_request for another scheme.
KV_EXPORT Result<std::unique_ptr<Store>> open(std::string_view uri, Options options);

// The storage alone, for the tools of kv/admin.h. Read-only, it may be one that a store serves in another process. `alone`
// is to write where nobody else writes: Errc::locked, saying who, while another program has it open to write, and none can open
// it so until this one is closed. (A file of SQLite has one writer anyway.)
enum class Access : std::uint8_t { read_only, read_write, alone };
KV_EXPORT Result<std::unique_ptr<Storage>> open_storage(std::string_view uri, Access access, Clock& clock);

using Completion = std::function<void(Result<Reply>)>;

// One operation for Client::submit.
struct Submission {
    Actor actor = {};
    Request request = {};
    Completion done = {};
};

// Client is what a program talks to: a Store in its own process, or a remote one.
//
// Threads: every method may be called from any thread.
class KV_EXPORT Client {
public:
    virtual ~Client();

    // Starts one operation. `done` is called exactly once, from any thread, perhaps before submit returns; it must not
    // block, and may call submit.
    virtual void submit(Actor actor, Request request, Completion done) = 0;

    // Starts many, in this order, and moves from them. What a storage can do together then shares its questions, commits
    // and wake-ups, so a host that has several at hand, as an event loop does, should give them away together.
    virtual void submit(std::span<Submission> batch);

    // The same, waiting for the reply. Inside a completion it answers Errc::invalid_state instead of deadlocking.
    virtual Result<Reply> wait(const Actor& actor, Request request) = 0;

    // wait() with the reply type of the request: call(actor, GetEntry{...}) gives Result<EntryReply>.
    template <class R>
    Result<typename R::ReplyType> call(const Actor& actor, R request) {
        Result<Reply> reply = wait(actor, Request(std::move(request)));
        if (!reply) return std::move(reply).error();
        return std::get<typename R::ReplyType>(*std::move(reply));
    }

    // Calls `heard` with what changes, from a thread of the subscription's own, which may block there: only its own events wait.
    // An error is the last call. Inside a completion Errc::invalid_state.
    Result<std::unique_ptr<Subscription>> watch(const Actor& actor, WatchEntries request,
                                                std::function<void(const Result<WatchBatch>&)> heard);

    // A handle on one namespace for one actor. It borrows the client.
    BoundNamespace in(std::string application_id, std::string name, Actor actor);
    BoundNamespace in(NamespaceRef ns, Actor actor);
};

// Figures since the store was opened.
struct StoreStats {
    // How many operations a commit carried: bucket i counts groups of at most 2^i operations (1, 2, 4 ... 512), the last one all larger.
    static constexpr std::size_t group_buckets = 11;
    std::array<std::uint64_t, group_buckets> group_sizes{};
    std::uint64_t groups = 0;
    std::uint64_t operations = 0;           // carried by those groups
    std::array<std::uint64_t, group_buckets> read_group_sizes{};
    std::uint64_t read_groups = 0;
    std::uint64_t reads = 0;
    std::uint64_t commit_microseconds = 0;  // spent in storage writes
    // How long commits took, and reads from their result to its release: bucket i counts what took less than 64 << i
    // microseconds and not less than the bucket before, the last one everything longer.
    static constexpr std::size_t latency_buckets = 20;
    static constexpr std::uint64_t latency_bound_microseconds = 64;
    std::array<std::uint64_t, latency_buckets> commit_latency{};
    std::array<std::uint64_t, latency_buckets> audit_latency{};
    std::uint64_t audit_microseconds = 0;   // the sum of the latter
    std::uint64_t groups_halved = 0;
    std::uint64_t outcomes_unknown = 0;
    std::uint64_t denials = 0;
    std::uint64_t integrity_failures = 0;
    std::uint64_t overloaded = 0;
    std::uint64_t expired_entries = 0;
    std::uint64_t audit_rows = 0;
    std::uint64_t data_key_seals_max = 0;       // by the present data key of any namespace; looked at every minute
    std::uint64_t rekeying_namespaces = 0;      // with values that a replaced data key seals
    std::uint64_t master_key_rows_missing = 0;  // stored keys not wrapped by the master key in use (yet)
    std::uint64_t audit_rows_removed = 0;   // by retention
    std::uint64_t audit_rows_archived = 0;
    std::uint64_t audit_archive_failures = 0;
    std::uint64_t audit_removals_forbidden = 0;  // times that rows were due, and the storage lets none be removed from here
    std::uint64_t denials_folded = 0;       // counted in a row of others
    std::uint64_t bytes_in_flight = 0;
    std::uint64_t queued = 0;
    std::optional<Time> last_backup = {};   // what the last backup that was read to its end shows; empty: there was none
    std::uint64_t watches = 0;              // under way
    std::uint64_t events_removed = 0;       // by retention
    struct Sink {
        std::string name;
        bool is_owner = false;              // this process delivers to it
        std::uint64_t pending = 0;          // events not confirmed, as far as this process knows
        double oldest_pending_seconds = 0;  // how long ago the oldest of them happened
        std::uint64_t delivered = 0;        // confirmed, repeats too
        std::uint64_t failures = 0;         // deliveries that failed, or of which something did not arrive
        std::string last_error;             // of the last delivery; empty: it succeeded
    };
    std::vector<Sink> sinks;
    double clock_skew_seconds = 0;          // of the wall clock ahead of the store's
    double sweeper_lag_seconds = 0;         // of the oldest entry that expired and was not swept yet
    std::uint64_t disk_free_min = 0;        // below it writes are refused; 0: no guard
    Storage::Stats storage;
};

// Store is the front door: namespaces, entries, versions, audit and events over one storage.
//
// Threads:   every method may be called from any thread. After fork() a child's calls answer Errc::invalid_state.
// Ownership: owns its storage and its threads. The destructor finishes what submit() accepted, then joins. Options::clock is
//            borrowed. Replies own their data.
class KV_EXPORT Store final : public Client {
public:
    // Errc::wrong_key if the master key is not the one the storage was made with (nothing was written then).
    static Result<std::unique_ptr<Store>> open(std::unique_ptr<Storage> storage, Options options);
    ~Store() override;

    void submit(Actor actor, Request request, Completion done) override;
    void submit(std::span<Submission> batch) override;
    Result<Reply> wait(const Actor& actor, Request request) override;

    // Random, made with the store; part of every ETag and cursor.
    const std::string& epoch() const noexcept;
    // master_key_id() of the key in use.
    const std::string& key_id() const noexcept;
    // "libsodium" or "openssl".
    std::string_view crypto_backend() const noexcept;
    StoreStats stats() const;
    // Heads of this store's audit streams: what an operator may note down elsewhere. One for each write that its storage
    // can do at once; those whose sequence is 0 hold no row yet.
    std::vector<AuditHead> audit_heads() const;
    // An error if the store cannot serve now.
    Result<void> ready() const;

    // ---- who has which token: what a front end asks to find out who somebody is. Not recorded ----

    // One per hash: null for what is no token of the store, or whose row was changed outside it (which is logged). Whether it has
    // expired is the caller's to judge. On the calling thread.
    Result<std::vector<std::optional<Token>>> find_tokens(std::span<const TokenHash> hashes) const;
    // Whether there is any.
    Result<bool> has_tokens() const;
    // When tokens were used last; an earlier time changes nothing. Not recorded either. On the calling thread.
    Result<void> note_token_uses(std::span<const TokenUse> uses);

    // One round of everything that is due (expiry, purges, sealing), waiting; false when nothing was left to do.
    Result<bool> run_maintenance();

    // ---- what an operator does with a running store: each needs kv-admin on everything and is recorded ----

    // Whether the actor may do all of this, for what a front end adds to it: Errc::permission_denied if not. Recorded as
    // `operation` either way.
    Result<void> may_administer(const Actor& actor, AuditAction action, std::string_view operation);
    // See kv/admin.h. On the calling thread, for as long as it takes.
    Result<VerifyReport> verify(const Actor& actor, const VerifyOptions& options);
    // The reader must go before the store does.
    Result<std::unique_ptr<BackupReader>> backup(const Actor& actor);
    // Gives a secret namespace a new data key; its values are sealed anew in the background, after which the old key goes.
    // Needs kv-admin in that namespace; Errc::invalid_request for a plain one. The same as the request RotateDataKey.
    Result<NamespaceReply> rotate_data_key(const Actor& actor, const NamespaceRef& ns);
    // Whether values of a namespace are still sealed by a data key that was replaced. Errc::integrity once nothing is left
    // of them but what does not open, Errc::not_found.
    Result<bool> is_rekeying(const NamespaceId& ns) const;
    // Drops the wraps of a master key that is not in use any more. Errc::invalid_request for the key in use or an unknown one,
    // Errc::invalid_state while a stored key lacks a wrap by the key in use. Answers how many wraps went.
    Result<std::uint64_t> forget_master_key(const Actor& actor, const std::string& key_id);

    // Nobody waits for a change any more, neither now nor from now on: lists that wait are answered as they are, watches end with
    // Errc::shutting_down. For a server that drains before it stops the store. Does not block.
    void release_waiters() noexcept;
    // Refuses new operations with Errc::shutting_down and waits for those accepted. The destructor does it too.
    void stop();

private:
    class Impl;
    explicit Store(std::unique_ptr<Impl> impl);
    // With a clock of the store's own, which the storage borrows.
    static Result<std::unique_ptr<Store>> open(std::unique_ptr<Clock> clock, std::unique_ptr<Storage> storage, Options options);
    friend KV_EXPORT Result<std::unique_ptr<Store>> open(std::string_view uri, Options options);
    std::unique_ptr<Impl> impl_;
};

// BoundNamespace is the short way: one namespace, one actor, plain C++ types. It borrows its client.
//
//     auto cfg = store->in("app-123", "production", kv::Actor::trusted("worker"));
//     auto host = cfg.get<std::string>("database/host").value_or("localhost");
//
// get<T>: std::string (STRING, NUMBER, BOOLEAN and JSON as text), std::int64_t, double, bool, SecretBytes (any type, its bytes). A
// value that does not fit T is Errc::invalid_value.
class KV_EXPORT BoundNamespace {
public:
    BoundNamespace(Client& client, NamespaceRef ns, Actor actor);

    template <class T>
    Result<T> get(std::string_view key_path) const;
    Result<Entry> entry(std::string_view key_path) const;

    Result<Entry> put(std::string_view key_path, ValueInput value, Ttl ttl = {}) const;
    Result<Entry> put(std::string_view key_path, std::string_view text, Ttl ttl = {}) const {
        return put(key_path, ValueInput::text(text), ttl);
    }
    Result<Entry> put(std::string_view key_path, const char* text, Ttl ttl = {}) const {
        return put(key_path, ValueInput::text(text), ttl);
    }
    Result<Entry> put(std::string_view key_path, std::int64_t number, Ttl ttl = {}) const;
    Result<Entry> put(std::string_view key_path, int number, Ttl ttl = {}) const {
        return put(key_path, static_cast<std::int64_t>(number), ttl);
    }
    Result<Entry> put(std::string_view key_path, double number, Ttl ttl = {}) const;
    Result<Entry> put(std::string_view key_path, bool value, Ttl ttl = {}) const;

    Result<void> remove(std::string_view key_path) const;
    // Every entry below a prefix, values included, however many pages that takes.
    Result<std::vector<Entry>> list(std::string_view prefix) const;
    Result<Entry> rotate(std::string_view key_path, ValueInput value) const;
    Result<Entry> rollback(std::string_view key_path, std::optional<std::uint64_t> version = {}) const;

    // Calls `heard` with the changes below a prefix: see Client::watch().
    Result<std::unique_ptr<Subscription>> watch(std::string prefix, std::optional<std::uint64_t> from_revision,
                                                std::function<void(const Result<WatchBatch>&)> heard) const;

    const NamespaceRef& ns() const noexcept { return ns_; }
    const Actor& actor() const noexcept { return actor_; }
    Client& client() const noexcept { return *client_; }

private:
    Client* client_;
    NamespaceRef ns_;
    Actor actor_;
};

template <>
KV_EXPORT Result<std::string> BoundNamespace::get<std::string>(std::string_view key_path) const;
template <>
KV_EXPORT Result<std::int64_t> BoundNamespace::get<std::int64_t>(std::string_view key_path) const;
template <>
KV_EXPORT Result<double> BoundNamespace::get<double>(std::string_view key_path) const;
template <>
KV_EXPORT Result<bool> BoundNamespace::get<bool>(std::string_view key_path) const;
template <>
KV_EXPORT Result<SecretBytes> BoundNamespace::get<SecretBytes>(std::string_view key_path) const;

}  // namespace kv
