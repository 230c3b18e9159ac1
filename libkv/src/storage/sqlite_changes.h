#pragma once
#include "kv/storage.h"
#include "storage/sqlite_connection.h"
#include "storage/sqlite_questions.h"

namespace kv::sqlite {

// Applies a changeset inside the connection's transaction. Throws Failure; a returned error is about the rows. Either
// way the transaction must be rolled back.
// `row_ids`: of entries that were found in this transaction.
Result<void> apply(Connection& connection, const Changeset& changes, const RowIds& row_ids);

}  // namespace kv::sqlite
