#pragma once
#include "kvd/config.h"

namespace kvd {

// Each gives the exit code. Results go to stdout (of a backup to stdout: to stderr), reasons to stderr.

int run_backup(const Command& command, SecretVariables secrets);
// Into a storage that is not there yet, and is there only if all went well.
int run_restore(const Command& command, SecretVariables secrets);
int run_new_epoch(const Command& command, SecretVariables secrets);

}  // namespace kvd
