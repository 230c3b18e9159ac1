#include "lanes.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <mutex>

namespace kv {
namespace {

// Rows of several lanes do not mix in what a host is told.
auto one_at_a_time(std::function<void(std::span<const AuditRecord>)> copy) {
    return [copy = std::move(copy), mutex = std::make_shared<std::mutex>()](std::span<const AuditRecord> rows) {
        std::lock_guard lock(*mutex);
        copy(rows);
    };
}

std::size_t hash_of(std::string_view application_id, std::string_view name) {
    const std::hash<std::string_view> hash;
    return hash(application_id) * 31 + hash(name);
}

// The end of an id is random, its beginning is the time.
std::size_t hash_of(const NamespaceId& id) {
    std::size_t hash = 0;
    std::memcpy(&hash, id.bytes.data() + id.bytes.size() - sizeof hash, sizeof hash);
    return hash;
}

std::size_t hash_of(const NamespaceRef& ref) {
    const auto* name = std::get_if<NamespaceName>(&ref);
    return name != nullptr ? hash_of(name->application_id, name->name) : hash_of(std::get<NamespaceId>(ref));
}

}  // namespace

Lanes::Lanes(Storage& storage, const Vault& vault, const CommitQueue::Settings& settings) {
    const std::size_t count = std::max<std::size_t>(storage.writes_at_once(), 1);
    CommitQueue::Settings each = settings;
    if (count > 1 && each.audit_copy) each.audit_copy = one_at_a_time(std::move(each.audit_copy));
    queues_.reserve(count);
    for (std::size_t lane = 0; lane < count; ++lane) {
        each.is_first = lane == 0;
        each.is_witnessing = &is_witnessing_;
        queues_.push_back(std::make_unique<CommitQueue>(storage, vault, each));
    }
}

std::size_t Lanes::lane_of(const Request& write) const {
    const std::size_t writers = queues_.size() - 1;
    if (writers < 2) return 0;
    return std::visit(
        [&](const auto& request) -> std::size_t {
            if constexpr (requires { hash_of(request.ns); }) {
                return hash_of(request.ns) % writers;
            } else if constexpr (requires { request.application_id + request.name; }) {
                return hash_of(request.application_id, request.name) % writers;
            } else {
                return 0;
            }
        },
        write);
}

void Lanes::refuse_stuck() {
    for (const auto& queue : queues_) queue->refuse_stuck();
}

void Lanes::stop() {
    for (const auto& queue : queues_) queue->stop();
}

std::vector<AuditHead> Lanes::heads() const {
    std::vector<AuditHead> heads;
    for (const auto& queue : queues_) heads.push_back(queue->head());
    return heads;
}

Result<void> Lanes::last_failure() const {
    for (const auto& queue : queues_) KV_CHECK(queue->last_failure());
    return {};
}

CommitQueue::Stats Lanes::stats() const {
    CommitQueue::Stats all;
    for (const auto& queue : queues_) all += queue->stats();
    return all;
}

}  // namespace kv
