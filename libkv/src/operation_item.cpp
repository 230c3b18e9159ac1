#include "operation_item.h"

#include <algorithm>

#include "out_of_memory.h"
#include "plan_parts.h"

namespace kv {
namespace {

constexpr std::size_t shared_bulk_items_max = 100;  // a larger bulk is a group of its own
constexpr std::size_t shared_bytes_max = 256u << 10;

std::size_t items_of(const Request& request) {
    if (auto* set = std::get_if<BulkSet>(&request)) return set->entries.size();
    if (auto* remove = std::get_if<BulkDelete>(&request)) return remove->keys.size();
    return 1;
}

bool is_about_namespace(const Request& request) {
    return std::holds_alternative<CreateNamespace>(request) || std::holds_alternative<UpdateNamespace>(request) ||
           std::holds_alternative<DeleteNamespace>(request) || std::holds_alternative<RestoreNamespace>(request) ||
           std::holds_alternative<RotateDataKey>(request);
}

bool is_about_tokens(const Request& request) {
    return std::holds_alternative<CreateToken>(request) || std::holds_alternative<RevokeToken>(request);
}

// The namespace that add_name_needs() and a purge start from.
const NamespaceRow* named_namespace(const Request& request, Overlay& overlay) {
    const NamespaceState* ns = nullptr;
    if (auto* update = std::get_if<UpdateNamespace>(&request)) ns = overlay.find_namespace(update->ns);
    if (auto* remove = std::get_if<DeleteNamespace>(&request)) ns = overlay.find_namespace(remove->ns);
    if (auto* restore = std::get_if<RestoreNamespace>(&request)) ns = overlay.find_namespace(NamespaceRef(restore->ns));
    if (auto* rotate = std::get_if<RotateDataKey>(&request)) ns = overlay.find_namespace(rotate->ns);
    return ns != nullptr ? &ns->row : nullptr;
}

// Whether the operation gives the namespace a new data key.
bool needs_data_key(const Request& request, const NamespaceRow& ns) {
    if (std::holds_alternative<RotateDataKey>(request)) return ns.is_secret;
    const auto* update = std::get_if<UpdateNamespace>(&request);
    return update != nullptr && update->is_secret == true && !ns.is_secret;
}

}  // namespace

OperationItem::OperationItem(Operation operation, Ticket ticket, Denials& denials)
    : operation_(std::move(operation)), ticket_(std::move(ticket)), denials_(denials) {
    gives_way = !makes_room(operation_.request);
    bytes = request_bytes(operation_.request);
    operations = items_of(operation_.request);
    is_alone = is_about_namespace(operation_.request) || is_about_tokens(operation_.request) || operations > shared_bulk_items_max ||
               (operations > 1 && bytes > shared_bytes_max);
    must_be_first = std::holds_alternative<RollbackEntry>(operation_.request);
}

// What was rejected only leaves its record: perhaps it was the looking up that failed.
void OperationItem::add_needs(Needs& needs) const {
    if (!rejection_) kv::add_needs(operation_.request, needs);
}

void OperationItem::add_more_needs(Overlay& overlay, Needs& needs) const {
    if (rejection_) return;
    if (const NamespaceRow* ns = named_namespace(operation_.request, overlay)) {
        add_name_needs(operation_.request, *ns, needs);
    }
}

// What planning needs and may not do itself: draw a data key, open the value a rollback restores.
Result<void> OperationItem::prepare(GroupContext& context) {
    const NamespaceRow* named = named_namespace(operation_.request, context.overlay);
    if (named != nullptr && needs_data_key(operation_.request, *named)) {
        KV_TRY(operation_.data_key, context.vault.keys().make_data_key(named->id, named->application_id,
                                                                       named->key_generation + 1, context.plan.now));
    }
    if (auto* rollback = std::get_if<RollbackEntry>(&operation_.request)) {
        NamespaceState* ns = context.overlay.find_namespace(rollback->ns);
        if (ns == nullptr || !ns->is_intact) return {};
        EntryState& entry = context.overlay.entry(*ns, rollback->key_path);
        if (entry.picked && !entry.picked->is_tombstone) {
            operation_.opened = context.vault.open(context.storage, ns->row, rollback->key_path, *entry.picked);
        }
    }
    return {};
}

Result<void> OperationItem::plan(GroupContext& context) {
    denial_.reset();
    if (rejection_) {
        context.audit.push_back(failure_record(operation_, *rejection_, context.plan.now, nullptr));
        reply_ = *rejection_;
        return {};
    }
    KV_CHECK(prepare(context));
    Planned planned = plan_write(operation_, context.overlay, context.plan);
    for (const SealJob& job : planned.seals) {
        KV_CHECK(context.vault.seal(context.storage, job.ns->row, job.entry->row, job.plaintext->reveal()));
    }
    reply_ = std::move(planned.reply);
    record(context, std::move(planned.audit));
    if (const NamespaceRow* ns = named_namespace(operation_.request, context.overlay)) found_ = ns->id;
    return {};
}

void OperationItem::record(GroupContext& context, std::vector<AuditRecord> rows) {
    const NamespaceState* ns = nullptr;
    if (!rows.empty() && rows.back().namespace_id) ns = context.overlay.find_namespace(NamespaceRef(*rows.back().namespace_id));
    const bool is_denied = !reply_ && is_denial(operation_.actor, reply_.error(), ns != nullptr ? &ns->row : nullptr);
    const auto is_refusal = [](const AuditRecord& row) { return !row.success; };
    const auto first = std::find_if(rows.begin(), rows.end(), is_refusal);
    if (is_denied && first != rows.end()) {
        denial_ = *first;
        if (!is_admitted_) is_admitted_ = denials_.admit(*first);
        if (!*is_admitted_) {
            folded_rows_ = static_cast<std::uint64_t>(std::count_if(rows.begin(), rows.end(), is_refusal));
            std::erase_if(rows, is_refusal);
        }
    }
    for (AuditRecord& row : rows) context.audit.push_back(std::move(row));
}

void OperationItem::finish(const Result<void>& committed) noexcept {
    if (denial_ && committed && !*is_admitted_) attempt([&] { denials_.count(*denial_, folded_rows_); });
    if (denial_ && !committed && *is_admitted_) denials_.withdraw(*denial_);
    if (!committed) {
        ticket_.answer(copy_of(committed.error()));
    } else if (then && reply_ && found_) {
        then(std::move(ticket_), std::move(reply_), *found_);
    } else {
        ticket_.answer(std::move(reply_));
    }
}

}  // namespace kv
