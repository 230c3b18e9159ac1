#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "crypto/keyring.h"
#include "kv/admin.h"

namespace kv {

// A backup that was begun with keys that are open already.
Result<std::unique_ptr<BackupReader>> open_backup(Storage& storage, const crypto::Keyring& keys);

// The form of a backup, numbers big-endian:
//
//   "kv-backup 2\n"                            2: the format
//   u32 length | header | checksum             JSON: format, epoch, takenAt, keyIds, libkv
//   chunk...                                   u8 kind | u32 number | u32 length | rows | checksum
//   last chunk                                 the same, with counts | MAC instead of rows
//
// A row is u32 length | members in the order of backup_rows.h. Chunks are numbered from 0; their kinds ascend, and the
// first holds the store's own keys, so that a wrong master key is known before anything is written. A checksum is the
// first 16 bytes of the BLAKE2b-256 of what it stands behind, back to the previous one: it names the place of an accident.
// The MAC stands against everything else: BLAKE2b-256 over every byte before it, with a key derived from the store's.
//
// Values of secret namespaces are sealed as in the database. Everything else, plain values too, is in the clear.
namespace backup {

inline constexpr std::string_view magic = "kv-backup ";
inline constexpr std::uint32_t format = 2;
inline constexpr std::size_t checksum_bytes = 16;
inline constexpr std::size_t chunk_head_bytes = 9;
inline constexpr std::size_t header_bytes_max = 64u << 10;
inline constexpr std::size_t chunk_bytes_max = 16u << 20;  // a page of rows ends after the one that fills it
inline constexpr std::size_t piece_bytes = 64u << 10;
inline constexpr std::string_view mac_context = "libkv backup MAC 1";

enum class ChunkKind : std::uint8_t { keys = 1, meta, namespaces, entries, versions, events, audit, heads, tokens, end = 255 };
inline constexpr std::size_t table_count = 9;
inline constexpr std::size_t table_count_of_format_1 = 8;  // without tokens
using Counts = std::array<std::uint64_t, table_count>;  // by kind, from `keys`
inline std::uint64_t& count_of(Counts& counts, ChunkKind kind) { return counts[static_cast<std::size_t>(kind) - 1]; }

std::string checksum(std::string_view bytes);
// Adds a namespace to what `info` tells.
void note(const NamespaceRow& row, BackupInfo& info);
void copy_counts(const Counts& counts, BackupInfo& info);

}  // namespace backup
}  // namespace kv
