#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/types.h"
#include "kvd/auth/tokens.h"

namespace kvd {

struct JwtClaims;

// Whose connection it is, as far as the connection itself proves it.
struct Peer {
    std::string address = {};             // "127.0.0.1", "::1"; of a Unix socket "unix"
    bool is_unix = false;            // came through a Unix socket
    std::vector<std::string> names = {};  // of its client certificate, verified: "DNS:web.example", "URI:spiffe://a/b", "IP:10.0.0.1"
};

// What a request says of who asks. Borrows everything; empty where absent.
struct Presented {
    std::string_view authorization = {};   // Authorization
    std::optional<std::string_view> user_id = {};         // X-User-Id
    std::optional<std::string_view> application_id = {};  // X-Application-Id
    std::string_view forwarded_for = {};   // X-Forwarded-For, all fields of that name
    // One of X-User-Id and X-Application-Id came twice, is named in Connection, or came under a name that some gateways read as
    // theirs (X_User_Id).
    bool is_ambiguous = false;
    const Peer* peer = nullptr;  // never null
};

// On what ground a request was let in: enough to ask later whether it still stands.
struct Identity {
    enum class Source : std::uint8_t { none, token, stored_token, jwt, gateway, certificate };
    Source source = Source::none;
    TokenHash hash{};            // of a token or a JWT
    std::string user_id;         // of a gateway's user, or of a JWT's whose grants the permission service tells; of a certificate its name
    std::string application_id;  // theirs
    // Of a JWT. Shared with the memory of verified tokens, which may forget it while a watch goes on.
    std::shared_ptr<const JwtClaims> claims;
};

}  // namespace kvd
