#pragma once
#include "kv/storage.h"
#include "storage/postgres_connection.h"

namespace kv::postgres {

// Makes all changes in one statement, which may go with the next one or with the commit. Throws Failure.
void apply(Connection& connection, const Changeset& changes);

}  // namespace kv::postgres
