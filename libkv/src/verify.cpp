#include "kv/admin.h"

namespace kv {

const std::vector<std::string_view>& finding_kinds() {
    static const std::vector<std::string_view> kinds;
    return kinds;
}
Result<VerifyReport> verify(Storage&, KeyProvider&, const VerifyOptions&) { return Error{Errc::unsupported, ""}; }
Result<VerifyReport> verify_audit(Storage&, const SecretBytes&, const VerifyOptions&) { return Error{Errc::unsupported, ""}; }
Result<SecretBytes> export_audit_key(Storage&, KeyProvider&) { return Error{Errc::unsupported, ""}; }
std::vector<AuditHead> parse_anchors(std::string_view) { return {}; }

}  // namespace kv
