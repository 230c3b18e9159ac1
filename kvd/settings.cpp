#include "kvd/settings.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <utility>

#include "kvd/amqp_settings.h"
#include "kvd/audit_copy.h"
#include "kvd/auth/fetcher.h"
#include "kvd/auth/gateway.h"
#include "kvd/cors.h"
#include "kvd/server.h"

namespace kvd {
namespace {

using Set = std::function<Problem(Settings&, const std::string&)>;

std::optional<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t number = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
    return number;
}

// Digits and one of the units; `units` maps a suffix to its factor, the empty one included.
std::optional<std::uint64_t> parse_with_unit(std::string_view text,
                                             std::initializer_list<std::pair<std::string_view, std::uint64_t>> units) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto number = parse_number(text.substr(0, digits));
    for (const auto& [suffix, factor] : units)
        if (number && text.substr(digits) == suffix && *number <= UINT64_MAX / 2 / factor) return *number * factor;
    return std::nullopt;
}

Set text(std::string Settings::*member) {
    return [member](Settings& settings, const std::string& value) -> Problem {
        if (value.empty()) return "must not be empty";
        settings.*member = value;
        return {};
    };
}

template <class Access>
Set flag_at(Access access) {
    return [access](Settings& settings, const std::string& value) -> Problem {
        if (value == "true" || value == "1")
            access(settings) = true;
        else if (value == "false" || value == "0")
            access(settings) = false;
        else
            return "must be true or false";
        return {};
    };
}

Set flag(bool Settings::*member) {
    return flag_at([member](Settings& settings) -> bool& { return settings.*member; });
}

template <class Access>
Set folder(Access access) {
    return [access](Settings& settings, const std::string& value) -> Problem {
        std::error_code error;
        if (!std::filesystem::is_directory(value, error)) return "must be a folder that exists";
        access(settings) = value;
        return {};
    };
}

// `access` gives the member as an lvalue, whatever its integer type.
template <class Access>
Set number(Access access, std::uint64_t min, std::uint64_t max) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        const auto parsed = parse_with_unit(value, {{"", 1}, {"KiB", 1u << 10}, {"MiB", 1u << 20}, {"GiB", 1u << 30}});
        if (!parsed || *parsed < min || *parsed > max)
            return "must be a number from " + std::to_string(min) + " to " + std::to_string(max);
        auto& target = access(settings);
        target = static_cast<std::remove_reference_t<decltype(target)>>(*parsed);
        return {};
    };
}

template <class Access>
Set duration(Access access, std::uint64_t milliseconds_min, std::uint64_t milliseconds_max) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        const auto parsed = parse_with_unit(
            value, {{"ms", 1}, {"", 1000}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}});
        if (!parsed || *parsed < milliseconds_min || *parsed > milliseconds_max)
            return "must be a time like 500ms, 30s, 5m, 12h or 7d, from " + std::to_string(milliseconds_min) +
                   "ms to " + std::to_string(milliseconds_max) + "ms";
        auto& target = access(settings);
        target =
            std::chrono::duration_cast<std::remove_reference_t<decltype(target)>>(std::chrono::milliseconds(*parsed));
        return {};
    };
}

template <class Access, class Value>
Set choice(Access access, std::vector<std::pair<std::string, Value>> choices) {
    return [access, choices = std::move(choices)](Settings& settings, const std::string& value) -> Problem {
        std::string names;
        for (const auto& [name, chosen] : choices) {
            if (value == name) {
                access(settings) = chosen;
                return {};
            }
            names += (names.empty() ? "" : ", ") + name;
        }
        return "must be one of " + names;
    };
}

Set endpoint_or_off(std::string Settings::*member) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        if (value != "off")
            if (const auto parsed = Endpoint::parse(value); !parsed) return parsed.error().message;
        settings.*member = value;
        return {};
    };
}

// What `parse` understands.
template <class Parse>
Set parsed_by(Parse parse, std::string Settings::*member) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        if (const auto parsed = parse(value); !parsed) return parsed.error().message;
        settings.*member = value;
        return {};
    };
}

