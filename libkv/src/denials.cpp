#include "denials.h"

#include <algorithm>
#include <utility>

#include "authorize.h"
#include "out_of_memory.h"

namespace kv {

// A row that stands for several keys names none.
void Denials::Window::add(const AuditRecord& record, std::uint64_t rows) {
    const bool is_same_key = count == 0 || last.key_path == record.key_path;
    AuditRecord copy = record;  // whole, or the window stays as it is
    if (!is_same_key) copy.key_path.clear();
    last = std::move(copy);
    count += rows;
}

Denials::Caller Denials::caller_of(const AuditRecord& record) {
    return {record.user_id, record.credential_id, record.peer, record.reason, record.operation, record.namespace_id};
}

Denials::Windows::iterator Denials::find(Caller& caller) {
    const auto found = windows_.find(caller);
    if (found != windows_.end() || windows_.size() < callers_max_) return found;
    // Too many callers to tell them apart: those that come now are counted together, by reason.
    caller = Caller{{}, {}, {}, std::move(caller.reason), {}, {}};
    return windows_.find(caller);
}

std::pair<Denials::Windows::iterator, bool> Denials::open(const AuditRecord& record) {
    Caller caller = caller_of(record);
    const auto found = find(caller);
    // What an old window counted and nobody took yet: it goes on counting until it is.
    const bool is_open = found != windows_.end() && (found->second.ends > record.timestamp || found->second.count > 0);
    if (is_open) return {found, false};
    return {windows_.insert_or_assign(std::move(caller), Window{record.timestamp + window_, {}, 0, false}).first, true};
}

bool Denials::admit(const AuditRecord& record) {
    if (window_.count() == 0) return true;
    std::lock_guard lock(mutex_);
    const auto [window, is_new] = open(record);
    return is_new || std::exchange(window->second.is_withdrawn, false);
}

void Denials::withdraw(const AuditRecord& record) noexcept {
    if (window_.count() == 0) return;
    attempt([&] {
        Caller caller = caller_of(record);
        std::lock_guard lock(mutex_);
        if (const auto found = find(caller); found != windows_.end()) found->second.is_withdrawn = true;
    });
}

void Denials::count(const AuditRecord& record, std::uint64_t rows) {
    std::lock_guard lock(mutex_);
    open(record).first->second.add(record, rows);
}

std::vector<AuditRecord> Denials::take_ended(Time now) {
    std::vector<AuditRecord> rows;
    std::lock_guard lock(mutex_);
    for (auto at = windows_.begin(); at != windows_.end();) {
        Window& window = at->second;
        if (window.ends > now) {
            ++at;
            continue;
        }
        if (window.count > 0) {
            window.last.count = window.count;
            // As it was counted: nobody in particular, perhaps.
            window.last.user_id = at->first.user_id;
            window.last.credential_id = at->first.credential_id;
            window.last.peer = at->first.peer;
            window.last.operation = at->first.operation.empty() ? "audit.denials" : at->first.operation;
            window.last.namespace_id = at->first.ns;
            rows.push_back(std::move(window.last));
        }
        at = windows_.erase(at);
    }
    return rows;
}

bool is_denial(const Actor& actor, const Error& error, const NamespaceRow* ns) {
    if (error.code == Errc::unauthenticated || error.code == Errc::permission_denied || error.code == Errc::rate_limited) return true;
    if (error.code != Errc::not_found || actor.is_trusted) return false;
    if (ns != nullptr) return !Rights(actor, *ns).touches();
    // Whoever may see every namespace was told the truth: there is none.
    return !actor.grants || std::none_of(actor.grants->begin(), actor.grants->end(), [](const Grant& grant) {
        return grant.application_id == "*" && std::holds_alternative<Grant::AnyNamespace>(grant.namespaces);
    });
}

}  // namespace kv
