#include "kvd/status.h"

namespace kvd {

unsigned http_status(kv::Errc code) noexcept {
    using kv::Errc;
    switch (code) {
        case Errc::invalid_request:
        case Errc::invalid_key:
        case Errc::reserved_key_segment:
        case Errc::invalid_value:
        case Errc::read_only_field:
        case Errc::invalid_cursor:
        case Errc::malformed_body: return 400;
        case Errc::unauthenticated: return 401;
        case Errc::permission_denied: return 403;
        case Errc::not_found: return 404;
        case Errc::method_not_allowed: return 405;
        case Errc::request_timeout: return 408;
        case Errc::length_required: return 411;
        case Errc::too_large: return 413;
        case Errc::target_too_long: return 414;
        case Errc::unsupported_media_type: return 415;
        case Errc::expectation_failed: return 417;
        case Errc::rate_limited: return 429;
        case Errc::headers_too_large: return 431;
        case Errc::version_conflict:
        case Errc::namespace_exists:
        case Errc::history_disabled:
        case Errc::history_required:
        case Errc::immutable:
        case Errc::deletion_protected:
        case Errc::current_version:
        case Errc::name_conflict:
        case Errc::bulk_failed: return 409;
        case Errc::precondition_failed: return 412;
        case Errc::outcome_unknown: return 504;
        case Errc::storage_full: return 507;
        case Errc::unavailable:
        case Errc::overloaded:
        case Errc::audit_unavailable:
        case Errc::shutting_down: return 503;
        case Errc::clock_unsound: return 503;
        case Errc::internal:
        case Errc::integrity: return 500;
        // Never an answer to a request: problem() shows these as something else.
        case Errc::locked:
        case Errc::invalid_state:
        case Errc::wrong_key:
        case Errc::newer_schema:
        case Errc::unsupported: return 500;
    }
    return 500;
}

}  // namespace kvd
