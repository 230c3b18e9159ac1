#include <algorithm>
#include <charconv>

#include "backup.h"
#include "backup_rows.h"
#include "epoch.h"
#include "json/json.h"

namespace kv {
namespace backup {
namespace {

constexpr std::size_t batch_bytes = 2u << 20;
constexpr std::size_t batch_rows = 4096;
constexpr std::size_t format_digits_max = 9;

Error damaged(const std::string& what) {
    return Error{Errc::integrity, "The backup is damaged: " + what + "."};
}

Error newer() { return Error{Errc::newer_schema, "The backup was made by a newer version, which is needed to restore it."}; }

// The bytes of a backup, handed out in the sizes that its form asks for.
class Bytes {
public:
    explicit Bytes(const BackupSource& source) : source_(source) {}

    // Good until the next call.
    Result<std::string_view> take(std::size_t size) {
        while (buffer_.size() - taken_ < size) {
            KV_TRY(const std::string more, source_());
            if (more.empty()) return damaged("it ends early");
            buffer_.erase(0, std::exchange(taken_, 0));
            buffer_ += more;
        }
        const std::string_view bytes = std::string_view(buffer_).substr(taken_, size);
        taken_ += size;
        total_ += size;
        return bytes;
    }
    Result<void> expect_end() {
        KV_TRY(const std::string more, buffer_.size() > taken_ ? Result<std::string>(buffer_.substr(taken_)) : source_());
        if (!more.empty()) return damaged("something follows its end");
        return {};
    }
    std::uint64_t total() const { return total_; }

private:
    const BackupSource& source_;
    std::string buffer_;
    std::size_t taken_ = 0;
    std::uint64_t total_ = 0;
};

struct Chunk {
    ChunkKind kind{};
    std::string bytes;  // from its head to its checksum

    std::string_view body() const {
        return std::string_view(bytes).substr(chunk_head_bytes, bytes.size() - chunk_head_bytes - checksum_bytes);
    }
};

class Restore {
public:
    Restore(const BackupSource& source, Storage& target, KeyProvider& keys) : in_(source), target_(target), keys_(keys) {}
    Result<BackupInfo> run();

private:
    Result<void> check_target();
    Result<void> begin_anew();
    Result<void> read_magic();
    Result<void> read_header();
    Result<void> open_keys(const Chunk& first);
    Result<Chunk> read_chunk();
    Result<void> add(const Chunk& chunk);
    template <class Row>
    Result<void> add(const Chunk& chunk, std::vector<Row>& rows);
    Result<void> add_namespaces(const Chunk& chunk);
    Result<void> add_heads(const Chunk& chunk);
    Result<void> check_end(const Chunk& last);
    Result<void> flush();

