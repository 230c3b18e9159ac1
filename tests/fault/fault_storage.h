#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "fault/forwarding_storage.h"

namespace kv::test {

// What a FaultStorage is to fail with; empty means nothing. Threads: any. It outlives the storage.
class Faults {
public:
    // The next `count` writes fail before their body runs.
    void fail_writes(Errc code, int count) { set([&] { write_code_ = code, write_count_ = count; }); }
    // The next `count` commits are lost: their body ran, what it changed is kept or not, and nobody says which.
    void lose_outcome(bool is_kept, int count = 1) { set([&] { lost_is_kept_ = is_kept, lost_count_ = count; }); }
    // The next `count` questions for audit heads fail.
    void fail_heads(int count) { set([&] { heads_count_ = count; }); }
    // Every apply() for which `judge` names an error fails with it.
    using Judge = std::function<std::optional<Errc>(const Changeset&)>;
    void judge_apply(Judge judge) { set([&] { judge_ = std::move(judge); }); }
    // Every find() inside a write that asks for this key fails.
    void fail_find_in_write(std::string key_path) { set([&] { poisoned_ = std::move(key_path); }); }
    // Every question for data keys outside a write fails.
    void fail_reads_of_keys(std::optional<Errc> code) { set([&] { keys_code_ = code; }); }
    // The body of every write runs twice, as after a lost race.
    void lose_races(bool all) { set([&] { loses_races_ = all; }); }
    void clear() {
        fail_writes(Errc::internal, 0);
        lose_outcome(false, 0);
        fail_heads(0);
        judge_apply({});
        fail_find_in_write({});
        fail_reads_of_keys({});
        lose_races(false);
    }

    // Writes stop at the door until open_gate().
    void close_gate() { set([&] { is_closed_ = true; }); }
    void open_gate() {
        set([&] { is_closed_ = false; });
        changed_.notify_all();
    }
    // From now on a find() outside a write waits until it is let pass.
    void hold_finds() { set([&] { finds_allowed_ = 0; }); }
    void let_finds_pass(int count) {
        set([&] { finds_allowed_ += count; });
        changed_.notify_all();
    }
    // True once a find() is held.
    bool wait_for_held_find() {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return finds_held_ > 0; });
    }
    // True once `count` writes stand at the door.
    bool wait_at_gate(int count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return at_gate_ == count; });
    }

    // The disk it pretends to lie on; 0: none.
    std::atomic<std::uint64_t> disk_bytes{0};
    std::atomic<std::uint64_t> disk_free_bytes{0};
    std::atomic<std::uint64_t> held_back_bytes{0};

    std::atomic<int> writes{0};
    std::atomic<int> event_scans_to_fail{0};
    std::atomic<int> idles{0};
    std::atomic<int> inside{0};      // writes and tidyings going on
    std::atomic<bool> overlapped{false};
    std::atomic<bool> holds_idle{false};  // a tidying goes on until this is false

private:
    friend class FaultStorage;
    friend class FaultWriter;

    template <class F>
    void set(F&& change) {
        std::lock_guard lock(mutex_);
        change();
    }
    void pass_gate() {
        std::unique_lock lock(mutex_);
        ++at_gate_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return !is_closed_; });
        --at_gate_;
    }
    void pass_find() {
        std::unique_lock lock(mutex_);
        ++finds_held_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return finds_allowed_ > 0; });
        --finds_allowed_;
        --finds_held_;
    }
    std::optional<Errc> next_write() {
        std::lock_guard lock(mutex_);
        if (write_count_ == 0) return std::nullopt;
        --write_count_;
        return write_code_;
    }
    // Says whether the lost commit is kept.
    std::optional<bool> next_lost() {
        std::lock_guard lock(mutex_);
        if (lost_count_ == 0) return std::nullopt;
        --lost_count_;
        return lost_is_kept_;
    }
    bool next_heads() {
        std::lock_guard lock(mutex_);
        return heads_count_ == 0 || heads_count_-- == 0;
    }
    std::optional<Errc> judge(const Changeset& changes) {
        std::unique_lock lock(mutex_);
        const Judge judge = judge_;
        lock.unlock();
        return judge ? judge(changes) : std::nullopt;
    }
    std::optional<Errc> keys_code() {
        std::lock_guard lock(mutex_);
        return keys_code_;
    }
    bool is_poisoned(std::span<const EntryRef> refs) {
        std::lock_guard lock(mutex_);
        if (poisoned_.empty()) return false;
        for (const EntryRef& ref : refs) {
            if (ref.key_path == poisoned_) return true;
        }
        return false;
    }
    bool loses_races() {
        std::lock_guard lock(mutex_);
        return loses_races_;
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    Errc write_code_ = Errc::internal;
    int write_count_ = 0;
    bool lost_is_kept_ = false;
    int lost_count_ = 0;
    int heads_count_ = 0;
    Judge judge_;
    std::string poisoned_;
    std::optional<Errc> keys_code_;
    bool loses_races_ = false;
    bool is_closed_ = false;
    int at_gate_ = 0;
    int finds_allowed_ = 1'000'000'000;
    int finds_held_ = 0;
};

