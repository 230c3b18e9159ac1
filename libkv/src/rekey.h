#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "kv/options.h"
#include "kv/storage.h"
#include "steps.h"
#include "vault.h"

namespace kv {

// Rekeying brings the values of secret namespaces to their present data key: those of a namespace that was made secret, and
// those that a replaced key seals, which goes afterwards. It replaces keys that have sealed much by itself. It works in
// bounded batches, each a commit group of its own, can stop at any point and goes on from what is stored.
//
// Threads: run() one at a time, the rest any.
class Rekeying {
public:
    struct Settings {
        std::uint64_t seals_per_key = 0;
        std::chrono::seconds key_retirement{};
        std::function<void(LogLevel, std::string_view)> log;
    };
    struct Stats {
        std::uint64_t seals_max = 0;     // of any namespace's present key, when last looked
        std::uint64_t namespaces = 0;    // with values that an older key seals
    };
    // Borrows all three.
    Rekeying(Storage& storage, const Vault& vault, Steps& steps, Settings settings);

    // One batch of everything that is due at `now`, the storage's time. Answers how much that was.
    Result<std::size_t> run(Time now);
    // A data key was replaced, or a namespace made secret: run() will look for it at once.
    void ask();
    // See Store.
    Result<bool> is_rekeying(const NamespaceId& ns) const;
    Stats stats() const noexcept;

private:
    // A namespace some of whose values, or whose keys, are older than its present key.
    struct Task {
        enum class State : std::uint8_t {
            resealing,  // values are brought to the present key
            retiring,   // no value that opens needs an older one; they are kept for reads under way
            waiting,    // for the next look: what is left cannot be brought over now
        };
        State state = State::resealing;
        std::uint32_t generation = 0;  // they are brought to
        // Behind the values that do not open.
        std::optional<DueRange::After> after_entry = {};
        std::optional<DueVersionRange::After> after_version = {};
        std::uint64_t skipped = 0;
        bool is_reported = false;
        Time unused_since = {};
    };
    using Tasks = std::map<NamespaceId, Task>;

    Result<void> look(Time now);
    Result<void> look_for_seals();
    Result<void> rotate(const NamespaceId& ns);
    Result<void> add_sealing();
    Result<void> add_outdated();
    // For values sealed by this generation, or an older one.
    void add_task(const NamespaceId& ns, std::uint32_t outdated);
    static void restart(Task& task, std::uint32_t generation);
    Result<std::size_t> run_tasks(Time now);
    Result<std::size_t> run_task(Tasks::iterator at, Time now);
    Result<std::size_t> advance(const NamespaceRow& ns, Task& task, Time now);
    Result<std::size_t> reseal_entries(const NamespaceRow& ns, Task& task);
    Result<std::size_t> reseal_versions(const NamespaceRow& ns, Task& task);
    Result<void> end_sealing(const NamespaceId& ns);
    Result<bool> erase_unused(const NamespaceId& ns);
    void report(const NamespaceId& ns, Task& task, const std::string& why);
    void count_tasks();

    void log(LogLevel level, const std::string& message) const;

    Storage& storage_;
    const Vault& vault_;
    Steps& steps_;
    const Settings settings_;

    std::atomic<bool> is_asked_{true};
    std::optional<Time> looked_at_;
    Tasks tasks_;
    NamespaceId next_task_{};

    mutable std::mutex mutex_;
    std::set<NamespaceId> stuck_;  // with values that cannot be brought over
    std::atomic<std::uint64_t> seals_max_{0};
    std::atomic<std::uint64_t> namespaces_{0};
};

}  // namespace kv
