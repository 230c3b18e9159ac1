#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kv/clock.h"
#include "kv/result.h"

struct ssl_st;
struct ssl_ctx_st;

namespace kvd {

struct FreeTlsSession {
    void operator()(ssl_st* session) const noexcept;
};
// One connection's side of TLS (OpenSSL); null: in the clear.
using TlsSession = std::unique_ptr<ssl_st, FreeTlsSession>;

// Tls holds certificate and key, and whom to trust, for the connections to come: TLS 1.2 with forward secrecy and authenticated
// encryption alone, or 1.3; no renegotiation, no compression, no early data.
//
// Threads: any.
class Tls {
public:
    struct Files {
        std::string certificate;  // PEM: the certificate, and what leads up to its authority
        std::string key;          // PEM, for its owner only
        std::string client_ca;    // PEM: who vouches for clients; empty: clients need no certificate
        bool needs_client = true;  // with `client_ca`: a client without a certificate is refused
    };

    // Errors name the file.
    static kv::Result<std::unique_ptr<Tls>> open(Files files);

    // For the connections from then on. A file that does not read leaves everything as it was.
    kv::Result<void> reload();
    // Empty for want of memory.
    TlsSession session() const;
    // When the certificate ends.
    kv::Time expires_at() const;

private:
    explicit Tls(Files files) : files_(std::move(files)) {}

    const Files files_;
    mutable std::mutex mutex_;
    std::shared_ptr<ssl_ctx_st> context_;
    kv::Time expires_at_;
};

// The subject alternative names of the certificate that the peer proved to be its own: "DNS:web.example", "URI:spiffe://a/b",
// "IP:10.0.0.1", "email:ops@example.org". Names with control characters are left out.
std::vector<std::string> peer_names(ssl_st* session);

}  // namespace kvd