// Names of client certificates, with their kind.
Set certificate_names(std::string Settings::*member) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        for (const std::string& name : split_list(value))
            if (!is_certificate_name(name)) return "\"" + name + "\" is no subject alternative name like DNS:gateway.example or URI:spiffe://example/gateway";
        if (value.empty()) return "must not be empty";
        settings.*member = value;
        return {};
    };
}

// Plain HTTP only to this machine.
Set service_url(std::string Settings::*member) {
    return parsed_by([](const std::string& value) { return check_service_url(value, false); }, member);
}

// A file, or an https URL.
Set key_set(std::string Settings::*member) {
    return parsed_by(
        [](const std::string& value) -> kv::Result<void> {
            if (value.empty()) return kv::Error{kv::Errc::invalid_request, "must not be empty"};
            return value.find("://") == std::string::npos ? kv::Result<void>() : check_service_url(value, false);
        },
        member);
}

// Of an AMQP exchange: what every tool can type.
Set exchange_name(std::string Settings::*member) {
    return [=](Settings& settings, const std::string& value) -> Problem {
        constexpr std::size_t bytes_max = 255;
        constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";
        if (value.empty() || value.size() > bytes_max || value.find_first_not_of(allowed) != std::string::npos || value.starts_with("amq."))
            return "must be 1 to 255 letters, digits, '-', '_', '.' and ':', and not begin with \"amq.\"";
        settings.*member = value;
        return {};
    };
}

// A figure of kv::Limits: settable downwards only.
template <class Access>
Set limit(Access access) {
    Settings defaults;
    return number(access, 1, access(defaults));
}

}  // namespace

#define KVD_MEMBER(path) \
    [](Settings & settings) -> auto& { return settings.path; }

