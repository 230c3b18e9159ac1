#pragma once
#include <string>

#include "kv/result.h"
#include "kvd/config.h"

// What the commands share.
namespace kvd {

// One line on stderr. Gives the code back.
int fail(ExitCode code, const std::string& message);
// To stdout; exit_ok unless that cannot be written.
int print(const std::string& text);
// A storage's URI as a complaint may name it: without user and parameters, where a password may be.
std::string shown_storage(const std::string& uri);
// What to exit with when a store or storage does not open, or something fails in it.
ExitCode exit_code_of(kv::Errc code);

}  // namespace kvd
