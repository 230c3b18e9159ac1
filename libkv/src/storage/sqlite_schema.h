#pragma once
#include <cstdint>
#include <string>

#include "storage/sqlite_connection.h"

namespace kv::sqlite {

// Sees to it that the database at `path` is one of ours, in WAL mode and of this schema: makes it so if it is new or
// older. Touches nothing if it is another program's or newer than this library.
Result<void> prepare_schema(Connection& connection, const std::string& path);

// Whether the database is one of ours and of this schema; changes nothing.
Result<void> check_schema(Connection& connection);

// Of a database of ours. Throws Failure.
std::int64_t read_schema_version(Connection& connection);

void write_schema_version(Connection& connection, std::int64_t version);

// A commit that changes a page of the file and nothing in it. Throws Failure.
void rewrite_schema_version(Connection& connection);

}  // namespace kv::sqlite
