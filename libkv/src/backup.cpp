#include "backup.h"

#include <algorithm>

#include "backup_rows.h"
#include "epoch.h"
#include "json/json.h"
#include "kv/version.h"

namespace kv {
namespace backup {

std::string checksum(std::string_view bytes) {
    const Mac hash = crypto::blake2b(bytes);
    return {reinterpret_cast<const char*>(hash.data()), checksum_bytes};
}

void copy_counts(const Counts& counts, BackupInfo& info) {
    Counts copy = counts;
    info.namespaces = count_of(copy, ChunkKind::namespaces);
    info.entries = count_of(copy, ChunkKind::entries);
    info.versions = count_of(copy, ChunkKind::versions);
    info.audit_rows = count_of(copy, ChunkKind::audit);
}

void note(const NamespaceRow& row, BackupInfo& info) {
    if (!row.is_secret || row.sealing) ++info.plain_namespaces;
}

namespace {

constexpr std::size_t rows_at_once = 512;

// Those that wrap every one of the store's own keys.
std::vector<std::string> common_key_ids(const std::vector<KeyRow>& rows) {
    const auto opens_all = [&](const std::string& id) {
        return !id.empty() && std::all_of(rows.begin(), rows.end(), [&](const KeyRow& row) {
            return row.wrap_key_id == id || row.second_wrap_key_id == id;
        });
    };
    std::vector<std::string> ids;
    for (const std::string& id : {rows.front().wrap_key_id, rows.front().second_wrap_key_id}) {
        if (opens_all(id)) ids.push_back(id);
    }
    return ids;
}

std::string header_text(const BackupInfo& info) {
    json::Writer writer;
    writer.begin_object();
    writer.member("format", std::uint64_t{info.format});
    writer.member("epoch", info.epoch);
    writer.member("takenAt", format_time(info.taken_at));
    writer.key("keyIds");
    writer.begin_array();
    for (const std::string& id : info.key_ids) writer.string(id);
    writer.end_array();
    writer.member("libkv", KV_VERSION);
    writer.end_object();
    return writer.take();
}

class Reader final : public BackupReader {
public:
    Reader(std::unique_ptr<StorageReader> rows, const crypto::Key& key, BackupInfo info)
        : rows_(std::move(rows)), hash_(key), info_(std::move(info)) {}

    Result<bool> next(std::string& out) override;
    const BackupInfo& info() const override { return info_; }

private:
    // A page of the table, written to chunk_; false: it has no more rows.
    Result<bool> page(ChunkKind kind);
    Result<std::vector<KeyRow>> keys();
    Result<std::vector<MetaRow>> meta();
    Result<std::vector<NamespaceRow>> namespaces();
    Result<std::vector<EntryRow>> entries();
    Result<std::vector<VersionRow>> versions();
    Result<std::vector<EventRow>> events();
    Result<std::vector<AuditRow>> audit();
    Result<std::vector<AuditHead>> heads();
    Result<std::vector<TokenRow>> tokens();
    template <class Row>
    Result<bool> write(ChunkKind kind, Result<std::vector<Row>> rows);
    void begin(std::string& out);
    void end(std::string& out);
    void emit(ChunkKind kind, std::string_view body, std::string& out);
    void give(std::string_view bytes, std::string& out);

    const std::unique_ptr<StorageReader> rows_;
    crypto::KeyedHash hash_;
    BackupInfo info_;
    Counts counts_{};
    bool is_begun_ = false;
    bool is_ended_ = false;
    bool is_meta_read_ = false;
    std::uint8_t table_ = static_cast<std::uint8_t>(ChunkKind::keys);
    std::uint32_t number_ = 0;
    BytesWriter chunk_;

