#pragma once
#include "kv/options.h"
#include "kv/request.h"

namespace kv {

inline constexpr std::size_t key_path_bytes_max = 1024;
inline constexpr std::size_t key_segment_bytes_max = 255;
inline constexpr std::size_t name_bytes_max = 255;          // namespace names, application and user ids
inline constexpr std::size_t description_bytes_max = 4096;
inline constexpr std::size_t comment_bytes_max = 4096;
inline constexpr std::size_t request_id_bytes_max = 128;
inline constexpr std::int64_t ttl_seconds_max = 315'360'000;
inline constexpr std::uint64_t history_limit_max = 1'000'000;

// The key grammar of HTTP.md section 1: Errc::invalid_key or Errc::reserved_key_segment with field "keyPath".
Result<void> check_key_path(std::string_view key_path);
// A list prefix: any valid UTF-8 up to the length of a key, without control characters. Errc::invalid_request, field "prefix".
Result<void> check_prefix(std::string_view prefix);

// Who asks: texts that can be recorded.
Result<void> check_actor(const Actor& actor);

// Everything about a request that can be judged without looking at stored rows: grammar, limits, ranges, duplicates
// in a bulk, values that do not fit the type they ask for (values themselves are normalised later). The first fault is
// returned; for an atomic bulk Errc::bulk_failed's sibling: code of the first offending item, with `items` naming each (key_path and
// field set). The items of a non-atomic bulk are left to per_item().
Result<void> validate(const Actor& actor, const Request& request, const Limits& limits);

// One item of a bulk set: key, ttl, metadata, comment. (Its value is judged by normalize().)
Result<void> validate_write(const EntryWrite& write, const Limits& limits);

}  // namespace kv
