#pragma once
#include <optional>
#include <string>

#include "kv/result.h"
#include "kv/secret.h"
#include "kvd/config.h"

// What the commands share.
namespace kvd {

// One line on stderr. Gives the code back.
int fail(ExitCode code, const std::string& message);
// To stdout; exit_ok unless that cannot be written.
int print(const std::string& text);
// A storage's URI as a complaint may name it: without user and parameters, where a password may be.
std::string shown_storage(const std::string& uri);
bool is_postgres(const std::string& uri);
// Errc::invalid_request where a file of SQLite is not there: opening one to write makes it.
kv::Result<void> must_exist(const std::string& uri);
// The URI of a PostgreSQL with the password of PGPASSWORD, which no longer stands in the environment, unless it has its own.
std::string with_password(std::string uri, const std::optional<kv::SecretBytes>& password);
// What to exit with when a store or storage does not open, or something fails in it.
ExitCode exit_code_of(kv::Errc code);

}  // namespace kvd
