#include "kvd/tool_migrate.h"

#include "kv/postgres.h"
#include "kvd/tool.h"

namespace kvd {

int run_migrate(const Command& command) {
    if (command.prints) {
        const auto removal = command.removes_audit ? kv::AuditRemoval::allowed : kv::AuditRemoval::forbidden;
        const std::string sql = kv::postgres_schema_sql(command.role, removal);
        return sql.empty() ? fail(exit_config, "this kvd was built without PostgreSQL") : print(sql);
    }
    if (!is_postgres(command.storage))
        return fail(exit_config, "only a PostgreSQL database is migrated by itself: --storage postgresql://HOST/DATABASE");
    kv::PostgresOptions options;
    options.uri = command.storage;
    const auto version = kv::migrate_postgres(options);
    if (!version) return fail(exit_code_of(version.error().code), shown_storage(command.storage) + ": " + version.error().message);
    return print("schema: " + std::to_string(*version) + "\n");
}

}  // namespace kvd
