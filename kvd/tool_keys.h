#pragma once
#include <string>

#include "kv/keys.h"
#include "kvd/config.h"

namespace kvd {

// master_key_id() of a key that is at hand.
std::string key_id_of(kv::KeyProvider& keys);

// What is done with master keys from a command line, on a store that a running kvd may serve (check-key) or nobody does
// (forget-master-key). Each gives the exit code.
int run_key_id(const SecretVariables& variables);
int run_check_key(const Command& command, const SecretVariables& variables);
int run_forget_master_key(const Command& command, const SecretVariables& variables);

}  // namespace kvd
