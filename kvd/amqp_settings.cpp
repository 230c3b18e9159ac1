#include "kvd/amqp_settings.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "kvd/amqp_connection.h"
#include "kvd/config.h"
#include "kvd/files.h"
#include "text.h"

namespace kvd {
namespace {

constexpr std::size_t uri_bytes_max = 4096;
constexpr std::size_t part_bytes_max = 255;  // of what AMQP calls a short string
constexpr std::size_t password_file_bytes_max = 4096;
constexpr std::uint16_t port_default = 5672;
constexpr std::uint16_t tls_port_default = 5671;

kv::Error refusal(std::string what) { return {kv::Errc::invalid_request, std::move(what)}; }

kv::Error malformed(std::string_view what) {
    return refusal("must be like amqp://USER@HOST:PORT/VHOST or amqps://...: " + std::string(what));
}

int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// The bytes that a part stands for. No NUL, for the library takes C strings and would cut there.
std::optional<kv::SecretBytes> decode(std::string_view part) {
    kv::SecretBytes decoded = kv::SecretBytes::of_size(part.size());
    std::size_t size = 0;
    for (std::size_t at = 0; at < part.size(); ++at) {
        char byte = part[at];
        if (byte == '%') {
            const int high = at + 1 < part.size() ? digit_of(part[at + 1]) : -1;
            const int low = at + 2 < part.size() ? digit_of(part[at + 2]) : -1;
            if (high < 0 || low < 0) return std::nullopt;
            byte = static_cast<char>(high * 16 + low);
            at += 2;
        } else if (static_cast<unsigned char>(byte) <= ' ' || static_cast<unsigned char>(byte) >= 0x7f) {
            return std::nullopt;
        }
        if (byte == '\0') return std::nullopt;
        decoded.mutable_data()[size++] = byte;
    }
    decoded.truncate(size);
    return decoded;
}

std::optional<std::string> decode_name(std::string_view part) {
    const auto decoded = decode(part);
    if (!decoded || decoded->size() > part_bytes_max || !kv::is_valid_utf8(decoded->reveal()) ||
        kv::has_control_character(decoded->reveal()))
        return std::nullopt;
    return std::string(decoded->reveal());
}

kv::Result<void> read_credentials(std::string_view text, AmqpUri& uri) {
    const std::size_t colon = text.find(':');
    uri.user = decode_name(text.substr(0, colon));
    if (!uri.user || uri.user->empty()) return malformed("the user is empty or malformed");
    if (colon == std::string_view::npos) return {};
    uri.password = decode(text.substr(colon + 1));
    if (!uri.password) return malformed("the password has bytes that must be percent-encoded");
    return {};
}

bool is_host(std::string_view host, bool is_address) {
    const std::string_view others = is_address ? ":." : "-._";
    return !host.empty() && host.size() <= part_bytes_max && std::all_of(host.begin(), host.end(), [&](char c) {
        const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        return (c >= '0' && c <= '9') || (is_address ? digit_of(c) >= 0 : is_letter) || others.find(c) != std::string_view::npos;
    });
}

kv::Result<void> read_host(std::string_view text, AmqpUri& uri) {
    const bool is_address = text.starts_with('[');
    const std::size_t end = is_address ? text.find(']') : std::min(text.find(':'), text.size());
    if (end == std::string_view::npos) return malformed("the address has no closing bracket");
    const std::string_view host = is_address ? text.substr(1, end - 1) : text.substr(0, end);
    if (!is_host(host, is_address)) return malformed("the host is missing or malformed");
    uri.host = host;
    const std::string_view rest = text.substr(is_address ? end + 1 : end);
    uri.port = uri.is_tls ? tls_port_default : port_default;
    if (rest.empty()) return {};
    const std::string_view digits = rest.substr(1);
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), uri.port);
    if (rest.front() != ':' || result.ec != std::errc() || result.ptr != digits.data() + digits.size() || uri.port == 0)
        return malformed("the port must be a number from 1 to 65535");
    return {};
}

// One file must exist for the other to mean something.
kv::Result<void> check_files(const Settings& settings, const AmqpUri& uri) {
    if (settings.amqp_certificate.empty() != settings.amqp_key.empty())
        return refusal("--amqp-cert and --amqp-key go together");
    const bool has_files = !settings.amqp_ca.empty() || !settings.amqp_certificate.empty();
    if (has_files && !uri.is_tls) return refusal("--amqp-ca, --amqp-cert and --amqp-key need an amqps:// URI in --amqp");
    return {};
}

