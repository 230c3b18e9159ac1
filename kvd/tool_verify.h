#pragma once
#include <string>
#include <vector>

#include "kv/admin.h"
#include "kvd/config.h"

namespace kvd {

// Each gives the exit code. Findings and the key go to stdout, everything else to stderr.

// Looks at a store, which a running kvd may serve: exit_ok if it is sound, exit_not_good if not.
int run_verify(const Command& command, const SecretVariables& variables);
int run_audit_key_export(const Command& command, const SecretVariables& variables);
// Removes what is old of the audit log.
int run_trim_audit(const Command& command, const SecretVariables& variables);

// The findings and a summary, or all of it as one JSON object. exit_not_good unless it is sound.
int print_report(const kv::VerifyReport& report, bool as_json_object);

// The heads in logs of kvd; "-" is stdin. An error if there is none in all of them.
kv::Result<std::vector<kv::AuditHead>> read_anchors(const std::vector<std::string>& paths);

}  // namespace kvd
