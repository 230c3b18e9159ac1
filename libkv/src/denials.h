#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kv/types.h"
#include "operation.h"

namespace kv {

// Denials keeps a flood of refused requests from becoming a flood of audit rows: the first of a caller and a reason
// on one operation in one namespace is written at once, the rest of its window is counted and becomes one row when the
// window ends. What is counted and not yet written is lost if the process dies.
//
// Threads: any.
class Denials {
public:
    explicit Denials(std::chrono::seconds window, std::size_t callers_max = 4096)
        : window_(window), callers_max_(callers_max) {}

    // Whether the rows that one refused request leaves, of which `record` is one, are to be written now; false: count() them
    // once the caller is told of the denial, for until then it may be told of a failure instead.
    bool admit(const AuditRecord& record);
    void count(const AuditRecord& record, std::uint64_t rows = 1);
    // The row that admit() let pass was not written, or perhaps not: the next denial of its window is written at once.
    void withdraw(const AuditRecord& record) noexcept;
    // The rows of windows that ended by `now`: the last of each as it was, with the count of those not written.
    std::vector<AuditRecord> take_ended(Time now);
    std::vector<AuditRecord> take_all() { return take_ended(Time::max()); }

private:
    struct Caller {
        std::string user_id;
        std::string credential_id;
        std::string peer;
        std::string reason;
        std::string operation;
        std::optional<NamespaceId> ns;
        friend auto operator<=>(const Caller&, const Caller&) = default;
    };
    struct Window {
        Time ends;
        AuditRecord last;
        std::uint64_t count = 0;
        bool is_withdrawn = false;
        void add(const AuditRecord& record, std::uint64_t rows);
    };

    static Caller caller_of(const AuditRecord& record);
    using Windows = std::map<Caller, Window>;

    // The window that counts for the record, if there is one. Under the lock.
    Windows::iterator find(Caller& caller);
    // That window, and whether it was opened for the record. Under the lock.
    std::pair<Windows::iterator, bool> open(const AuditRecord& record);

    const std::chrono::seconds window_;
    const std::size_t callers_max_;
    std::mutex mutex_;
    Windows windows_;
};

// Whether the refusal tells of a caller without a right rather than of a wrong request: no credential, no grant, too many
// requests, or nothing there that this caller could know of.
bool is_denial(const Actor& actor, const Error& error, const NamespaceRow* ns);

}  // namespace kv
