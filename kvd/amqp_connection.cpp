#include "kvd/amqp_connection.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <new>
#include <utility>

#include "kv/version.h"

namespace kvd {
namespace {

constexpr amqp_channel_t channel = 1;
constexpr int frame_bytes_max = 131'072;
constexpr int frames_at_once_max = 4096;  // so that a broker which talks without end does not keep us from the rest
constexpr std::size_t broker_words_max = 200;
constexpr timeval connect_timeout{5, 0};
constexpr timeval login_timeout{5, 0};
constexpr timeval call_timeout{5, 0};
constexpr timeval goodbye_timeout{1, 0};
constexpr timeval none{0, 0};

amqp_bytes_t bytes_of(std::string_view text) {
    // The library only reads it, and has no word for that.
    return {text.size(), const_cast<char*>(text.data())};
}

std::string_view view_of(const amqp_bytes_t& bytes) { return {static_cast<const char*>(bytes.bytes), bytes.len}; }

kv::Error unavailable(std::string what, std::string detail = {}) {
    return {kv::Errc::unavailable, std::move(what), std::move(detail)};
}

// What the library says, where it can be said better.
std::string reason_of(int status) {
    switch (status) {
        case AMQP_STATUS_HOSTNAME_RESOLUTION_FAILED: return "the host is not known";
        case AMQP_STATUS_TIMEOUT: return "no answer in time";
        case AMQP_STATUS_HEARTBEAT_TIMEOUT: return "it fell silent";
        case AMQP_STATUS_SOCKET_ERROR:
        case AMQP_STATUS_CONNECTION_CLOSED:
        case AMQP_STATUS_SOCKET_CLOSED: return "the connection was closed";
        case AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED:
        case AMQP_STATUS_SSL_PEER_VERIFY_FAILED:
            return "its certificate is for another host, or is not vouched for by an authority that is trusted here (--amqp-ca)";
        case AMQP_STATUS_SSL_CONNECTION_FAILED: return "no TLS could be agreed on";
        default: return amqp_error_string2(status);
    }
}

// The replies that tell an operator what to do.
std::string reason_of(std::uint16_t code) {
    switch (code) {
        case AMQP_ACCESS_REFUSED: return "the user, the password or what the user may do there is not right";
        case AMQP_NOT_ALLOWED: return "there is no such vhost, or the user may not use it";
        case AMQP_NOT_FOUND: return "the exchange is not there any more";
        case AMQP_PRECONDITION_FAILED: return "the exchange is there already, and is none that is a topic and durable";
        case AMQP_CONNECTION_FORCED: return "an operator ended the connection, or the broker stops";
        default: return "the broker closed the connection";
    }
}

std::string shown(std::string_view text) {
    std::string words;
    for (const char c : text.substr(0, broker_words_max)) words += c >= ' ' && c <= '~' ? c : '?';
    return words;
}

// A key with a passphrase does not open: nobody could be asked for it.
int no_passphrase(char*, int, int, void*) { return 0; }

// Who the other side must be is checked by OpenSSL, which knows addresses as well; the library's own check does not.
kv::Result<void> expect_host(SSL_CTX* context, const std::string& host) {
    X509_VERIFY_PARAM* expected = SSL_CTX_get0_param(context);
    X509_VERIFY_PARAM_set_hostflags(expected, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (X509_VERIFY_PARAM_set1_ip_asc(expected, host.c_str()) == 1) return {};
    if (X509_VERIFY_PARAM_set1_host(expected, host.c_str(), host.size()) == 1) return {};
    return unavailable("the host cannot be verified");
}

kv::Result<void> configure_tls(amqp_socket_t* socket, const AmqpSettings& settings) {
    amqp_ssl_socket_set_verify_peer(socket, 1);
    amqp_ssl_socket_set_verify_hostname(socket, 0);
    auto* context = static_cast<SSL_CTX*>(amqp_ssl_socket_get_context(socket));
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_default_passwd_cb(context, no_passphrase);
    KV_CHECK(expect_host(context, settings.uri.host));
    if (settings.ca_file.empty()) {
        SSL_CTX_set_default_verify_paths(context);
    } else if (amqp_ssl_socket_set_cacert(socket, settings.ca_file.c_str()) != AMQP_STATUS_OK) {
        return unavailable("--amqp-ca: " + settings.ca_file + " holds no certificates");
    }
    if (settings.certificate_file.empty()) return {};
    if (SSL_CTX_use_certificate_chain_file(context, settings.certificate_file.c_str()) != 1)
        return unavailable("--amqp-cert: " + settings.certificate_file + " holds no certificate");
    if (SSL_CTX_use_PrivateKey_file(context, settings.key_file.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1)
        return unavailable("--amqp-key: " + settings.key_file + " holds no key without a passphrase, or one of another certificate");
    return {};
}

// The socket belongs to the connection.
kv::Result<amqp_socket_t*> make_socket(amqp_connection_state_t state, const AmqpSettings& settings) {
    amqp_socket_t* socket = settings.uri.is_tls ? amqp_ssl_socket_new(state) : amqp_tcp_socket_new(state);
    if (socket == nullptr) return unavailable("no socket could be made");
    if (settings.uri.is_tls) {
        const auto configured = configure_tls(socket, settings);
        ERR_clear_error();
        if (!configured) return configured.error();
    }
    return socket;
}

amqp_table_entry_t entry(const char* name, amqp_field_value_t value) { return {amqp_cstring_bytes(name), value}; }

amqp_field_value_t text_value(const char* text) {
    amqp_field_value_t value;
    value.kind = AMQP_FIELD_KIND_UTF8;
    value.value.bytes = amqp_cstring_bytes(text);
    return value;
}

amqp_field_value_t yes() {
    amqp_field_value_t value;
    value.kind = AMQP_FIELD_KIND_BOOLEAN;
    value.value.boolean = 1;
    return value;
}

}  // namespace

// ---- AmqpBreaker ----

void AmqpBreaker::watch(int socket) noexcept {
    std::lock_guard lock(mutex_);
    if (socket_ >= 0) ::close(socket_);
    socket_ = ::fcntl(socket, F_DUPFD_CLOEXEC, 0);
}

void AmqpBreaker::forget() noexcept {
    std::lock_guard lock(mutex_);
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
}

void AmqpBreaker::cut() noexcept {
    std::lock_guard lock(mutex_);
    if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
}

AmqpListener::~AmqpListener() = default;

// ---- opening ----

AmqpConnection::AmqpConnection(const AmqpSettings& settings, AmqpBreaker& breaker)
    : settings_(settings), breaker_(breaker), state_(amqp_new_connection()) {
    if (state_ == nullptr) throw std::bad_alloc();
}

AmqpConnection::~AmqpConnection() {
    breaker_.forget();
    amqp_destroy_connection(state_);
}

kv::Result<void> AmqpConnection::check_files(const AmqpSettings& settings) {
    if (!settings.uri.is_tls) return {};
    amqp_connection_state_t state = amqp_new_connection();
    if (state == nullptr) throw std::bad_alloc();
    auto socket = make_socket(state, settings);
    amqp_destroy_connection(state);
    if (socket) return {};
    return kv::Error{kv::Errc::invalid_request, std::move(socket).error().message};
}

kv::Result<std::unique_ptr<AmqpConnection>> AmqpConnection::open(const AmqpSettings& settings, AmqpBreaker& breaker) {
    std::unique_ptr<AmqpConnection> connection(new AmqpConnection(settings, breaker));
    KV_CHECK(connection->connect());
    KV_CHECK(connection->log_in());
    KV_CHECK(connection->prepare());
    return connection;
}

kv::Result<void> AmqpConnection::connect() {
    KV_TRY(amqp_socket_t * socket, make_socket(state_, settings_));
    const int status = amqp_socket_open_noblock(socket, settings_.uri.host.c_str(), settings_.uri.port, &connect_timeout);
    ERR_clear_error();
    if (status == AMQP_STATUS_SOCKET_ERROR) return unavailable("nobody answers there");
    if (status != AMQP_STATUS_OK) return unavailable("it cannot be connected to: " + reason_of(status));
    breaker_.watch(amqp_socket_get_sockfd(socket));
    amqp_set_handshake_timeout(state_, &login_timeout);
    amqp_set_rpc_timeout(state_, &call_timeout);
    return {};
}

kv::Result<void> AmqpConnection::log_in() {
    // Without the third of these a broker that takes nothing just stops reading.
    std::array<amqp_table_entry_t, 4> capabilities = {entry("publisher_confirms", yes()), entry("basic.nack", yes()),
                                                      entry("connection.blocked", yes()), entry("consumer_cancel_notify", yes())};
    amqp_field_value_t table;
    table.kind = AMQP_FIELD_KIND_TABLE;
    table.value.table = {static_cast<int>(capabilities.size()), capabilities.data()};
    std::array<amqp_table_entry_t, 4> entries = {entry("product", text_value("kvd")), entry("version", text_value(KV_VERSION)),
                                                 entry("connection_name", text_value("kvd events")), entry("capabilities", table)};
    const amqp_table_t properties{static_cast<int>(entries.size()), entries.data()};
    kv::SecretBytes password = kv::SecretBytes::of_size(settings_.uri.password->size() + 1);  // with a NUL at its end
    settings_.uri.password->reveal().copy(password.mutable_data(), password.size());
    const amqp_rpc_reply_t reply = amqp_login_with_properties(
        state_, settings_.uri.vhost.c_str(), 0, frame_bytes_max, static_cast<int>(settings_.heartbeat.count()), &properties,
        AMQP_SASL_METHOD_PLAIN, settings_.uri.user->c_str(), password.reveal().data());
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) return failure("it does not let us in", reply);
    return {};
}

kv::Result<void> AmqpConnection::prepare() {
    amqp_channel_open(state_, channel);
    if (const auto reply = amqp_get_rpc_reply(state_); reply.reply_type != AMQP_RESPONSE_NORMAL)
        return failure("no channel could be opened", reply);
    amqp_confirm_select(state_, channel);
    if (const auto reply = amqp_get_rpc_reply(state_); reply.reply_type != AMQP_RESPONSE_NORMAL)
        return failure("it confirms nothing", reply);
    constexpr amqp_boolean_t is_passive = 0, is_durable = 1, is_deleted_unused = 0, is_internal = 0;
    amqp_exchange_declare(state_, channel, bytes_of(settings_.exchange), bytes_of("topic"), is_passive, is_durable, is_deleted_unused,
                          is_internal, amqp_empty_table);
    if (const auto reply = amqp_get_rpc_reply(state_); reply.reply_type != AMQP_RESPONSE_NORMAL)
        return failure("the exchange " + settings_.exchange + " cannot be declared", reply);
    amqp_maybe_release_buffers(state_);
    return {};
}

// ---- in use ----

kv::Result<std::uint64_t> AmqpConnection::publish(const Message& message) {
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                        AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG;
    properties.content_type = bytes_of("application/cloudevents+json");
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    properties.message_id = bytes_of(message.id);
    properties.type = bytes_of(message.type);
    properties.timestamp = message.timestamp;
    properties.app_id = bytes_of("kvd");
    constexpr amqp_boolean_t is_mandatory = 1, is_immediate = 0;
    const int status = amqp_basic_publish(state_, channel, bytes_of(settings_.exchange), bytes_of(message.routing_key), is_mandatory,
                                          is_immediate, &properties, bytes_of(message.body));
    if (status != AMQP_STATUS_OK) return unavailable(reason_of(status));
    return ++published_;
}

kv::Result<void> AmqpConnection::pump(AmqpListener& listener) {
    for (int i = 0; i < frames_at_once_max; ++i) {
        amqp_maybe_release_buffers(state_);
        amqp_frame_t frame;
        const int status = amqp_simple_wait_frame_noblock(state_, &frame, &none);
        if (status == AMQP_STATUS_TIMEOUT) return {};
        if (status != AMQP_STATUS_OK) return unavailable(reason_of(status));
        KV_CHECK(take(frame, listener));
    }
    return {};
}

bool AmqpConnection::has_more() const noexcept { return amqp_frames_enqueued(state_) != 0 || amqp_data_in_buffer(state_) != 0; }

int AmqpConnection::socket() const noexcept { return amqp_get_sockfd(state_); }

void AmqpConnection::close() noexcept {
    amqp_set_rpc_timeout(state_, &goodbye_timeout);
    amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
}

kv::Result<void> AmqpConnection::take(const amqp_frame_t& frame, AmqpListener& listener) {
    if (frame.frame_type == AMQP_FRAME_METHOD) {
        if (returning_ != Returning::nothing) return unavailable("the broker speaks nonsense");
        return take_method(frame.payload.method, listener);
    }
    const bool is_properties = frame.frame_type == AMQP_FRAME_HEADER && frame.payload.properties.class_id == AMQP_BASIC_CLASS;
    if (is_properties && returning_ == Returning::properties) {
        const auto* properties = static_cast<const amqp_basic_properties_t*>(frame.payload.properties.decoded);
        const bool has_id = (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0;
        returning_id_ = has_id ? view_of(properties->message_id) : std::string_view();
        returning_bytes_ = frame.payload.properties.body_size;
        returning_ = Returning::body;
    } else if (frame.frame_type == AMQP_FRAME_BODY && returning_ == Returning::body &&
               frame.payload.body_fragment.len <= returning_bytes_) {
        returning_bytes_ -= frame.payload.body_fragment.len;
    } else {
        return unavailable("the broker speaks nonsense");
    }
    if (returning_bytes_ == 0) end_return(listener);
    return {};
}

void AmqpConnection::end_return(AmqpListener& listener) {
    returning_ = Returning::nothing;
    listener.on_return(returning_id_);
}

kv::Result<void> AmqpConnection::take_method(const amqp_method_t& method, AmqpListener& listener) {
    switch (method.id) {
        case AMQP_BASIC_ACK_METHOD: {
            const auto* ack = static_cast<const amqp_basic_ack_t*>(method.decoded);
            listener.on_confirm(ack->delivery_tag, ack->multiple != 0, true);
            return {};
        }
        case AMQP_BASIC_NACK_METHOD: {
            const auto* nack = static_cast<const amqp_basic_nack_t*>(method.decoded);
            listener.on_confirm(nack->delivery_tag, nack->multiple != 0, false);
            return {};
        }
        case AMQP_BASIC_RETURN_METHOD: returning_ = Returning::properties; return {};
        case AMQP_CONNECTION_BLOCKED_METHOD:
            is_blocked_ = true;
            blocked_reason_ = shown(view_of(static_cast<const amqp_connection_blocked_t*>(method.decoded)->reason));
            return {};
        case AMQP_CONNECTION_UNBLOCKED_METHOD: is_blocked_ = false; return {};
        case AMQP_CHANNEL_CLOSE_METHOD: {
            const auto* end = static_cast<const amqp_channel_close_t*>(method.decoded);
            return closed_by_broker("the channel was closed", end->reply_code, view_of(end->reply_text));
        }
        case AMQP_CONNECTION_CLOSE_METHOD: {
            const auto* end = static_cast<const amqp_connection_close_t*>(method.decoded);
            return closed_by_broker("the connection was closed", end->reply_code, view_of(end->reply_text));
        }
        default: return {};
    }
}

kv::Error AmqpConnection::failure(const std::string& what, const amqp_rpc_reply_t& reply) const {
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) return unavailable(what + ": " + reason_of(reply.library_error));
    if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        const auto* end = static_cast<const amqp_connection_close_t*>(reply.reply.decoded);
        return closed_by_broker(what, end->reply_code, view_of(end->reply_text));
    }
    if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        const auto* end = static_cast<const amqp_channel_close_t*>(reply.reply.decoded);
        return closed_by_broker(what, end->reply_code, view_of(end->reply_text));
    }
    return unavailable(what);
}

// Who logs in tells the broker the password: it must not tell us back.
kv::Error AmqpConnection::closed_by_broker(const std::string& what, std::uint16_t code, std::string_view text) const {
    const std::string_view password = settings_.uri.password->reveal();
    const bool is_clean = password.empty() || text.find(password) == std::string_view::npos;
    return unavailable(what + ": " + reason_of(code) + " (" + std::to_string(code) + ")", is_clean ? shown(text) : std::string());
}

}  // namespace kvd
