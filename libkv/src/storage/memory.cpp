#include "kv/memory.h"

#include <mutex>
#include <shared_mutex>
#include <utility>

#include "out_of_memory.h"
#include "storage/answers.h"
#include "storage/memory_tables.h"

namespace kv {
namespace memory {
namespace {

template <class F>
auto ask(const Tables& tables, F&& question) -> Result<decltype(question(tables))> {
    try {
        return question(tables);
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    }
}

// Only one writer exists at a time, so it reads without the lock. From apply() until the write ends it holds it, so that
// no reader sees what may still be undone.
class MemoryWriter final : public rows::Answers<StorageWriter, MemoryWriter> {
public:
    MemoryWriter(Tables& tables, std::shared_mutex& mutex, Clock& clock)
        : tables_(tables), clock_(clock), lock_(mutex, std::defer_lock) {}

    Result<Time> now() override { return clock_.now(); }
    Result<std::vector<NamespacePtr>> lock(std::span<const NamespaceRef> refs) override {
        return tables_.namespaces(refs);
    }
    Result<std::optional<SinkRow>> lock_sink(std::string_view name) override { return tables_.find_sink(name); }
    Result<void> apply(const Changeset& changes) override {
        if (lock_.owns_lock()) return Error{Errc::internal, "apply() was called twice in one write"};
        lock_.lock();
        is_spoilt_ = true;
        Result<void> done = tables_.apply(changes, undo_);
        is_spoilt_ = !done;
        return done;
    }

    template <class F>
    auto answer_with(F&& question) {
        return ask(tables_, question);
    }
    Result<void> commit() {
        if (is_spoilt_) return Error{Errc::internal, "the write went on after a failed apply()"};
        undo_.keep();
        return {};
    }

private:
    Tables& tables_;
    Clock& clock_;
    std::unique_lock<std::shared_mutex> lock_;
    Undo undo_;  // runs before the lock is released
    bool is_spoilt_ = false;
};

// A copy of the tables, whose rows are shared except for the audit log's.
class MemorySnapshot final : public rows::Answers<StorageReader, MemorySnapshot> {
public:
    MemorySnapshot(Tables tables, Clock& clock) : tables_(std::move(tables)), clock_(clock) {}
    Result<Time> now() override { return clock_.now(); }
    template <class F>
    auto answer_with(F&& question) {
        return ask(tables_, question);
    }

private:
    const Tables tables_;
    Clock& clock_;
};

class MemoryStorage final : public rows::Answers<Storage, MemoryStorage> {
public:
    explicit MemoryStorage(Clock& clock) : clock_(clock) {}

    Result<Time> now() override { return clock_.now(); }
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override {
        std::lock_guard one_at_a_time(write_mutex_);
        try {
            MemoryWriter writer(tables_, mutex_, clock_);
            KV_CHECK(body(writer));
            return writer.commit();
        } catch (const std::bad_alloc&) {
            return out_of_memory();
        } catch (const std::exception&) {
            return make_error(Errc::internal, "the write was ended by an exception");
        }
    }

    Result<std::unique_ptr<StorageReader>> snapshot() override {
        return contain([&]() -> Result<std::unique_ptr<StorageReader>> {
            std::shared_lock lock(mutex_);
            return std::unique_ptr<StorageReader>(std::make_unique<MemorySnapshot>(tables_, clock_));
        });
    }

    template <class F>
    auto answer_with(F&& question) {
        std::shared_lock lock(mutex_);
        return ask(tables_, question);
    }

private:
    Clock& clock_;
    std::mutex write_mutex_;
    std::shared_mutex mutex_;
    Tables tables_;
};

}  // namespace
}  // namespace memory

std::unique_ptr<Storage> make_memory_storage(Clock& clock) { return std::make_unique<memory::MemoryStorage>(clock); }

}  // namespace kv
