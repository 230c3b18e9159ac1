#pragma once
#include <string>
#include <vector>

#include "bytes.h"
#include "crypto/hash.h"
#include "kv/storage.h"

namespace kv {

// The bytes of an audit row that its MAC covers: length-prefixed binary, beginning with a format number. Appends.
void write_canonical(const AuditRecord& record, BytesWriter& out);

// mac = BLAKE2b-256(stream key, previous mac ‖ canonical row).
Mac audit_mac(const crypto::Key& stream_key, const Mac& previous, const AuditRecord& record);

// AuditChain numbers and chains the rows of one stream. One writer at a time.
class AuditChain {
public:
    AuditChain(const StreamId& stream, const crypto::Key& stream_key);
    ~AuditChain();

    // The rows as they follow the head, and the head after them. Changes nothing: advance() does, once they are
    // committed.
    struct Link {
        std::vector<AuditRow> rows;
        HeadChange head;
    };
    Link extend(std::vector<AuditRecord> records) const;
    void advance(const AuditHead& head) { head_ = head; }
    const AuditHead& head() const noexcept { return head_; }

private:
    crypto::Key key_;
    AuditHead head_;
};

}  // namespace kv
