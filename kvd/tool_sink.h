#pragma once
#include "kvd/config.h"

namespace kvd {

// Who is told of events: shows them (also beside a kvd that serves the storage), and forgets one that will not come back (of
// a storage that nobody serves, or in PostgreSQL one that no kvd delivers to). Each gives the exit code.
int run_sink_list(const Command& command);
int run_sink_forget(const Command& command, const SecretVariables& secrets);

}  // namespace kvd