    Bytes in_;
    Storage& target_;
    KeyProvider& keys_;
    std::unique_ptr<crypto::Keyring> keyring_;
    std::unique_ptr<crypto::KeyedHash> hash_;
    std::string unhashed_;  // what came before the keys were known
    std::uint32_t number_ = 0;
    BackupInfo info_;
    Counts counts_{};
    bool has_leftovers_ = false;  // of a restore into the target that did not come to its end
    Changeset batch_;
    std::size_t batch_rows_ = 0;
    std::size_t batch_bytes_ = 0;
};

Result<BackupInfo> Restore::run() {
    KV_CHECK(check_target());
    KV_CHECK(read_magic());
    KV_CHECK(read_header());
    KV_TRY(Chunk chunk, read_chunk());
    KV_CHECK(open_keys(chunk));
    KV_CHECK(begin_anew());
    while (chunk.kind != ChunkKind::end) {
        hash_->update(chunk.bytes);
        KV_CHECK(add(chunk));
        KV_TRY(Chunk next, read_chunk());
        if (next.kind < chunk.kind) return damaged("its tables are not in order");
        chunk = std::move(next);
    }
    KV_CHECK(check_end(chunk));
    KV_CHECK(flush());
    EpochChanges changes;
    changes.meta.push_back({std::string(meta_last_backup), format_time(info_.taken_at)});
    changes.erase_meta.emplace_back(meta_restoring);
    KV_CHECK(begin_epoch(target_, *keyring_, changes));
    copy_counts(counts_, info_);
    info_.bytes = in_.total();
    return std::move(info_);
}

// What a restore left that did not come to its end was never a store, and may go.
Result<void> Restore::check_target() {
    KV_TRY(const std::vector<MetaRow> meta, target_.get_meta());
    has_leftovers_ = std::any_of(meta.begin(), meta.end(), [](const MetaRow& row) { return row.name == meta_restoring; });
    if (has_leftovers_) return {};
    KV_TRY(const std::vector<KeyRow> keys, target_.internal_keys());
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.limit = 1;
    KV_TRY(const std::vector<NamespaceRow> namespaces, target_.scan_namespaces(range));
    if (keys.empty() && namespaces.empty()) return {};
    return Error{Errc::invalid_state, "There is a store in this storage already: a restore needs an empty one."};
}

// The first thing to be written: until the mark is taken away no store opens here, and the next restore begins by erasing.
Result<void> Restore::begin_anew() {
    batch_.erase_all = has_leftovers_;
    batch_.meta.push_back({std::string(meta_restoring), "1"});
    return flush();
}

// ---- before the rows ----

Result<void> Restore::read_magic() {
    KV_TRY(const std::string_view name, in_.take(magic.size()));
    if (name != magic) return Error{Errc::integrity, "This is no backup of a store, or its beginning is damaged."};
    unhashed_ = name;
    std::string digits;
    while (true) {
        KV_TRY(const std::string_view next, in_.take(1));
        unhashed_ += next;
        if (next == "\n") break;
        digits += next;
        if (digits.size() > format_digits_max) return damaged("its format is no number");
    }
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), info_.format);
    if (read.ec != std::errc{} || read.ptr != digits.data() + digits.size() || info_.format == 0) {
        return damaged("its format is no number");
    }
    return info_.format > format ? Result<void>(newer()) : Result<void>{};
}

Result<BackupInfo> parse_header(std::string_view text, std::uint32_t format) {
    KV_TRY(const json::Node root, json::parse(text));
    const json::Node* epoch = root.find("epoch");
    const json::Node* taken_at = root.find("takenAt");
    const json::Node* key_ids = root.find("keyIds");
    if (epoch == nullptr || taken_at == nullptr || key_ids == nullptr) return damaged("its header lacks something");
    const auto time = parse_time(taken_at->text);
    if (!time) return damaged("its header tells no time");
    BackupInfo info;
    info.format = format;
    info.epoch = epoch->text;
    info.taken_at = *time;
    for (const json::Node& id : key_ids->items) info.key_ids.push_back(id.text);
    return info;
}

Result<void> Restore::read_header() {
    KV_TRY(const std::string_view length, in_.take(sizeof(std::uint32_t)));
    std::string bytes(length);
    const std::uint32_t size = BytesReader(bytes).u32();
    if (size > header_bytes_max) return damaged("its header is too long");
    KV_TRY(const std::string_view text, in_.take(size));
    bytes += text;
    KV_TRY(const std::string_view sum, in_.take(checksum_bytes));
    if (sum != checksum(bytes)) return damaged("its header was changed");
    unhashed_ += bytes;
    unhashed_ += sum;
    auto info = parse_header(std::string_view(bytes).substr(sizeof(std::uint32_t)), info_.format);
    if (!info) return damaged("its header does not read");
    info_ = *std::move(info);
    return {};
}

template <class Row>
Result<std::vector<Row>> read_rows(const Chunk& chunk) {
    std::vector<Row> rows;
    BytesReader body(chunk.body());
    while (!body.at_end()) {
        BytesReader bytes(body.string());
        exchange(rows.emplace_back(), RowReader(bytes));
        if (!body.ok() || !bytes.ok() || !bytes.at_end()) return damaged("a row in it does not read");
    }
    return rows;
}

// The store's own keys stand first, so the master key is tried before anything is written.
Result<void> Restore::open_keys(const Chunk& first) {
    if (first.kind != ChunkKind::keys) return damaged("it does not begin with keys");
    KV_TRY(std::vector<KeyRow> rows, read_rows<KeyRow>(first));
    std::erase_if(rows, [](const KeyRow& row) { return row.purpose == KeyPurpose::data; });
    if (rows.empty()) return damaged("it lacks the store's own keys");
    KV_TRY(const SecretBytes master_key, keys_.master_key());
    KV_TRY(const CryptoBackend backend, crypto::select_backend(CryptoBackend::automatic));
    KV_TRY(const Time now, target_.now());
    KV_TRY(keyring_, crypto::Keyring::open(master_key, backend, std::move(rows), now));
    crypto::Key key = keyring_->derived_key(mac_context);
    hash_ = std::make_unique<crypto::KeyedHash>(key);
    secure_wipe(key.data(), key.size());
    hash_->update(unhashed_);
    return {};
}

// ---- chunks ----

Result<Chunk> Restore::read_chunk() {
    KV_TRY(const std::string_view head, in_.take(chunk_head_bytes));
    BytesReader reader(head);
    Chunk chunk;
    chunk.bytes = head;
    chunk.kind = static_cast<ChunkKind>(reader.u8());
    const std::uint32_t number = reader.u32();
    const std::uint32_t size = reader.u32();
    const std::string name = "chunk " + std::to_string(number_);
    if (size > chunk_bytes_max) return damaged(name + " is too long");
    KV_TRY(const std::string_view body, in_.take(size));
    chunk.bytes += body;
    KV_TRY(const std::string_view sum, in_.take(checksum_bytes));
    if (sum != checksum(chunk.bytes)) return damaged(name + " was changed");
    if (number != number_) return damaged(name + " is missing or not in its place");
    ++number_;
    chunk.bytes += sum;
    return chunk;
}

Result<void> Restore::add(const Chunk& chunk) {
    switch (chunk.kind) {
        case ChunkKind::keys: KV_CHECK(add(chunk, batch_.keys)); break;
        case ChunkKind::meta: KV_CHECK(add(chunk, batch_.meta)); break;
        case ChunkKind::namespaces: KV_CHECK(add_namespaces(chunk)); break;
        case ChunkKind::entries: KV_CHECK(add(chunk, batch_.entries)); break;
        case ChunkKind::versions: KV_CHECK(add(chunk, batch_.versions)); break;
        case ChunkKind::events: KV_CHECK(add(chunk, batch_.events)); break;
        case ChunkKind::audit: KV_CHECK(add(chunk, batch_.audit)); break;
        case ChunkKind::heads: KV_CHECK(add_heads(chunk)); break;
        case ChunkKind::tokens: KV_CHECK(add(chunk, batch_.tokens)); break;
        default: return newer();
    }
    batch_bytes_ += chunk.bytes.size();
    if (batch_bytes_ < batch_bytes && batch_rows_ < batch_rows) return {};
    return flush();
}

template <class Row>
Result<void> Restore::add(const Chunk& chunk, std::vector<Row>& rows) {
    KV_TRY(std::vector<Row> more, read_rows<Row>(chunk));
    count_of(counts_, chunk.kind) += more.size();
    batch_rows_ += more.size();
    rows.insert(rows.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    return {};
}

Result<void> Restore::add_namespaces(const Chunk& chunk) {
    const std::size_t before = batch_.namespaces.size();
    KV_CHECK(add(chunk, batch_.namespaces));
    for (std::size_t i = before; i < batch_.namespaces.size(); ++i) note(batch_.namespaces[i], info_);
    return {};
}

Result<void> Restore::add_heads(const Chunk& chunk) {
    std::vector<AuditHead> heads;
    KV_CHECK(add(chunk, heads));
    for (const AuditHead& head : heads) batch_.heads.push_back({AuditHead{head.stream, 0, {}, HeadState::open}, head});
    return {};
}

Result<void> Restore::flush() {
    KV_CHECK(target_.write([&](StorageWriter& writer) { return writer.apply(batch_); }));
    batch_ = {};
    batch_rows_ = batch_bytes_ = 0;
    return {};
}

// ---- the end ----

Result<void> Restore::check_end(const Chunk& last) {
    const std::string_view body = last.body();
    const std::size_t tables = info_.format == 1 ? table_count_of_format_1 : table_count;
    const std::size_t counts_bytes = tables * sizeof(std::uint64_t);
    if (body.size() != counts_bytes + Mac{}.size()) return damaged("its end does not read");
    hash_->update(std::string_view(last.bytes).substr(0, chunk_head_bytes + counts_bytes));
    const Mac expected = hash_->finish();
    BytesReader reader(body);
    const bool same_counts = std::all_of(counts_.begin(), counts_.begin() + tables, [&](std::uint64_t count) { return reader.u64() == count; });
    Mac given{};
    RowReader{reader}(given);
    if (!crypto::equal(expected, given)) return damaged("it is not what the store wrote");
    if (!same_counts) return damaged("it holds other rows than it says");
    return in_.expect_end();
}

}  // namespace
}  // namespace backup

Result<BackupInfo> restore_backup(const BackupSource& source, Storage& target, KeyProvider& keys) {
    return backup::Restore(source, target, keys).run();
}

}  // namespace kv
