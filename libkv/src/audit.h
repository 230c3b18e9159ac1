#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.h"
#include "crypto/hash.h"
#include "kv/storage.h"
#include "operation.h"

namespace kv {

// The bytes of an audit row that its MAC covers: length-prefixed binary, beginning with a format number. Appends.
void write_canonical(const AuditRecord& record, BytesWriter& out);

// ---- rows about streams ----
// A stream begins with audit_open and the heads it names, and ends with audit_close. Where its first rows were taken
// away after their retention, an audit_checkpoint in a later row tells from where it goes on.

inline constexpr std::string_view audit_open = "audit.open";
inline constexpr std::string_view audit_close = "audit.close";
inline constexpr std::string_view audit_closed = "audit.closed";          // names a stream that ended with audit_close
inline constexpr std::string_view audit_unclosed = "audit.unclosed";      // names one whose process ended without
inline constexpr std::string_view audit_checkpoint = "audit.checkpoint";  // names the last row taken away, counts them

// A row that names the head (or, for a checkpoint, the row) of another stream: its stream stands in requestId, its MAC
// in credentialId, its sequence in version.
AuditRecord make_head_record(std::string_view operation, const AuditHead& head, Time now);
// What such a row names; empty if it is none of the three, or was not made by the system.
std::optional<AuditHead> read_head_record(const AuditRecord& record);

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
