#include "kv/result.h"

namespace kv {

std::string_view code_name(Errc code) noexcept {
    switch (code) {
        case Errc::invalid_request: return "invalid-request";
        case Errc::invalid_key: return "invalid-key";
        case Errc::reserved_key_segment: return "reserved-key-segment";
        case Errc::invalid_value: return "invalid-value";
        case Errc::read_only_field: return "read-only-field";
        case Errc::invalid_cursor: return "invalid-cursor";
        case Errc::malformed_body: return "malformed-body";
        case Errc::unauthenticated: return "unauthenticated";
        case Errc::permission_denied: return "permission-denied";
        case Errc::not_found: return "not-found";
        case Errc::method_not_allowed: return "method-not-allowed";
        case Errc::request_timeout: return "request-timeout";
        case Errc::length_required: return "length-required";
        case Errc::too_large: return "too-large";
        case Errc::target_too_long: return "target-too-long";
        case Errc::unsupported_media_type: return "unsupported-media-type";
        case Errc::expectation_failed: return "expectation-failed";
        case Errc::rate_limited: return "rate-limited";
        case Errc::headers_too_large: return "headers-too-large";
        case Errc::version_conflict: return "version-conflict";
        case Errc::namespace_exists: return "namespace-exists";
        case Errc::history_disabled: return "history-disabled";
        case Errc::history_required: return "history-required";
        case Errc::immutable: return "immutable";
        case Errc::deletion_protected: return "deletion-protected";
        case Errc::current_version: return "current-version";
        case Errc::name_conflict: return "name-conflict";
        case Errc::bulk_failed: return "bulk-failed";
        case Errc::precondition_failed: return "precondition-failed";
        case Errc::internal: return "internal";
        case Errc::integrity: return "integrity";
        case Errc::outcome_unknown: return "outcome-unknown";
        case Errc::storage_full: return "storage-full";
        case Errc::unavailable: return "unavailable";
        case Errc::overloaded: return "overloaded";
        case Errc::audit_unavailable: return "audit-unavailable";
        case Errc::shutting_down: return "shutting-down";
        case Errc::clock_unsound: return "clock-unsound";
        case Errc::locked: return "locked";
        case Errc::invalid_state: return "invalid-state";
        case Errc::wrong_key: return "wrong-key";
        case Errc::newer_schema: return "newer-schema";
        case Errc::unsupported: return "unsupported";
    }
    return "internal";
}

Exception::Exception(Error error) : error_(std::move(error)) {}
Exception::~Exception() = default;
const char* Exception::what() const noexcept { return error_.message.c_str(); }

void throw_exception(Error error) { throw Exception(std::move(error)); }

}  // namespace kv