    KeyWalk keys_;
    NamespaceRange namespaces_;
    EntryWalk entries_;
    VersionWalk versions_;
    EventWalk events_;
    AuditRange audit_;
    HeadWalk heads_;
    TokenRange tokens_;
};

Result<bool> Reader::next(std::string& out) {
    if (is_ended_) return false;
    if (!is_begun_) {
        begin(out);
        return true;
    }
    for (; table_ <= table_count; ++table_) {
        const auto kind = static_cast<ChunkKind>(table_);
        chunk_.clear();
        KV_TRY(const bool has_rows, page(kind));
        if (!has_rows) continue;
        emit(kind, chunk_.str(), out);
        return true;
    }
    end(out);
    return false;
}

// ---- tables ----

Result<bool> Reader::page(ChunkKind kind) {
    switch (kind) {
        case ChunkKind::keys: return write(kind, keys());
        case ChunkKind::meta: return write(kind, meta());
        case ChunkKind::namespaces: return write(kind, namespaces());
        case ChunkKind::entries: return write(kind, entries());
        case ChunkKind::versions: return write(kind, versions());
        case ChunkKind::events: return write(kind, events());
        case ChunkKind::audit: return write(kind, audit());
        case ChunkKind::heads: return write(kind, heads());
        case ChunkKind::tokens: return write(kind, tokens());
        case ChunkKind::end: break;
    }
    return false;
}

template <class Row>
Result<bool> Reader::write(ChunkKind kind, Result<std::vector<Row>> rows) {
    if (!rows) return std::move(rows).error();
    BytesWriter bytes;
    for (const Row& row : *rows) {
        bytes.clear();
        exchange(row, RowWriter(bytes));
        chunk_.string(bytes.str());
    }
    count_of(counts_, kind) += rows->size();
    return !rows->empty();
}

// In the order of their purposes: the store's own come first.
Result<std::vector<KeyRow>> Reader::keys() {
    KV_TRY(std::vector<KeyRow> rows, rows_->walk_keys(keys_));
    if (!rows.empty()) keys_.after = {rows.back().purpose, rows.back().ns, rows.back().generation};
    return rows;
}

Result<std::vector<MetaRow>> Reader::meta() {
    if (std::exchange(is_meta_read_, true)) return std::vector<MetaRow>();
    KV_TRY(std::vector<MetaRow> rows, rows_->get_meta());
    std::erase_if(rows, [](const MetaRow& row) { return row.name.starts_with(meta_of_storage); });
    return rows;
}

Result<std::vector<NamespaceRow>> Reader::namespaces() {
    namespaces_.deleted = NamespaceRange::Deleted::both;
    namespaces_.limit = rows_at_once;
    KV_TRY(std::vector<NamespaceRow> rows, rows_->scan_namespaces(namespaces_));
    for (const NamespaceRow& row : rows) note(row, info_);
    if (!rows.empty()) namespaces_.after = {rows.back().application_id, rows.back().name, rows.back().id};
    return rows;
}

Result<std::vector<EntryRow>> Reader::entries() {
    entries_.limit = rows_at_once;
    entries_.bytes = piece_bytes;
    KV_TRY(std::vector<EntryRow> rows, rows_->walk_entries(entries_));
    if (!rows.empty()) entries_.after = {rows.back().ns, rows.back().key_path};
    return rows;
}

Result<std::vector<VersionRow>> Reader::versions() {
    versions_.limit = rows_at_once;
    versions_.bytes = piece_bytes;
    KV_TRY(std::vector<VersionRow> rows, rows_->walk_versions(versions_));
    if (!rows.empty()) versions_.after = {rows.back().entry_id, rows.back().version};
    return rows;
}

Result<std::vector<EventRow>> Reader::events() {
    events_.limit = rows_at_once;
    KV_TRY(std::vector<EventRow> rows, rows_->walk_events(events_));
    if (!rows.empty()) events_.after = {rows.back().ns, rows.back().revision};
    return rows;
}

Result<std::vector<AuditRow>> Reader::audit() {
    audit_.newest_first = false;
    audit_.limit = audit_.walk = rows_at_once;
    KV_TRY(AuditPage page, rows_->scan_audit(audit_));
    if (!page.rows.empty()) audit_.after = page.rows.back().position;
    return std::move(page.rows);
}

Result<std::vector<AuditHead>> Reader::heads() {
    heads_.limit = rows_at_once;
    KV_TRY(std::vector<AuditHead> rows, rows_->walk_audit_heads(heads_));
    if (!rows.empty()) heads_.after = rows.back().stream;
    return rows;
}

Result<std::vector<TokenRow>> Reader::tokens() {
    tokens_.limit = rows_at_once;
    KV_TRY(std::vector<TokenRow> rows, rows_->scan_tokens(tokens_));
    if (!rows.empty()) tokens_.after = rows.back().id;
    return rows;
}

// ---- bytes ----

void Reader::begin(std::string& out) {
    is_begun_ = true;
    give(std::string(magic) + std::to_string(format) + "\n", out);
    BytesWriter header;
    header.string(header_text(info_));
    give(header.str(), out);
    give(checksum(header.str()), out);
}

void Reader::emit(ChunkKind kind, std::string_view body, std::string& out) {
    BytesWriter chunk;
    chunk.reserve(chunk_head_bytes + body.size() + checksum_bytes);
    chunk.u8(static_cast<std::uint8_t>(kind));
    chunk.u32(number_++);
    chunk.u32(static_cast<std::uint32_t>(body.size()));
    chunk.raw(body);
    chunk.raw(checksum(chunk.str()));
    give(chunk.str(), out);
}

void Reader::end(std::string& out) {
    is_ended_ = true;
    BytesWriter last;
    last.u8(static_cast<std::uint8_t>(ChunkKind::end));
    last.u32(number_);
    last.u32(static_cast<std::uint32_t>(counts_.size() * sizeof(std::uint64_t) + Mac{}.size()));
    for (const std::uint64_t count : counts_) last.u64(count);
    hash_.update(last.str());
    const Mac mac = hash_.finish();
    last.raw({reinterpret_cast<const char*>(mac.data()), mac.size()});
    last.raw(checksum(last.str()));
    out.append(last.str());
    info_.bytes += last.str().size();
    copy_counts(counts_, info_);
}

void Reader::give(std::string_view bytes, std::string& out) {
    hash_.update(bytes);
    out.append(bytes);
    info_.bytes += bytes.size();
}

}  // namespace
}  // namespace backup

BackupReader::~BackupReader() = default;

Result<std::unique_ptr<BackupReader>> open_backup(Storage& storage, const crypto::Keyring& keys) {
    KV_TRY(const Time now, storage.now());  // everything that was there by then is in it
    KV_TRY(auto rows, storage.snapshot());
    KV_TRY(const StoreMeta meta, read_store_meta(*rows));
    KV_TRY(const std::vector<KeyRow> own_keys, rows->internal_keys());
    if (own_keys.empty()) return Error{Errc::not_found, "There is no store in this storage."};
    BackupInfo info;
    info.format = backup::format;
    info.epoch = meta.epoch;
    info.taken_at = now;
    info.key_ids = backup::common_key_ids(own_keys);
    crypto::Key key = keys.derived_key(backup::mac_context);
    auto reader = std::make_unique<backup::Reader>(std::move(rows), key, std::move(info));
    secure_wipe(key.data(), key.size());
    return std::unique_ptr<BackupReader>(std::move(reader));
}

Result<std::unique_ptr<BackupReader>> open_backup(Storage& storage, KeyProvider& keys) {
    KV_TRY(const auto keyring, open_keyring(storage, keys));
    return open_backup(storage, *keyring);
}

}  // namespace kv