inline Error injected(Errc code) { return Error{code, "a fault of the test", {}}; }

class FaultWriter final : public Forwarding<StorageWriter> {
public:
    FaultWriter(StorageWriter& inner, Faults& faults) : Forwarding(inner), faults_(faults) {}
    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override {
        if (faults_.is_poisoned(refs)) return injected(Errc::internal);
        return inner_.find(refs, want);
    }
    Result<std::vector<std::shared_ptr<const NamespaceRow>>> lock(std::span<const NamespaceRef> refs) override { return inner_.lock(refs); }
    Result<std::optional<SinkRow>> lock_sink(std::string_view name) override { return inner_.lock_sink(name); }
    Result<void> apply(const Changeset& changes) override {
        if (const auto code = faults_.judge(changes)) return injected(*code);
        return inner_.apply(changes);
    }

private:
    Faults& faults_;
};

// A storage that fails on demand. Borrows both.
class FaultStorage final : public Forwarding<Storage> {
public:
    FaultStorage(Storage& inner, Faults& faults) : Forwarding(inner), faults_(faults) {}

    Result<std::vector<Found>> find(std::span<const EntryRef> refs, Want want) override {
        faults_.pass_find();
        return inner_.find(refs, want);
    }
    Result<std::vector<KeyRow>> get_keys(std::span<const KeyRef> refs) override {
        if (const auto code = faults_.keys_code()) return injected(*code);
        return inner_.get_keys(refs);
    }
    Result<std::vector<AuditHead>> get_audit_heads(std::span<const StreamId> streams) override {
        if (!faults_.next_heads()) return injected(Errc::unavailable);
        return inner_.get_audit_heads(streams);
    }
    Result<std::vector<EventRow>> scan_events(const EventRange& range) override {
        if (faults_.event_scans_to_fail > 0 && faults_.event_scans_to_fail-- > 0) return injected(Errc::unavailable);
        return inner_.scan_events(range);
    }

    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override {
        const Inside inside(faults_);
        ++faults_.writes;
        faults_.pass_gate();
        if (const auto code = faults_.next_write()) return injected(*code);
        const auto lost = faults_.next_lost();
        const auto faulty = [&](StorageWriter& writer) -> Result<void> {
            FaultWriter wrapped(writer, faults_);
            KV_CHECK(body(wrapped));
            if (lost && !*lost) return injected(Errc::unavailable);
            return {};
        };
        if (faults_.loses_races()) {
            const auto first = inner_.write([&](StorageWriter& writer) -> Result<void> {
                KV_CHECK(faulty(writer));
                return injected(Errc::unavailable);
            });
            static_cast<void>(first.has_value());
        }
        Result<void> done = inner_.write(faulty);
        if (lost && (done || !*lost)) return injected(Errc::outcome_unknown);
        return done;
    }
    Result<std::unique_ptr<StorageReader>> snapshot() override { return inner_.snapshot(); }
    bool is_shared() const override { return inner_.is_shared(); }
    std::size_t writes_at_once() const override { return inner_.writes_at_once(); }
    bool hold_back(std::uint64_t bytes) override {
        faults_.held_back_bytes = bytes;
        return inner_.hold_back(bytes);
    }
    Stats stats() override {
        Stats stats = inner_.stats();
        if (faults_.disk_bytes == 0) return stats;
        stats.disk_bytes = faults_.disk_bytes;
        stats.disk_free_bytes = faults_.disk_free_bytes;
        return stats;
    }
    void idle() override {
        const Inside inside(faults_);
        ++faults_.idles;
        while (faults_.holds_idle) std::this_thread::yield();
        inner_.idle();
    }

private:
    // Notices a write and a tidying at the same time, which a storage need not stand.
    struct Inside {
        explicit Inside(Faults& noted) : faults(noted) {
            if (faults.inside.fetch_add(1) != 0) faults.overlapped = true;
        }
        ~Inside() { faults.inside.fetch_sub(1); }
        Faults& faults;
    };
    Faults& faults_;
};

}  // namespace kv::test
