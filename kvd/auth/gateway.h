#pragma once
#include <boost/asio/ip/network_v4.hpp>
#include <boost/asio/ip/network_v6.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/result.h"
#include "kvd/auth/identity.h"

namespace kvd {

// On whose behalf a gateway asks.
struct GatewayUser {
    std::string user_id;
    std::string application_id;  // empty: none was named
};

// Gateway judges X-User-Id and X-Application-Id: whether this peer may say on whose behalf it asks. A gateway proves itself by a
// client certificate with one of the names, or by coming through a Unix socket. Threads: any.
class Gateway {
public:
    // `is_on`: false: the fields are passed over, whatever they hold.
    explicit Gateway(bool is_on = false, std::vector<std::string> names = {}) : is_on_(is_on), names_(std::move(names)) {}

    // Nothing: the request says nothing of that. Errc::invalid_request, with the field, where the peer may not say it or it is
    // ambiguous or malformed.
    kv::Result<std::optional<GatewayUser>> judge(const Presented& presented) const;

private:
    bool is_on_;
    std::vector<std::string> names_;
};

// TrustedProxies tells where a request came from that a proxy handed on: X-Forwarded-For is believed of those in the list.
// Threads: any.
class TrustedProxies {
public:
    // "10.0.0.0/8,2001:db8::/32,192.0.2.7,unix": networks, addresses, and whoever comes through a Unix socket.
    static kv::Result<TrustedProxies> parse(std::string_view list);
    TrustedProxies() = default;

    // The nearest address that is no trusted proxy's; the connection's own where that cannot be told.
    std::string address_of(const Presented& presented) const;

private:
    bool trusts(const std::string& address) const;

    std::vector<boost::asio::ip::network_v4> v4_;
    std::vector<boost::asio::ip::network_v6> v6_;
    bool trusts_unix_ = false;
};

// Whether a name of a certificate is written as Peer::names has them: with its kind.
bool is_certificate_name(std::string_view name);
// "a,b,c" apart; an empty text is an empty list.
std::vector<std::string> split_list(std::string_view text);

}  // namespace kvd
