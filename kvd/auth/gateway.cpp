#include "kvd/auth/gateway.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <utility>

#include "text.h"

namespace kvd {
namespace {

namespace ip = boost::asio::ip;
using kv::Errc;
using kv::Error;
using kv::Result;

constexpr const char* user_field = "X-User-Id";
constexpr const char* application_field = "X-Application-Id";
constexpr std::size_t identifier_bytes_max = 255;

Error refused(const char* field, std::string why) { return {.code = Errc::invalid_request, .message = std::move(why), .field = field}; }

bool is_identifier(std::string_view text) {
    return !text.empty() && text.size() <= identifier_bytes_max && !kv::has_control_character(text);
}

std::string_view trim(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

template <class Network, class Address>
bool holds(const Network& network, const Address& address) {
    if constexpr (std::is_same_v<Network, ip::network_v4>) return ip::network_v4(address, network.prefix_length()).canonical() == network.canonical();
    else return ip::network_v6(address, network.prefix_length()).canonical() == network.canonical();
}

}  // namespace

bool is_certificate_name(std::string_view name) {
    for (const std::string_view kind : {"DNS:", "URI:", "IP:", "email:"})
        if (name.starts_with(kind) && name.size() > kind.size()) return true;
    return false;
}

std::vector<std::string> split_list(std::string_view text) {
    std::vector<std::string> items;
    while (!text.empty()) {
        const std::size_t comma = std::min(text.find(','), text.size());
        items.emplace_back(text.substr(0, comma));
        text.remove_prefix(std::min(comma + 1, text.size()));
    }
    return items;
}

Result<std::optional<GatewayUser>> Gateway::judge(const Presented& presented) const {
    if (!is_on_) return std::optional<GatewayUser>();
    const bool says_user = presented.user_id.has_value();
    if (!says_user && !presented.application_id && !presented.is_ambiguous) return std::optional<GatewayUser>();
    const char* const field = says_user || !presented.application_id ? user_field : application_field;
    const std::vector<std::string>& names = presented.peer->names;
    const bool is_proved = presented.peer->is_unix || std::any_of(names.begin(), names.end(), [this](const std::string& name) {
        return std::find(names_.begin(), names_.end(), name) != names_.end();
    });
    if (!is_proved) return refused(field, "only a gateway says on whose behalf it asks");
    if (presented.is_ambiguous) return refused(field, "it must be said once, under its own name");
    if (!says_user) return refused(user_field, "an application alone says nothing of who asks");
    if (!presented.authorization.empty()) return refused(user_field, "this and Authorization both say who asks: send one");
    if (!is_identifier(*presented.user_id)) return refused(user_field, "must be 1 to 255 bytes without control characters");
    if (presented.application_id && (!is_identifier(*presented.application_id) || *presented.application_id == "*"))
        return refused(application_field, "must be 1 to 255 bytes without control characters, and no *");
    return std::optional(GatewayUser{std::string(*presented.user_id), std::string(presented.application_id.value_or(std::string_view()))});
}

Result<TrustedProxies> TrustedProxies::parse(std::string_view list) {
    TrustedProxies proxies;
    for (const std::string& item : split_list(list)) {
        boost::system::error_code error;
        if (item == "unix") {
            proxies.trusts_unix_ = true;
        } else if (const auto address = ip::make_address(item, error); !error) {
            if (address.is_v4()) proxies.v4_.emplace_back(address.to_v4(), 32);
            else proxies.v6_.emplace_back(address.to_v6(), 128);
        } else if (const auto v4 = ip::make_network_v4(item, error); !error) {
            proxies.v4_.push_back(v4);
        } else if (const auto v6 = ip::make_network_v6(item, error); !error) {
            proxies.v6_.push_back(v6);
        } else {
            return Error{Errc::invalid_request, "\"" + item + "\" is no network like 10.0.0.0/8, no address and not unix"};
        }
    }
    return proxies;
}

bool TrustedProxies::trusts(const std::string& text) const {
    boost::system::error_code error;
    const ip::address address = ip::make_address(text, error);
    if (error) return false;
    if (address.is_v4()) return std::any_of(v4_.begin(), v4_.end(), [&](const auto& network) { return holds(network, address.to_v4()); });
    return std::any_of(v6_.begin(), v6_.end(), [&](const auto& network) { return holds(network, address.to_v6()); });
}

// From the right: each proxy adds whom it heard, so that what stands left of the first that is not trusted anybody may have made up.
std::string TrustedProxies::address_of(const Presented& presented) const {
    const Peer& peer = *presented.peer;
    if (presented.forwarded_for.empty() || !(peer.is_unix ? trusts_unix_ : trusts(peer.address))) return peer.address;
    std::string nearest = peer.address;
    std::string_view rest = presented.forwarded_for;
    for (;;) {
        const std::size_t comma = rest.rfind(',');
        boost::system::error_code error;
        const ip::address address = ip::make_address(std::string(trim(comma == std::string_view::npos ? rest : rest.substr(comma + 1))), error);
        if (error) return nearest;
        nearest = address.to_string();
        if (!trusts(nearest) || comma == std::string_view::npos) return nearest;
        rest = rest.substr(0, comma);
    }
}

}  // namespace kvd
