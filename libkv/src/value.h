#pragma once
#include <optional>
#include <string_view>

#include "kv/options.h"
#include "kv/types.h"

namespace kv {

// False for a number that is no type: from a row that was changed outside the store.
constexpr bool is_known(ValueType type) noexcept { return type >= ValueType::string && type <= ValueType::binary; }

// Turns input into the canonical form of `type` (absent: the type the input asks for, else the one its form has), or
// Errc::invalid_value with field "value" (or "valueType"). Never quotes the value. Errc::too_large with `limit` beyond
// `value_bytes_max` (decoded bytes). Pure.
Result<Value> normalize(const ValueInput& input, std::optional<ValueType> type, std::size_t value_bytes_max);

// Metadata: the text of a JSON object, at most `bytes_max`. Errc::invalid_request with field "metadata".
Result<void> check_metadata(std::string_view metadata, std::size_t bytes_max);

}  // namespace kv