kv::Result<kv::SecretBytes> read_password(const std::string& path) {
    KV_TRY(kv::SecretBytes text, read_file(path, password_file_bytes_max));
    const std::string_view all = text.reveal();
    const std::size_t end = std::min(all.find_first_of("\r\n"), all.size());
    if (end == 0 || all.find_first_not_of("\r\n", end) != std::string_view::npos || all.find('\0') < end)
        return refusal("--amqp-password-file: " + path + " must hold one line");
    text.truncate(end);
    return text;
}

// From the URI, the environment or a file; whoever names nobody is RabbitMQ's guest.
kv::Result<void> settle_credentials(const Settings& settings, const std::optional<kv::SecretBytes>& password, AmqpUri& uri) {
    const int given = (uri.password ? 1 : 0) + (password ? 1 : 0) + (settings.amqp_password_file.empty() ? 0 : 1);
    if (given > 1) return refusal("the password for --amqp is given twice: in the URI, KVD_AMQP_PASSWORD or --amqp-password-file");
    if (password && password->reveal().find('\0') != std::string_view::npos) return refusal("KVD_AMQP_PASSWORD holds a NUL");
    if (password) uri.password = *password;
    if (!settings.amqp_password_file.empty()) {
        KV_TRY(kv::SecretBytes read, read_password(settings.amqp_password_file));
        uri.password = std::move(read);
    }
    if (!uri.user && !uri.password) {
        uri.user = "guest";
        uri.password = kv::SecretBytes("guest");
    }
    if (!uri.user) return refusal("--amqp names no user for the password");
    if (!uri.password) return refusal("--amqp needs a password: KVD_AMQP_PASSWORD or --amqp-password-file");
    return {};
}

}  // namespace

kv::Result<AmqpUri> AmqpUri::parse(std::string_view text) {
    AmqpUri uri;
    if (text.size() > uri_bytes_max) return malformed("it is too long");
    const std::size_t scheme = text.find("://");
    if (scheme == std::string_view::npos) return malformed("it has no scheme");
    uri.is_tls = text.substr(0, scheme) == "amqps";
    if (!uri.is_tls && text.substr(0, scheme) != "amqp") return malformed("the scheme is another");
    std::string_view rest = text.substr(scheme + 3);
    if (rest.find_first_of("?#") != std::string_view::npos) return malformed("it takes no parameters");
    const std::size_t slash = rest.find('/');
    if (slash != std::string_view::npos) {
        const std::string_view path = rest.substr(slash + 1);
        const auto vhost = path.find_first_of("/@") == std::string_view::npos ? decode_name(path) : std::nullopt;
        if (!vhost) return malformed("the vhost is malformed: write %2F for a slash");
        uri.vhost = *vhost;
        rest = rest.substr(0, slash);
    }
    if (const std::size_t at = rest.find('@'); at != std::string_view::npos) {
        KV_CHECK(read_credentials(rest.substr(0, at), uri));
        rest = rest.substr(at + 1);
    }
    KV_CHECK(read_host(rest, uri));
    return uri;
}

std::string AmqpSettings::place() const {
    const bool is_address = uri.host.find(':') != std::string::npos;
    return (uri.is_tls ? "amqps://" : "amqp://") + (is_address ? "[" + uri.host + "]" : uri.host) + ":" + std::to_string(uri.port);
}

bool AmqpSettings::is_exposed() const {
    return !uri.is_tls && uri.host != "localhost" && uri.host != "::1" && !uri.host.starts_with("127.");
}

kv::Result<std::optional<AmqpSettings>> load_amqp(const Settings& settings, const std::optional<kv::SecretBytes>& password) {
    if (settings.amqp.empty()) return std::optional<AmqpSettings>();
    AmqpSettings amqp;
    KV_TRY(amqp.uri, AmqpUri::parse(settings.amqp));
    KV_CHECK(settle_credentials(settings, password, amqp.uri));
    KV_CHECK(check_files(settings, amqp.uri));
    amqp.ca_file = settings.amqp_ca;
    amqp.certificate_file = settings.amqp_certificate;
    amqp.key_file = settings.amqp_key;
    amqp.exchange = settings.amqp_exchange;
    amqp.hides_keys = settings.events_hide_keys;
    amqp.drops_unroutable = settings.amqp_drops_unroutable;
    KV_CHECK(AmqpConnection::check_files(amqp));
    return std::optional(std::move(amqp));
}

}  // namespace kvd