const std::vector<Setting>& settings_table() {
    constexpr std::uint64_t day = 86'400'000, year = 366 * day, minute = 60'000;
    constexpr std::uint64_t gibibyte = 1ull << 30;
    static const std::vector<Setting> table = {
        {"listen", "ADDRESS:PORT,...", "Where the API listens: addresses (port 0 picks a free one) and unix:PATH (127.0.0.1:8420)", false,
         parsed_by(Endpoint::parse_list, &Settings::listen)},
        {"admin-listen", "ADDRESS:PORT|off", "Where metrics and health are (127.0.0.1:8421)", false,
         endpoint_or_off(&Settings::admin_listen)},
        {"storage", "URI", "sqlite:FILE, postgresql://HOST/DATABASE or memory: (sqlite:kv.db)", false, text(&Settings::storage)},
        {"tokens", "FILE", "Who may log in: a JSON file, read again on SIGHUP", false, text(&Settings::tokens)},
        {"threads", "N", "Threads that serve connections (one per core)", false, number(KVD_MEMBER(threads), 0, 1024)},
        {"log-level", "LEVEL", "debug, info, warning or error (info)", false,
         choice(KVD_MEMBER(log_level),
                std::vector<std::pair<std::string, kv::LogLevel>>{{"debug", kv::LogLevel::debug},
                                                                  {"info", kv::LogLevel::info},
                                                                  {"warning", kv::LogLevel::warning},
                                                                  {"error", kv::LogLevel::error}})},
        {"log-format", "FORMAT", "json or text (text)", false,
         choice(KVD_MEMBER(log_format),
                std::vector<std::pair<std::string, LogFormat>>{{"json", LogFormat::json}, {"text", LogFormat::text}})},
        {"access-log", nullptr, "Log every request, without key paths", false, flag(&Settings::access_log)},
        {"insecure-http", nullptr, "Allow plain HTTP beyond this machine", false, flag(&Settings::insecure_http)},
        {"check-config", nullptr, "Check every setting, the tokens file and the key, then exit", false,
         flag(&Settings::check_config)},
        {"dev", nullptr, "Make up a key and a token, keep everything in memory: not for production", false,
         flag(&Settings::dev)},

        {"tls-cert", "FILE", "Speak HTTPS with this certificate, and what leads up to its authority: PEM, read again on SIGHUP (none)", false,
         text(&Settings::tls_certificate)},
        {"tls-key", "FILE", "The key of that certificate", false, text(&Settings::tls_key)},
        {"tls-client-ca", "FILE", "Who vouches for clients' certificates, which the tokens file may name (none)", false,
         text(&Settings::tls_client_ca)},
        {"tls-client-auth", "WHAT", "required or optional: whether a client must have a certificate (required)", false,
         choice(KVD_MEMBER(tls_needs_client), std::vector<std::pair<std::string, bool>>{{"required", true}, {"optional", false}})},
        {"jwt-jwks", "FILE|URL", "Accept JWTs signed by a key of this set (RFC 7517), asked for again now and then (none)", false,
         key_set(&Settings::jwt_jwks)},
        {"jwt-issuer", "TEXT", "Who must have issued them: iss", false, text(&Settings::jwt_issuer)},
        {"jwt-audience", "TEXT", "For whom they must be: aud", false, text(&Settings::jwt_audience)},
        {"permissions-url", "URL", "Ask here what users of a gateway, and JWTs that do not say it, were granted (none)", false,
         service_url(&Settings::permissions_url)},
        {"gateway-identity", nullptr, "Believe X-User-Id and X-Application-Id of a gateway that proved itself", false,
         flag(&Settings::gateway_identity)},
        {"gateway-names", "NAME,...", "It does so by one of these names in its certificate, like DNS:gateway.example, or by unix:PATH", false,
         certificate_names(&Settings::gateway_names)},
        {"trusted-proxies", "NETWORK,...", "Believe X-Forwarded-For of these: networks, addresses, unix (none)", false,
         parsed_by(TrustedProxies::parse, &Settings::trusted_proxies)},

        {"rate-limit", "N", "Requests a second of one caller, twice as many at once; 0: no limit (0)", false,
         number(KVD_MEMBER(rate_limit), 0, 1'000'000)},
        {"rate-limit-address", "N", "The same of one address, whoever calls (0)", false,
         number(KVD_MEMBER(rate_limit_address), 0, 1'000'000)},
        {"cors-origin", "ORIGIN,...", "Whose pages may use the API from a browser (none)", false, parsed_by(Cors::parse, &Settings::cors_origins)},

        {"audit-retention", "TIME", "Audit rows stay for (90d)", false,
         duration(KVD_MEMBER(store.audit_retention), minute, 100 * year)},
        {"audit-archive", "FOLDER", "Append audit rows to JSON lines files here before they are removed (none)", false,
         folder(KVD_MEMBER(store.audit_archive))},
        {"audit-copy", "TARGET", "Copy each audit row as a line of JSON to file:PATH, syslog: or stdout (none)", false,
         parsed_by(AuditCopyTarget::parse, &Settings::audit_copy)},
        {"amqp", "URI", "Send events to a RabbitMQ: amqp://USER@HOST:PORT/VHOST or amqps://... (none)", false, parsed_by(AmqpUri::parse, &Settings::amqp),
         "KVD_AMQP_URL"},
        {"amqp-password-file", "FILE", "The password for it, or in KVD_AMQP_PASSWORD", false, text(&Settings::amqp_password_file)},
        {"amqp-ca", "FILE", "Who vouches for its certificate (whom this machine trusts)", false, text(&Settings::amqp_ca)},
        {"amqp-exchange", "NAME", "The topic exchange there, made where there is none (kv.events)", false,
         exchange_name(&Settings::amqp_exchange)},
        {"events-hide-keys", nullptr, "Send no key paths and no users", false, flag(&Settings::events_hide_keys)},
        {"event-retention", "TIME", "Events stay for (7d), and longer until they were sent", false,
         duration(KVD_MEMBER(store.event_retention), minute, 100 * year)},
        {"disk-free-min", "N", "Refuse writes when the disk has less room; 0: never (an eighth of it, 256MiB at most)", false,
         number(KVD_MEMBER(store.disk_free_min), 0, 1024 * gibibyte)},
        {"trust-clock", nullptr, "The clock is right, however far the store's last change lies back or ahead: say it once",
         false, flag_at(KVD_MEMBER(store.trust_clock))},

        {"jwt-secret-file", "FILE", "Accept JWTs signed with this secret (HS256) instead of a key set's", true, text(&Settings::jwt_secret_file)},
        {"jwt-permissions-claim", "NAME", "Which claim holds permissions (permissions)", true, text(&Settings::jwt_permissions_claim)},
        {"jwt-grants-claim", "NAME", "Which one holds grants as in the tokens file (kv_grants)", true, text(&Settings::jwt_grants_claim)},
        {"jwt-application-claim", "NAME", "Which one names the application (application_id)", true, text(&Settings::jwt_application_claim)},
        {"permissions-token-file", "FILE", "A bearer token to show to that service (none)", true, text(&Settings::permissions_token_file)},
        {"services-ca", "FILE", "Who vouches for such services' certificates (whom this machine trusts)", true, text(&Settings::services_ca)},
        {"amqp-cert", "FILE", "A certificate to show to RabbitMQ (none)", true, text(&Settings::amqp_certificate)},
        {"amqp-key", "FILE", "The key of that certificate", true, text(&Settings::amqp_key)},
        {"amqp-unroutable", "WHAT", "keep or drop: events that no queue takes (keep)", true,
         choice(KVD_MEMBER(amqp_drops_unroutable), std::vector<std::pair<std::string, bool>>{{"keep", false}, {"drop", true}})},
        {"events-max", "N", "Events of one namespace that stay (100000)", true,
         number(KVD_MEMBER(store.events_max), 1, 1'000'000'000)},
        {"audit-bytes-max", "N", "Remove the oldest audit rows beyond this size; 0: never (0)", true,
         number(KVD_MEMBER(store.audit_bytes_max), 0, 1024 * gibibyte)},
        {"denial-window", "TIME", "Equal denials of one caller are one row for so long; 0: each is one (10s)", true,
         duration(KVD_MEMBER(store.denial_window), 0, day)},
        {"clock-gap-max", "TIME", "A last change longer ago than this makes the clock suspect (30d)", true,
         duration(KVD_MEMBER(store.clock_gap_max), minute, 100 * year)},
        {"idle-timeout", "TIME", "A connection may be idle so long (60s)", true,
         duration(KVD_MEMBER(idle_timeout), 10, day)},
        {"header-timeout", "TIME", "A header must arrive within (10s)", true,
         duration(KVD_MEMBER(header_timeout), 10, day)},
        {"body-timeout", "TIME", "A body must arrive within, besides what the rate allows (10s)", true,
         duration(KVD_MEMBER(body_timeout), 10, day)},
        {"write-timeout", "TIME", "An answer must be taken within, besides what the rate allows (30s)", true,
         duration(KVD_MEMBER(write_timeout), 10, day)},
        {"drain-timeout", "TIME", "After SIGTERM requests under way may take so long (30s)", true,
         duration(KVD_MEMBER(drain_timeout), 0, day)},
        {"stall-timeout", "TIME", "A watcher may take nothing for (60s)", true, duration(KVD_MEMBER(stall_timeout), 10, day)},
        {"watch-heartbeat", "TIME", "A watcher hears something at least every (15s)", true,
         duration(KVD_MEMBER(watch_heartbeat), 100, day)},
        {"bytes-per-second-min", "N", "The rate (64KiB)", true, number(KVD_MEMBER(bytes_per_second_min), 1, gibibyte)},
        {"connections-max", "N", "Connections to the API at a time (10000)", true,
         number(KVD_MEMBER(connections_max), 1, 1'000'000)},
        {"connections-per-address-max", "N", "Connections from one address at a time; 0: as many as there may be (0)", true,
         number(KVD_MEMBER(connections_per_address_max), 0, 1'000'000)},
        {"failed-logins", "N", "Logins from one address that may fail in a second before they are answered late; 0: any (10)", true,
         number(KVD_MEMBER(failed_logins), 0, 1'000'000)},
        {"header-bytes-max", "N", "Size of a request's header (16KiB)", true,
         number(KVD_MEMBER(header_bytes_max), 1024, 16u << 10)},
        {"target-bytes-max", "N", "Size of a request's target (8KiB)", true,
         number(KVD_MEMBER(target_bytes_max), 256, 8u << 10)},
        {"body-bytes-max", "N", "Size of a body (2MiB)", true, limit(KVD_MEMBER(limits.body_bytes_max))},
        {"bulk-body-bytes-max", "N", "Size of a bulk operation's body (16MiB)", true,
         limit(KVD_MEMBER(limits.bulk_body_bytes_max))},
        {"body-bytes-in-flight-max", "N", "Bodies and answers under way, together (256MiB)", true,
         number(KVD_MEMBER(body_bytes_in_flight_max), 1u << 20, gibibyte * 64)},
        {"bytes-in-flight-max", "N", "Operations accepted and not answered, together (256MiB)", true,
         number(KVD_MEMBER(store.bytes_in_flight_max), 1u << 20, gibibyte * 64)},
        {"value-bytes-max", "N", "Size of a value (1MiB)", true, limit(KVD_MEMBER(store.limits.value_bytes_max))},
        {"metadata-bytes-max", "N", "Size of an entry's metadata (16KiB)", true,
         limit(KVD_MEMBER(store.limits.metadata_bytes_max))},
        {"bulk-items-max", "N", "Items of a bulk operation (1000)", true,
         limit(KVD_MEMBER(store.limits.bulk_items_max))},
        {"page-items-max", "N", "Items of a page (1000)", true, limit(KVD_MEMBER(store.limits.page_items_max))},
        {"export-keys-max", "N", "Keys of an export (10000)", true, limit(KVD_MEMBER(store.limits.export_keys_max))},
        {"export-bytes-max", "N", "Size of an export (16MiB)", true, limit(KVD_MEMBER(store.limits.export_bytes_max))},
        {"namespace-retention", "TIME", "A deleted namespace can be restored for (7d)", true,
         duration(KVD_MEMBER(store.namespace_retention), 1000, 10 * year)},
        {"expiry-grace", "TIME", "An expired value is destroyed after (1h)", true,
         duration(KVD_MEMBER(store.expiry_grace), 0, 10 * year)},
        {"tombstone-retention", "TIME", "A deleted key without history is forgotten after (30d)", true,
         duration(KVD_MEMBER(store.tombstone_retention), minute, 10 * year)},
        {"maintenance-interval", "TIME", "How often expired entries are looked for (500ms)", true,
         duration(KVD_MEMBER(store.maintenance_interval), 10, day)},
        {"seals-per-key", "N", "A data key is replaced by itself after so many values sealed (2^30)", true,
         number(KVD_MEMBER(store.seals_per_key), 1, gibibyte)},
        {"key-retirement", "TIME", "A data key that seals nothing any more is kept for (60s)", true,
         duration(KVD_MEMBER(store.key_retirement), 0, day)},
        {"readers", "N", "Connections that read the storage at a time (4)", true,
         number(KVD_MEMBER(store.readers), 1, 256)},
        {"read-audit", "WHEN",
         "durable, or deferred-for-plain: reads of plain namespaces are recorded soon after (durable)", true,
         choice(KVD_MEMBER(store.read_audit),
                std::vector<std::pair<std::string, kv::ReadAudit>>{
                    {"durable", kv::ReadAudit::durable}, {"deferred-for-plain", kv::ReadAudit::deferred_for_plain}})},
        {"crypto", "LIBRARY", "automatic, libsodium or openssl (automatic)", true,
         choice(KVD_MEMBER(store.crypto),
                std::vector<std::pair<std::string, kv::CryptoBackend>>{{"automatic", kv::CryptoBackend::automatic},
                                                                       {"libsodium", kv::CryptoBackend::libsodium},
                                                                       {"openssl", kv::CryptoBackend::openssl}})},
    };
    return table;
}

#undef KVD_MEMBER

const Setting* find_setting(std::string_view name) {
    for (const Setting& setting : settings_table())
        if (name == setting.name) return &setting;
    return nullptr;
}

// "admin-listen" -> "KVD_ADMIN_LISTEN".
std::string Setting::variable_name() const {
    if (variable != nullptr) return variable;
    std::string result = "KVD_";
    for (char letter : std::string_view(name))
        result += letter == '-' ? '_' : static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 'a' + 'A' : letter);
    return result;
}

}  // namespace kvd
