#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kv/storage.h"

namespace kv {

struct PostgresOptions {
    // As libpq reads it: "postgresql://USER@HOST:PORT/DATABASE?PARAMETER=VALUE". What it leaves out comes from libpq's
    // environment (PGHOST, PGPASSFILE, PGPASSWORD...), then from the defaults below. No part of it is ever shown.
    std::string uri;
    std::size_t connections = 8;  // at most; up to four of them, and half of all, write at the same time
    std::chrono::milliseconds statement_timeout{5000};
    std::chrono::milliseconds lock_timeout{2000};
    // Changes nothing: the schema must be there (Errc::not_found) and the present one (older: Errc::unsupported), and every
    // write is Errc::unsupported. Where the URI asks for a standby (target_session_attrs) the end of the audit log may have
    // holes that are filled a moment later.
    bool read_only = false;
    // Errc::locked, saying who, while another program has it open to write; and none can open it so meanwhile, nor go on with a
    // store that it opened before. Not with read_only.
    bool alone = false;
    Clock* clock = nullptr;  // borrowed; null: the database's own, which is the one to use where several programs write
};

// Opens a database (through SOCI), which any number of processes may share, and makes or migrates its schema where the role
// may do that; any number may start at once. A role that may not can serve a schema that is there (older or none:
// Errc::unsupported). A newer schema: Errc::newer_schema. PostgreSQL 13 or newer, whose encoding is UTF8; not behind a pooler
// that changes the server's session between transactions.
KV_EXPORT Result<std::unique_ptr<Storage>> open_postgres_storage(const PostgresOptions& options);

// The same without serving it. The version that the schema has now.
KV_EXPORT Result<std::int64_t> migrate_postgres(const PostgresOptions& options);

// Whether the role that serves a database may remove rows of its audit log, which retention needs (Options::audit_retention).
// Otherwise whoever owns the tables does that.
enum class AuditRemoval : std::uint8_t { forbidden, allowed };

// What a database administrator runs instead: SQL that makes the schema in an empty database, or migrates an older one, and
// the rights that `role`, which serves it, needs there.
KV_EXPORT std::string postgres_schema_sql(std::string_view role, AuditRemoval removal = AuditRemoval::forbidden);

}  // namespace kv
