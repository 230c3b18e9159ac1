#include "kv/postgres.h"

// In the place of the other postgres_*.cpp where libkv is built without PostgreSQL.
namespace kv {
namespace {

Error absent() { return {Errc::unsupported, "this libkv was built without PostgreSQL"}; }

}  // namespace

Result<std::unique_ptr<Storage>> open_postgres_storage(const PostgresOptions&) { return absent(); }
Result<std::int64_t> migrate_postgres(const PostgresOptions&) { return absent(); }
std::string postgres_schema_sql(std::string_view, AuditRemoval) { return {}; }

}  // namespace kv
