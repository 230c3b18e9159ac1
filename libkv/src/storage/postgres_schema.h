#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "kv/postgres.h"
#include "storage/postgres_connection.h"

namespace kv::postgres {

// Makes the schema where there is none, or migrates it, in one transaction that waits for others at it. Gives the version.
Result<std::int64_t> prepare_schema(Connection& connection);
// Only looks.
Result<std::int64_t> check_schema(Connection& connection);
// Makes the partitions of the audit log that the months to come need, if the role may.
void extend_audit(Connection& connection);

std::string schema_sql(std::string_view role, AuditRemoval removal);

}  // namespace kv::postgres
