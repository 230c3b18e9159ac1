#pragma once
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bytes.h"
#include "crypto/hash.h"
#include "crypto/keyring.h"
#include "fault/fault_storage.h"
#include "kv/kv.h"
#include "vault.h"

namespace kv::test {

// Stands still until told otherwise. Threads: any.
class SettableClock final : public Clock {
public:
    Time now() override { return Time(std::chrono::microseconds(micros_.load())); }
    void set(Time time) { micros_ = time.time_since_epoch().count(); }
    void pass(std::chrono::microseconds span) { micros_ += span.count(); }
    std::chrono::microseconds disagreement() override { return std::chrono::microseconds(disagreement_.load()); }
    // As if the wall clock had been set.
    void jump(std::chrono::microseconds span) { disagreement_ += span.count(); }

private:
    std::atomic<std::int64_t> disagreement_{0};
    std::atomic<std::int64_t> micros_ = parse_time("2024-01-15T10:00:00Z")->time_since_epoch().count();
};

inline SecretBytes fixed_key() { return SecretBytes("0123456789abcdef0123456789abcdef"); }

// Waits until `is_true`, for as long as a slow machine may take.
inline bool eventually(const std::function<bool()>& is_true) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!is_true()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        std::this_thread::yield();
    }
    return true;
}

// Replies of submitted operations, each in its own slot. It outlives them.
class Replies {
public:
    explicit Replies(std::size_t count) : slots_(count), left_(count) {}
    Completion slot(std::size_t i) {
        return [this, i](Result<Reply> reply) {
            std::lock_guard lock(mutex_);
            if (slots_[i].has_value()) {
                is_answered_twice_ = true;
                return;
            }
            slots_[i].emplace(std::move(reply));
            --left_;
            changed_.notify_all();
        };
    }
    std::vector<Result<Reply>> take() {
        std::unique_lock lock(mutex_);
        REQUIRE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return left_ == 0; }));
        REQUIRE_FALSE(is_answered_twice_);
        std::vector<Result<Reply>> replies;
        for (auto& slot : slots_) replies.push_back(*std::move(slot));
        return replies;
    }
    std::size_t left() {
        std::lock_guard lock(mutex_);
        return left_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::optional<Result<Reply>>> slots_;
    std::size_t left_;
    bool is_answered_twice_ = false;
};

// What a watch tells next, waiting.
inline Result<WatchBatch> next(Watch& watch, std::chrono::milliseconds patience = std::chrono::seconds(30)) {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Result<WatchBatch>> told;
    watch.next(patience, [&](Result<WatchBatch> batch) {
        std::lock_guard lock(mutex);
        told.emplace(std::move(batch));
        changed.notify_all();
    });
    std::unique_lock lock(mutex);
    REQUIRE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return told.has_value(); }));
    return *std::move(told);
}

// Denials are not folded, unless a test says so.
inline Options each_denial_a_row() {
    Options options;
    options.denial_window = std::chrono::seconds(0);
    return options;
}

enum class Kind { secret, plain, no_history };

// A store over memory, at a time that stands still, with one namespace "app~ns", and a view on its rows that goes past
// it. Maintenance runs only when asked to.
class Fixture {
public:
    using MakeStorage = std::function<std::unique_ptr<Storage>(Clock&)>;
    explicit Fixture(Kind kind = Kind::secret, Options given = each_denial_a_row(), const MakeStorage& make = make_memory_storage)
        : options(std::move(given)) {
        storage = make(clock);
        options.keys = make_fixed_key(fixed_key());
        options.clock = &clock;
        options.maintenance_interval = std::chrono::milliseconds(0);
        open();
        ns = make_namespace("ns", kind);
        new_audit();
    }
    ~Fixture() { faults.open_gate(); }

    void open() {
        auto opened = Store::open(std::make_unique<FaultStorage>(*storage, faults), options);
        REQUIRE_MESSAGE(opened, opened.error().message);
        store = *std::move(opened);
        // The vault of the test opens rows without the store.
        auto keyring = crypto::Keyring::open(fixed_key(), CryptoBackend::openssl, storage->internal_keys().value(), clock.now());
        REQUIRE(keyring);
        keys = *std::move(keyring);
        vault = std::make_unique<Vault>(*keys);
    }
    void close() { store.reset(); }

