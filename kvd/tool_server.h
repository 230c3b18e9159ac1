#pragma once
#include "kvd/config.h"

namespace kvd {

// What the commands of an operator do where --server names a running kvd. Each gives the exit code. Results go to stdout,
// the rest to stderr.
int run_server_verify(const Command& command, SecretVariables secrets);
int run_server_backup(const Command& command, SecretVariables secrets);
int run_server_rotate_data_key(const Command& command, SecretVariables secrets);
int run_server_forget_master_key(const Command& command, SecretVariables secrets);

}  // namespace kvd
