#pragma once
#include <string>

#include "storage/sqlite_connection.h"

namespace kv::sqlite {

// Brings a database of ours, at `path`, from schema `from` to schema `to`: copies it to `path`.schema-N first, then
// changes it in one transaction. Interrupted at any point it is as before, and may be tried again. Throws Failure.
Result<void> migrate(Connection& connection, const std::string& path, std::int64_t from, std::int64_t to);

}  // namespace kv::sqlite