    NamespaceId make_namespace(const std::string& name, Kind kind) {
        CreateNamespace create;
        create.application_id = "app";
        create.name = name;
        create.is_secret = kind == Kind::secret;
        create.keeps_history = kind != Kind::no_history;
        auto reply = store->call(actor, create);
        REQUIRE_MESSAGE(reply, reply.error().message);
        return reply->ns.id;
    }

    // ---- requests ----

    PutEntry put_request(std::string key, std::string_view text, Ttl ttl = {}, Precondition precondition = {}) const {
        PutEntry request;
        request.ns = ns;
        request.write.key_path = std::move(key);
        request.write.value = ValueInput::text(text);
        request.write.ttl = ttl;
        request.write.precondition = std::move(precondition);
        return request;
    }
    PatchEntry patch_request(std::string key, std::optional<std::string> metadata, Ttl ttl = {}, Precondition precondition = {}) const {
        PatchEntry request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.metadata = std::move(metadata);
        request.ttl = ttl;
        request.precondition = std::move(precondition);
        return request;
    }
    DeleteEntry delete_request(std::string key, bool purge = false, Precondition precondition = {}) const {
        DeleteEntry request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.purge = purge;
        request.precondition = std::move(precondition);
        return request;
    }
    RotateEntry rotate_request(std::string key, std::string_view text, Ttl ttl = {}, Precondition precondition = {}) const {
        RotateEntry request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.value = ValueInput::text(text);
        request.ttl = ttl;
        request.precondition = std::move(precondition);
        return request;
    }
    RollbackEntry rollback_request(std::string key, std::optional<std::uint64_t> version = {}, Precondition precondition = {}) const {
        RollbackEntry request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.version = version;
        request.precondition = std::move(precondition);
        return request;
    }
    GetEntry get_request(std::string key, std::optional<std::uint64_t> version = {}) const {
        GetEntry request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.version = version;
        return request;
    }
    ListEntries list_request(std::string prefix = "", bool values = true) const {
        ListEntries request;
        request.ns = ns;
        request.prefix = std::move(prefix);
        request.include_values = values;
        return request;
    }
    ListVersions versions_request(std::string key, bool values = true) const {
        ListVersions request;
        request.ns = ns;
        request.key_path = std::move(key);
        request.include_values = values;
        return request;
    }
    BulkGet bulk_get_request(std::vector<std::string> wanted) const {
        BulkGet request;
        request.ns = ns;
        request.keys = std::move(wanted);
        return request;
    }
    BulkSet bulk_set_request(const std::vector<std::pair<std::string, std::string>>& items, bool atomic = true) const {
        BulkSet request;
        request.ns = ns;
        request.atomic = atomic;
        for (const auto& [key, text] : items) {
            EntryWrite write;
            write.key_path = key;
            write.value = ValueInput::text(text);
            request.entries.push_back(std::move(write));
        }
        return request;
    }
    BulkDelete bulk_delete_request(std::vector<std::string> doomed, bool atomic = true, bool purge = false) const {
        BulkDelete request;
        request.ns = ns;
        request.keys = std::move(doomed);
        request.atomic = atomic;
        request.purge = purge;
        return request;
    }

    template <class R>
    auto call(R request) {
        return store->call(actor, std::move(request));
    }
    template <class R>
    auto call_as(const Actor& who, R request) {
        return store->call(who, std::move(request));
    }

    // ---- the short way ----

    Result<EntryReply> put(const std::string& key, std::string_view text, Ttl ttl = {}) { return call(put_request(key, text, ttl)); }
    // The value, or "!" and the code.
    std::string get(const std::string& key, std::optional<std::uint64_t> version = {}) {
        auto reply = call(get_request(key, version));
        return reply ? std::string(reply->entry.value.value().reveal()) : "!" + std::string(code_name(reply.error().code));
    }
    void maintain() {
        while (true) {
            auto worked = store->run_maintenance();
            REQUIRE_MESSAGE(worked, worked.error().message);
            if (!*worked) return;
        }
    }

