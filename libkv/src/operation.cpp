#include "operation.h"

#include <type_traits>

namespace kv {
namespace {

template <class... F>
struct overloaded : F... {
    using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

std::size_t bytes_of(const EntryWrite& write) {
    return write.key_path.size() + write.value.data.size() + write.metadata.size() + write.comment.size() + 256;
}

}  // namespace

Description describe(const Request& request) {
    using A = AuditAction;
    return std::visit(
        overloaded{
            [](const ListNamespaces&) { return Description{A::read, "namespace.list"}; },
            [](const GetNamespace&) { return Description{A::read, "namespace.get"}; },
            [](const CreateNamespace&) { return Description{A::write, "namespace.create"}; },
            [](const UpdateNamespace&) { return Description{A::write, "namespace.update"}; },
            [](const DeleteNamespace&) { return Description{A::delete_, "namespace.delete"}; },
            [](const RestoreNamespace&) { return Description{A::write, "namespace.restore"}; },
            [](const RotateDataKey&) { return Description{A::rotate, "namespace.rotate-key"}; },
            [](const GetEntry& r) { return Description{A::read, "entry.get", r.key_path}; },
            [](const PutEntry& r) { return Description{A::write, "entry.put", r.write.key_path}; },
            [](const PatchEntry& r) { return Description{A::write, "entry.patch", r.key_path}; },
            [](const DeleteEntry& r) { return Description{A::delete_, "entry.delete", r.key_path}; },
            [](const ListEntries& r) { return Description{A::read, "entry.list", r.prefix}; },
            [](const WatchEntries& r) { return Description{A::read, "entry.watch", r.prefix}; },
            [](const BulkGet&) { return Description{A::read, "bulk.get"}; },
            [](const BulkSet&) { return Description{A::write, "bulk.set"}; },
            [](const BulkDelete&) { return Description{A::delete_, "bulk.delete"}; },
            [](const RotateEntry& r) { return Description{A::rotate, "entry.rotate", r.key_path}; },
            [](const ListVersions& r) { return Description{A::read, "entry.versions", r.key_path}; },
            [](const RollbackEntry& r) { return Description{A::rollback, "entry.rollback", r.key_path}; },
            [](const ListAudit&) { return Description{A::read, "audit.list"}; },
            [](const ExportEntries& r) { return Description{A::read, "entry.export", r.prefix}; },
            [](const CreateToken&) { return Description{A::write, "token.create"}; },
            [](const ListTokens&) { return Description{A::read, "token.list"}; },
            [](const RevokeToken&) { return Description{A::delete_, "token.revoke"}; },
            [](const RecordRefusal& r) { return Description{r.action, r.operation, r.key_path}; },
        },
        request);
}

bool is_write(const Request& request) {
    return std::visit(
        []<class R>(const R&) {
            return std::is_same_v<R, CreateNamespace> || std::is_same_v<R, UpdateNamespace> ||
                   std::is_same_v<R, DeleteNamespace> || std::is_same_v<R, RestoreNamespace> || std::is_same_v<R, RotateDataKey> ||
                   std::is_same_v<R, PutEntry> || std::is_same_v<R, PatchEntry> || std::is_same_v<R, DeleteEntry> ||
                   std::is_same_v<R, BulkSet> || std::is_same_v<R, BulkDelete> || std::is_same_v<R, RotateEntry> ||
                   std::is_same_v<R, RollbackEntry> || std::is_same_v<R, CreateToken> || std::is_same_v<R, RevokeToken>;
        },
        request);
}

std::size_t request_bytes(const Request& request) {
    return 512 + std::visit(overloaded{[](const PutEntry& put) { return bytes_of(put.write); },
                                       [](const BulkSet& set) {
                                           std::size_t bytes = 0;
                                           for (const EntryWrite& write : set.entries) bytes += bytes_of(write);
                                           return bytes;
                                       },
                                       [](const RotateEntry& rotate) {
                                           const auto* input = std::get_if<ValueInput>(&rotate.value);
                                           return input ? input->data.size() : std::size_t{0};
                                       },
                                       [](const BulkGet& get) { return get.keys.size() * 64; },
                                       [](const BulkDelete& remove) { return remove.keys.size() * 64; },
                                       [](const auto&) { return std::size_t{0}; }},
                            request);
}

namespace {

constexpr std::size_t item_bytes = 512;  // an entry or version without its value, roughly

template <class Items>
std::size_t bytes_of_items(const Items& items) {
    std::size_t bytes = 0;
    for (const auto& item : items) bytes += item_bytes + (item.value ? item.value->size() : 0);
    return bytes;
}

}  // namespace

std::size_t reply_bytes(const Result<Reply>& reply) {
    if (!reply) return 0;
    return std::visit(
        overloaded{[](const EntryReply& one) { return one.entry.value ? one.entry.value->size() : std::size_t{0}; },
                   [](const EntryList& list) { return bytes_of_items(list.items); },
                   [](const VersionList& list) { return bytes_of_items(list.items); },
                   [](const BulkGetReply& bulk) { return bytes_of_items(bulk.entries); },
                   [](const AuditList& list) { return list.items.size() * item_bytes; },
                   [](const NamespaceList& list) { return list.items.size() * item_bytes; },
                   [](const TokenList& list) { return list.items.size() * item_bytes; },
                   [](const ExportReply& file) { return file.text.size(); },
                   [](const auto&) { return std::size_t{0}; }},
        *reply);
}

bool makes_room(const Request& request) {
    return std::holds_alternative<DeleteEntry>(request) || std::holds_alternative<BulkDelete>(request) ||
           std::holds_alternative<DeleteNamespace>(request) || std::holds_alternative<RevokeToken>(request);
}

const Actor& system_actor() {
    static const Actor actor = [] {
        Actor system;
        system.user_id = "system";
        return system;
    }();
    return actor;
}

AuditRecord make_record(const Actor& actor, const Description& what, Time now, const NamespaceRow* ns) {
    AuditRecord record;
    record.timestamp = now;
    if (ns != nullptr) record.namespace_id = ns->id;
    record.key_path = what.key_path;
    record.action = what.action;
    record.operation = what.operation;
    record.user_id = actor.user_id;
    record.credential_id = actor.credential_id;
    record.application_id = ns != nullptr ? ns->application_id : actor.application_id;
    record.peer = actor.peer;
    record.request_id = actor.request_id;
    record.success = true;
    return record;
}

}  // namespace kv
