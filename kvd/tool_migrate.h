#pragma once
#include "kvd/config.h"

namespace kvd {

// Gives the exit code.
int run_migrate(const Command& command);

}  // namespace kvd
