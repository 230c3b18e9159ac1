#pragma once
#include "kv/result.h"

namespace kvd {

// HTTP.md section 7, one switch.
unsigned http_status(kv::Errc code) noexcept;

}  // namespace kvd
