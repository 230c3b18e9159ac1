#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/options.h"
#include "kv/secret.h"
#include "kvd/log.h"
#include "kvd/routes.h"

namespace kvd {

// sysexits.h, as far as we tell failures apart. Not good: a tool looked, and what it saw is no good.
enum ExitCode : int { exit_ok = 0, exit_not_good = 1, exit_usage = 64, exit_internal = 70, exit_config = 78 };

// Everything `kvd serve` can be told. config.cpp holds one row for each, with its limits.
struct Settings {
    std::string listen = "127.0.0.1:8420";        // one or more, with commas between them
    std::string admin_listen = "127.0.0.1:8421";  // or "off"
    std::string storage;                          // empty: sqlite:kv.db, and memory: with --dev
    std::string tokens;
    std::uint64_t threads = 0;  // 0: one per core
    kv::LogLevel log_level = kv::LogLevel::info;
    LogFormat log_format = LogFormat::text;
    bool access_log = false;
    bool dev = false;
    bool insecure_http = false;
    bool check_config = false;
    std::string audit_copy;  // empty: none

    std::string tls_certificate;  // empty: the API speaks plain HTTP
    std::string tls_key;
    std::string tls_client_ca;
    bool tls_needs_client = true;
    bool gateway_identity = false;
    std::string gateway_names;
    std::string trusted_proxies;
    std::string permissions_url;  // empty: nobody is asked
    std::string permissions_token_file;
    std::string services_ca;
    std::string jwt_jwks;  // a file or an https URL
    std::string jwt_secret_file;
    std::string jwt_issuer;
    std::string jwt_audience;
    std::string jwt_permissions_claim = "permissions";
    std::string jwt_grants_claim = "kv_grants";
    std::string jwt_application_claim = "application_id";

    std::string amqp;  // where events go, perhaps with a password; empty: nowhere
    std::string amqp_password_file;
    std::string amqp_ca;
    std::string amqp_certificate;
    std::string amqp_key;
    std::string amqp_exchange = "kv.events";
    bool amqp_drops_unroutable = false;
    bool events_hide_keys = false;

    std::chrono::milliseconds idle_timeout = std::chrono::seconds(60);
    std::chrono::milliseconds header_timeout = std::chrono::seconds(10);
    std::chrono::milliseconds body_timeout = std::chrono::seconds(10);
    std::chrono::milliseconds write_timeout = std::chrono::seconds(30);
    std::chrono::milliseconds stall_timeout = std::chrono::seconds(60);
    std::chrono::milliseconds watch_heartbeat = std::chrono::seconds(15);
    std::chrono::milliseconds drain_timeout = std::chrono::seconds(30);
    std::uint64_t bytes_per_second_min = 64u << 10;
    std::uint64_t connections_max = 10'000;
    std::string cors_origins;           // whose pages may use the API, with commas between them
    std::uint64_t rate_limit = 0;       // requests a second of one caller; 0: no limit
    std::uint64_t rate_limit_address = 0;  // the same, of one address
    std::uint64_t failed_logins = 10;   // a second, of one address: further ones are answered late; 0: never
    std::uint64_t connections_per_address_max = 0;  // 0: no limit
    std::uint64_t header_bytes_max = 16u << 10;
    std::uint64_t target_bytes_max = 8u << 10;
    std::uint64_t body_bytes_in_flight_max = 256u << 20;
    Limits limits;      // of bodies
    kv::Options store;  // what libkv is opened with; keys and log are set later
};

// A command line that was understood.
struct Command {
    enum class Kind : std::uint8_t {
        serve, keygen, token, key_id, check_key, forget_master_key, rotate_data_key, verify, audit_key_export,
        backup, restore, new_epoch, migrate, trim_audit, sink_list, sink_forget, print
    };
    Kind kind = Kind::serve;
    Settings settings;                // serve; trim-audit: of the audit log
    std::string out;                  // keygen, audit-key export: a file; empty: stdout
    std::string user;                 // token
    std::vector<std::string> grants;  // token
    std::string expires_at;           // token
    std::string certificate;          // token: the name of a client's, instead of a token; empty: none
    std::string storage;              // of every tool
    std::string file;                 // backup: to be made; restore: to be read; "-": stdout, stdin
    std::string text;                 // print: help or version
    std::string server;               // of a running kvd: http://ADDRESS:PORT of its admin listener
    std::string ns;                   // rotate-data-key
    bool waits = false;               // rotate-data-key: until it is complete
    std::string key_id;               // forget-master-key
    std::string sink;                 // sink forget: its name
    std::string audit_key;            // verify: a file; empty: with the master key
    std::vector<std::string> anchors;  // verify: logs; "-" is stdin
    bool json = false;                // verify
    bool prints = false;              // migrate: what an administrator is to run, instead of doing it
    std::string role = "kvd";         // migrate: who serves it then
    bool removes_audit = false;       // migrate: and may remove old rows of the audit log
};

// Why there is none: one line for stderr, and what to exit with.
struct ConfigError {
    ExitCode code;
    std::string message;
};

using Environment = std::map<std::string, std::string>;

// Flags win over environment, environment over file, file over what is built in.
std::variant<Command, ConfigError> parse_command(const std::vector<std::string>& arguments,
                                                 const Environment& environment);

// The environment without its secrets, and every other variable of ours. One that may hold a password is overwritten there.
Environment read_environment();

// The secrets of the environment; an empty variable is as good as none. Taking them overwrites their bytes where they stand, so that neither /proc nor a child
// shows them, and unsets them.
struct SecretVariables {
    std::optional<kv::SecretBytes> master_key;   // KV_MASTER_KEY
    std::optional<kv::SecretBytes> root_token;   // KVD_ROOT_TOKEN
    std::optional<kv::SecretBytes> token;        // KVD_TOKEN, for commands that take --server
    std::optional<kv::SecretBytes> postgres_password;    // PGPASSWORD
    std::optional<kv::SecretBytes> amqp_password;        // KVD_AMQP_PASSWORD
    std::optional<std::string> master_key_file;  // KV_MASTER_KEY_FILE, which is no secret
    std::optional<kv::SecretBytes> previous_master_key;   // KV_MASTER_KEY_PREVIOUS
    std::optional<std::string> previous_master_key_file;  // KV_MASTER_KEY_PREVIOUS_FILE

    static SecretVariables take();
};

}  // namespace kvd
