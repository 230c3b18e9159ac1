#pragma once
#include "kv/storage.h"
#include "storage/sqlite_connection.h"

namespace kv::sqlite {

// Applies a changeset inside the connection's transaction. Throws Failure; a returned error is about the rows. Either
// way the transaction must be rolled back.
Result<void> apply(Connection& connection, const Changeset& changes);

}  // namespace kv::sqlite
