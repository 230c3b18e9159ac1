#pragma once
#include <string>

#include "kv/postgres.h"

namespace kv::postgres {

// What libpq is given to connect with: what the URI says, and where it says nothing what we need. Contains the password of
// the URI, if there is one.
Result<std::string> make_conninfo(const PostgresOptions& options);

}  // namespace kv::postgres
