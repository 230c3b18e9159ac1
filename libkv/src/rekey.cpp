#include "kv/admin.h"

namespace kv {

Result<KeyCheck> check_key(Storage&, KeyProvider&) { return Error{Errc::unsupported, ""}; }

}  // namespace kv