    // Submits all of them so that they arrive while another commit is going on: as far as the rules allow they are one
    // group.
    std::vector<Result<Reply>> together(std::vector<Request> requests) {
        faults.close_gate();
        Replies blocker(1);
        store->submit(actor, GetNamespace{ns, {}}, blocker.slot(0));
        REQUIRE(faults.wait_at_gate(1));
        Replies replies(requests.size());
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Actor who = actor;
            who.request_id = "r" + std::to_string(i);
            store->submit(who, std::move(requests[i]), replies.slot(i));
        }
        faults.open_gate();
        blocker.take();
        return replies.take();
    }

    // ---- what is stored ----

    NamespaceRow namespace_row(const NamespaceId& id) const {
        const EntryRef ref{id, "", {}};
        auto found = storage->find(std::span(&ref, 1), {}).value();
        REQUIRE(found.front().ns);
        return *found.front().ns;
    }
    NamespaceRow namespace_row() const { return namespace_row(ns); }
    std::optional<EntryRow> entry_row(const std::string& key) const {
        const EntryRef ref{ns, key, {}};
        return storage->find(std::span(&ref, 1), Want{true, true}).value().front().entry;
    }
    std::vector<VersionRow> archived(const EntryId& id) const {
        VersionRange range;
        range.entry_id = id;
        range.values = true;
        return storage->scan_versions(range).value();
    }
    std::vector<EventRow> events(std::uint64_t after = 0) const {
        EventRange range{{{ns, after}}, 1'000'000};
        return storage->scan_events(range).value();
    }
    // In commit order; those of opening and closing streams are left out.
    std::vector<AuditRow> audit_rows(std::uint64_t after = 0) const {
        AuditRange range;
        range.newest_first = false;
        range.after = after;
        range.limit = range.walk = 1'000'000;
        std::vector<AuditRow> rows;
        AuditPage page = storage->scan_audit(range).value();
        for (AuditRow& row : page.rows) {
            if (!row.record.operation.starts_with("audit.") || row.record.operation == "audit.list") rows.push_back(std::move(row));
        }
        return rows;
    }
    // Changes rows behind the store's back.
    void tamper(const Changeset& changes) {
        const auto done = storage->write([&](StorageWriter& writer) { return writer.apply(changes); });
        REQUIRE(done.has_value());
    }

    // ---- as text ----

    std::string show(const EntryRow& row) const {
        std::string line = row.key_path + " v" + std::to_string(row.version) + " ";
        if (row.is_tombstone) return line + (row.reason == Reason::expiry ? "expired" : "deleted");
        auto value = vault->open(*storage, namespace_row(row.ns), row);
        line += value ? std::string(value->reveal()) : "!" + std::string(code_name(value.error().code));
        if (row.metadata != "{}") line += " " + row.metadata;
        return line;
    }
    std::string show(const std::string& key, const VersionRow& row) const {
        std::string line = "  v" + std::to_string(row.version) + " " + std::string(to_string(row.reason));
        if (row.is_tombstone) return line;
        auto value = vault->open(*storage, namespace_row(row.ns), key, row);
        line += " " + (value ? std::string(value->reveal()) : "!" + std::string(code_name(value.error().code)));
        if (row.metadata != "{}") line += " " + row.metadata;
        return line;
    }
    // Entries with their history below them, newest first.
    std::string rows() const {
        DueRange range;
        range.kind = DueRange::Kind::all;
        range.ns = ns;
        range.values = true;
        range.limit = range.bytes = 1'000'000'000;
        std::string out;
        const std::vector<EntryRow> entries = storage->scan_due(range).value();
        for (const EntryRow& row : entries) {
            out += show(row) + "\n";
            for (const VersionRow& version : archived(row.id)) out += show(row.key_path, version) + "\n";
        }
        return out;
    }
    static std::string show(const AuditRecord& record) {
        std::string line = "audit " + std::string(to_string(record.action));
        if (!record.key_path.empty()) line += " " + record.key_path;
        if (record.version) line += " v" + std::to_string(*record.version);
        line += record.success ? " ok" : " " + record.reason;
        if (record.user_id == "system") line += " by system";
        return line;
    }
    // What was recorded since the last time.
    std::string new_audit() {
        std::string out;
        for (const AuditRow& row : audit_rows(seen_)) {
            out += show(row.record) + "\n";
            seen_ = row.position;
        }
        return out;
    }
    std::string event_lines(std::uint64_t after = 0) const {
        std::string out;
        for (const EventRow& event : events(after)) {
            out += std::string(to_string(event.kind)) + " " + event.key_path + " v" + std::to_string(event.version) + " r" +
                   std::to_string(event.revision) + "\n";
        }
        return out;
    }
    std::string dump() { return rows() + new_audit(); }

    SettableClock clock;
    Options options;
    Faults faults;
    std::unique_ptr<Storage> storage;
    std::unique_ptr<Store> store;
    std::unique_ptr<crypto::Keyring> keys;
    std::unique_ptr<Vault> vault;
    Actor actor = Actor::trusted("tester");
    NamespaceId ns;

