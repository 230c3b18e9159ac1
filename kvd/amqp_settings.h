#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kv/result.h"
#include "kv/secret.h"

namespace kvd {

struct Settings;

// "amqp://USER:PASSWORD@HOST:PORT/VHOST" or "amqps://...", as the RabbitMQ people define it: all but the host may be missing,
// everything but the port may be percent-encoded, no vhost is "/", and an empty one is empty.
struct AmqpUri {
    bool is_tls = false;
    std::optional<std::string> user = {};
    std::optional<kv::SecretBytes> password = {};
    std::string host = {};   // a name, or an address without brackets
    std::uint16_t port = 0;  // 5672, and 5671 with TLS, unless it says so
    std::string vhost = "/";

    // Errc::invalid_request; the message quotes nothing, for any part of it may be a password in the wrong place.
    static kv::Result<AmqpUri> parse(std::string_view text);
};

// What a sink of events is opened with.
struct AmqpSettings {
    AmqpUri uri = {};        // with user and password
    std::string ca_file = {};           // empty: who the system trusts
    std::string certificate_file = {};  // empty: none is shown
    std::string key_file = {};
    std::string exchange = "kv.events";
    bool hides_keys = false;        // key paths and users stay at home
    bool drops_unroutable = false;  // what no queue takes counts as arrived
    std::chrono::seconds heartbeat{10};

    // Where it goes, for logs: without user and password.
    std::string place() const;
    // Whether everything travels in the clear beyond this machine.
    bool is_exposed() const;
};

// What the settings of `kvd serve` come to; empty: no events are sent. `password` is the one of KVD_AMQP_PASSWORD. Reads
// the file of the password and tries those of TLS. Errors name the option.
kv::Result<std::optional<AmqpSettings>> load_amqp(const Settings& settings, const std::optional<kv::SecretBytes>& password);

}  // namespace kvd
