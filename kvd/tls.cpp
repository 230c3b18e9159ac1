#include "kvd/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <boost/asio/ip/address.hpp>
#include <algorithm>
#include <chrono>
#include <ctime>
#include <utility>

#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;

// TLS 1.2: forward secrecy and AEAD (RFC 9325, section 4.2). Those of 1.3 are all like that.
constexpr const char* ciphers_1_2 =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
constexpr const char* groups = "X25519:P-256:P-384";

using Context = std::shared_ptr<SSL_CTX>;

Error wrong(const std::string& file, const std::string& what) {
    std::string reason;
    if (const unsigned long code = ERR_peek_last_error(); code != 0)
        if (const char* text = ERR_reason_error_string(code)) reason = std::string(" (") + text + ")";
    ERR_clear_error();
    return {Errc::invalid_request, file + ": " + what + reason};
}

int choose_http_1_1(SSL*, const unsigned char** chosen, unsigned char* size, const unsigned char* offered, unsigned offered_size, void*) {
    static constexpr unsigned char ours[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
    unsigned char* found = nullptr;
    if (SSL_select_next_proto(&found, size, ours, sizeof ours, offered, offered_size) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;  // somebody who speaks no HTTP/1.1 (RFC 7301, section 3.2)
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

kv::Time end_of(const SSL_CTX* context) {
    std::tm ends{};
    const X509* certificate = SSL_CTX_get0_certificate(context);
    if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &ends) != 1) return {};
    return kv::Time(std::chrono::seconds(timegm(&ends)));
}

Result<Context> load(const Tls::Files& files) {
    ERR_clear_error();
    const Context context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
    SSL_CTX* const ctx = context.get();
    if (ctx == nullptr || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 || SSL_CTX_set_cipher_list(ctx, ciphers_1_2) != 1 ||
        SSL_CTX_set1_groups_list(ctx, groups) != 1)
        return wrong("TLS", "OpenSSL cannot be set up");
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET |
                                 SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF);
    // A session taken up again would skip the client's certificate, and what became of it.
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(ctx, choose_http_1_1, nullptr);
    if (SSL_CTX_use_certificate_chain_file(ctx, files.certificate.c_str()) != 1) return wrong(files.certificate, "holds no certificate that can be used");
    if (SSL_CTX_use_PrivateKey_file(ctx, files.key.c_str(), SSL_FILETYPE_PEM) != 1) return wrong(files.key, "holds no key for the certificate");
    if (SSL_CTX_check_private_key(ctx) != 1) return wrong(files.key, "is the key of another certificate");
    if (files.client_ca.empty()) return context;
    if (SSL_CTX_load_verify_file(ctx, files.client_ca.c_str()) != 1) return wrong(files.client_ca, "holds no certificate that can be used");
    STACK_OF(X509_NAME)* const names = SSL_load_client_CA_file(files.client_ca.c_str());
    if (names == nullptr) return wrong(files.client_ca, "holds no certificate that can be used");
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (files.needs_client ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
    return context;
}

std::string text_of(const ASN1_STRING* string) {
    return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)), static_cast<std::size_t>(ASN1_STRING_length(string))};
}

// "IP:10.0.0.1". Four bytes or sixteen (RFC 5280, section 4.2.1.6).
std::string address_of(const ASN1_STRING* string) {
    namespace ip = boost::asio::ip;
    const std::string bytes = text_of(string);
    if (ip::address_v4::bytes_type v4; bytes.size() == v4.size()) {
        std::copy(bytes.begin(), bytes.end(), v4.begin());
        return ip::address_v4(v4).to_string();
    }
    if (ip::address_v6::bytes_type v6; bytes.size() == v6.size()) {
        std::copy(bytes.begin(), bytes.end(), v6.begin());
        return ip::address_v6(v6).to_string();
    }
    return {};
}

}  // namespace

void FreeTlsSession::operator()(ssl_st* session) const noexcept { SSL_free(session); }

Result<std::unique_ptr<Tls>> Tls::open(Files files) {
    std::unique_ptr<Tls> tls(new Tls(std::move(files)));
    KV_CHECK(tls->reload());
    return tls;
}

Result<void> Tls::reload() {
    KV_TRY(Context context, load(files_));
    const kv::Time expires_at = end_of(context.get());
    std::lock_guard lock(mutex_);
    context_.swap(context);
    expires_at_ = expires_at;
    return {};
}

TlsSession Tls::session() const {
    std::shared_ptr<SSL_CTX> context;
    {
        std::lock_guard lock(mutex_);
        context = context_;
    }
    return TlsSession(SSL_new(context.get()));
}

kv::Time Tls::expires_at() const {
    std::lock_guard lock(mutex_);
    return expires_at_;
}

std::vector<std::string> peer_names(ssl_st* session) {
    std::vector<std::string> names;
    const X509* certificate = SSL_get0_peer_certificate(session);
    if (certificate == nullptr || SSL_get_verify_result(session) != X509_V_OK) return names;
    const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> found(
        static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)), &GENERAL_NAMES_free);
    for (int i = 0; found && i < sk_GENERAL_NAME_num(found.get()); ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(found.get(), i);
        std::string text;
        if (name->type == GEN_DNS) text = "DNS:" + text_of(name->d.dNSName);
        if (name->type == GEN_URI) text = "URI:" + text_of(name->d.uniformResourceIdentifier);
        if (name->type == GEN_EMAIL) text = "email:" + text_of(name->d.rfc822Name);
        if (name->type == GEN_IPADD) text = "IP:" + address_of(name->d.iPAddress);
        if (!text.empty() && text.back() != ':' && !kv::has_control_character(text)) names.push_back(std::move(text));
    }
    return names;
}

}  // namespace kvd
