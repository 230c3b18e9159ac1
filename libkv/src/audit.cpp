#include "audit.h"

#include <algorithm>

#include "kv/secret.h"
#include "text.h"
#include "thread_buffer.h"

namespace kv {
namespace {

// The second format has the revision, which rows made before it was recorded lack.
constexpr std::uint8_t canonical_format = 1;
constexpr std::uint8_t canonical_format_with_revision = 2;

}  // namespace

void write_canonical(const AuditRecord& record, BytesWriter& out) {
    out.u8(record.revision ? canonical_format_with_revision : canonical_format);
    out.uuid(record.stream);
    out.u64(record.sequence);
    out.time(record.timestamp);
    out.optional(record.namespace_id, [&](const Uuid& id) { out.uuid(id); });
    out.optional(record.entry_id, [&](const Uuid& id) { out.uuid(id); });
    out.string(record.key_path);
    out.u8(static_cast<std::uint8_t>(record.action));
    out.string(record.operation);
    out.string(record.user_id);
    out.string(record.credential_id);
    out.string(record.application_id);
    out.string(record.peer);
    out.string(record.request_id);
    out.u8(record.success ? 1 : 0);
    out.string(record.reason);
    out.optional(record.version, [&](std::uint64_t version) { out.u64(version); });
    out.u64(record.count);
    if (record.revision) out.u64(*record.revision);
}

AuditRecord make_head_record(std::string_view operation, const AuditHead& head, Time now) {
    AuditRecord record = make_record(system_actor(), {AuditAction::write, operation, {}}, now, nullptr);
    record.request_id = head.stream.to_string();
    record.version = head.sequence;
    record.credential_id = hex_encode({reinterpret_cast<const char*>(head.mac.data()), head.mac.size()});
    return record;
}

std::optional<AuditHead> read_head_record(const AuditRecord& record) {
    const bool is_one = record.operation == audit_closed || record.operation == audit_unclosed || record.operation == audit_checkpoint;
    if (!is_one || record.user_id != system_actor().user_id || !record.success || !record.version) {
        return std::nullopt;
    }
    const auto stream = Uuid::parse(record.request_id);
    const auto mac = hex_decode(record.credential_id);
    AuditHead head;
    if (!stream || !mac || mac->size() != head.mac.size()) return std::nullopt;
    const std::string_view bytes = mac->reveal();
    head.stream = *stream;
    head.sequence = *record.version;
    std::copy(bytes.begin(), bytes.end(), head.mac.begin());
    return head;
}

Mac audit_mac(const crypto::Key& stream_key, const Mac& previous, const AuditRecord& record) {
    return with_thread_buffer([&](BytesWriter& canonical) {
        write_canonical(record, canonical);
        return crypto::blake2b_keyed(
            stream_key, {std::string_view(reinterpret_cast<const char*>(previous.data()), previous.size()), canonical.str()});
    });
}

AuditChain::AuditChain(const StreamId& stream, const crypto::Key& stream_key) : key_(stream_key) {
    head_.stream = stream;
}

AuditChain::~AuditChain() { secure_wipe(key_.data(), key_.size()); }

AuditChain::Link AuditChain::extend(std::vector<AuditRecord> records) const {
    Link link;
    link.head = {head_, head_};
    link.rows.reserve(records.size());
    for (AuditRecord& record : records) {
        AuditHead& head = link.head.after;
        record.stream = head.stream;
        record.sequence = ++head.sequence;
        head.mac = audit_mac(key_, head.mac, record);
        link.rows.push_back({std::move(record), head.mac, 0});
    }
    return link;
}

}  // namespace kv
