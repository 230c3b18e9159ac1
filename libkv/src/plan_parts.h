#pragma once
#include "authorize.h"
#include "plan.h"

// Pieces that the planning files share; nobody else includes this.
namespace kv {

Error denied(Permission permission);
Result<void> require(const Rights& rights, Permission permission);
Result<void> require(const Rights& rights, Permission permission, std::string_view key_path);
Error namespace_not_found();
Error tampered_namespace();
void mark_failed(AuditRecord& record, const Error& error);
AuditRecord failure_record(const Operation& operation, const Error& error, Time now, const NamespaceRow* ns);

Planned plan_entry_write(Operation& operation, const NamespaceRef& ref, Overlay& overlay, const PlanContext& context);
Planned plan_token_write(Operation& operation, Overlay& overlay, const PlanContext& context);
Planned plan_namespace_write(Operation& operation, Overlay& overlay, const PlanContext& context);

}  // namespace kv