private:
    std::uint64_t seen_ = 0;  // position of the last audit row shown
};

// Walks every audit stream as the design says it was written, and holds it against its head. Empty, or what is wrong.
inline std::string audit_fault(Storage& storage, const crypto::Keyring& keys) {
    AuditRange range;
    range.newest_first = false;
    range.limit = range.walk = 10'000'000;
    std::map<StreamId, std::vector<AuditRow>> streams;
    auto page = storage.scan_audit(range);
    if (!page) return "audit cannot be read";
    for (AuditRow& row : page->rows) streams[row.record.stream].push_back(std::move(row));
    for (const auto& [stream, rows] : streams) {
        const crypto::Key key = keys.audit_stream_key(stream);
        Mac mac{};
        std::uint64_t sequence = 0;
        for (const AuditRow& row : rows) {
            const AuditRecord& r = row.record;
            if (r.sequence != ++sequence) return "a gap at " + std::to_string(sequence);
            BytesWriter out;
            out.u8(r.revision ? 2 : 1);
            out.uuid(r.stream);
            out.u64(r.sequence);
            out.time(r.timestamp);
            out.optional(r.namespace_id, [&](const Uuid& id) { out.uuid(id); });
            out.optional(r.entry_id, [&](const Uuid& id) { out.uuid(id); });
            out.string(r.key_path);
            out.u8(static_cast<std::uint8_t>(r.action));
            for (const std::string* text : {&r.operation, &r.user_id, &r.credential_id, &r.application_id, &r.peer, &r.request_id}) {
                out.string(*text);
            }
            out.u8(r.success ? 1 : 0);
            out.string(r.reason);
            out.optional(r.version, [&](std::uint64_t version) { out.u64(version); });
            out.u64(r.count);
            if (r.revision) out.u64(*r.revision);
            mac = crypto::blake2b_keyed(key, {{reinterpret_cast<const char*>(mac.data()), mac.size()}, out.str()});
            if (mac != row.mac) return "a wrong mac at " + std::to_string(sequence);
        }
        const auto heads = storage.get_audit_heads(std::span(&stream, 1)).value();
        if (heads.size() != 1) return "a stream without a head";
        if (heads[0].sequence != sequence || heads[0].mac != mac) return "the head is elsewhere";
        if (rows.front().record.operation != "audit.open") return "a stream that does not begin with its opening";
        const bool ends_in_close = rows.back().record.operation == "audit.close";
        if (heads[0].state != HeadState::witnessed && (heads[0].state == HeadState::closed) != ends_in_close) {
            return "closed in one place only";
        }
    }
    return "";
}

// Every finding of a verification, one a line: empty, if the storage is sound.
inline std::string verify_fault(Storage& storage, const VerifyOptions& options = {}) {
    auto keys = make_fixed_key(fixed_key());
    const auto report = verify(storage, *keys, options);
    if (!report) return "not verified: " + report.error().message + "\n";
    std::string out;
    for (const Finding& finding : report->findings) out += finding.kind + ": " + finding.message + "\n";
    CHECK(report->is_sound() == out.empty());
    return out;
}

inline std::string code_of(const Result<Reply>& reply) { return reply ? "ok" : std::string(code_name(reply.error().code)); }
template <class T>
std::string code_of(const Result<T>& reply) {
    return reply ? "ok" : std::string(code_name(reply.error().code));
}

}  // namespace kv::test
