#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "kv/sqlite.h"
#include "kv/store.h"
#include "kv/version.h"
#include "kvd/admin.h"
#include "kvd/amqp_sink.h"
#include "kvd/audit_copy.h"
#include "kvd/auth/sources.h"
#include "kvd/commands.h"
#include "kvd/config.h"
#include "kvd/files.h"
#include "kvd/gate.h"
#include "kvd/log.h"
#include "kvd/metrics.h"
#include "kvd/server.h"
#include "kvd/service.h"
#include "kvd/session.h"
#include "kvd/tool_keys.h"
#include "kvd/tool_migrate.h"
#include "kvd/tool_backup.h"
#include "kvd/tool_verify.h"
#include "kvd/tool_server.h"
#include "kvd/tool_sink.h"
#include "kvd/tls.h"
#include "kvd/tool.h"
#include "text.h"

namespace kvd {
namespace {

// No core file and no /proc entry of ours may show what is in memory; and a peer that went away is no reason to die.
void harden_process() {
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    umask(S_IRWXG | S_IRWXO);  // what is made from here on is for its owner only
    std::signal(SIGPIPE, SIG_IGN);
}

// Every connection takes a descriptor, and the usual soft limit is for programs that use select().
void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

SessionLimits session_limits(const Settings& settings) {
    SessionLimits limits;
    limits.framing.head_bytes_max = settings.header_bytes_max;
    limits.framing.target_bytes_max = settings.target_bytes_max;
    limits.idle_timeout = settings.idle_timeout;
    limits.header_timeout = settings.header_timeout;
    limits.body_timeout = settings.body_timeout;
    limits.write_timeout = settings.write_timeout;
    limits.stall_timeout = settings.stall_timeout;
    limits.bytes_per_second_min = settings.bytes_per_second_min;
    limits.connections_per_address_max = settings.connections_per_address_max;
    limits.body_bytes_in_flight_max = settings.body_bytes_in_flight_max;
    return limits;
}

Server::Options server_options(const Settings& settings, const Tls* tls) {
    Server::Options options;
    options.threads = settings.threads != 0 ? settings.threads : std::max(1u, std::thread::hardware_concurrency());
    options.connections_max = settings.connections_max;
    options.drain_timeout = settings.drain_timeout;
    options.logs_requests = settings.access_log;
    options.tls = tls;
    return options;
}

// Of a file that everybody on this machine may read or write nobody can say what is in it, or who knows. The group may: that is how
// some hand secrets to a service. `tokens` holds only hashes.
kv::Result<void> check_exposure(const std::vector<std::string>& paths, const std::string& tokens,
                                std::vector<std::string>& shared_with_group) {
    for (const std::string& path : paths) {
        const Exposure exposure = path.empty() ? Exposure::to_nobody : exposure_of(path);
        if (exposure == Exposure::to_everybody)
            return kv::Error{kv::Errc::invalid_request, path + ": every user of this machine may read or write it: chmod 600"};
        if (exposure == Exposure::to_group && path != tokens) shared_with_group.push_back(path);
    }
    return {};
}

// The files of a store of its own; none where it is elsewhere.
std::vector<std::string> database_files(const std::string& storage) {
    constexpr std::string_view scheme = "sqlite:";
    if (!storage.starts_with(scheme)) return {};
    const std::string path = storage.substr(scheme.size());
    return {path, path + "-wal"};
}

// Null: events go nowhere.
std::unique_ptr<AmqpSink> make_amqp_sink(std::optional<AmqpSettings> amqp, Log& log) {
    if (!amqp) return nullptr;
    if (amqp->is_exposed())
        log.warning("events and the password for RabbitMQ travel in the clear beyond this machine: use amqps://", {{"broker", amqp->place()}});
    return std::make_unique<AmqpSink>(*std::move(amqp), log);
}

void log_audit_heads(const kv::Store& store, Log& log) {
    for (const kv::AuditHead& head : store.audit_heads()) {
        if (head.sequence == 0) continue;
        const std::string_view mac(reinterpret_cast<const char*>(head.mac.data()), head.mac.size());
        log.info("audit-head", {{"stream", head.stream.to_string()},
                                {"sequence", std::to_string(head.sequence)},
                                {"mac", kv::hex_encode(mac)}});
    }
}

void reload_tokens(TokenStore& tokens, Metrics& metrics, Log& log) {
    metrics.token_reloads.fetch_add(1, std::memory_order_relaxed);
    if (const auto reloaded = tokens.reload(); !reloaded) {
        metrics.token_reload_failures.fetch_add(1, std::memory_order_relaxed);
        log.error("the tokens file does not read; the old one stays", {{"reason", reloaded.error().message}});
        return;
    }
    log.info("the tokens file was read again", {{"usable", std::to_string(tokens.usable())}});
}

void stop_copy(AuditCopy& copy, Log& log) {
    copy.stop();
    if (const std::uint64_t dropped = copy.stats().dropped; dropped > 0)
        log.warning("some audit rows were not copied", {{"rows", std::to_string(dropped)}});
}

// A certificate that ends soon is somebody's outage in the making.
void warn_of_certificate(const Tls& tls, Log& log) {
    constexpr std::chrono::hours notice(14 * 24);
    const kv::Time ends = tls.expires_at();
    if (ends - std::chrono::system_clock::now() < notice) log.warning("the TLS certificate ends soon, or has ended", {{"at", kv::format_time(ends)}});
}

void reload_tls(Tls& tls, Metrics& metrics, Log& log) {
    if (const auto reloaded = tls.reload(); !reloaded) {
        metrics.tls_reload_failures.fetch_add(1, std::memory_order_relaxed);
        log.error("certificate or key do not read; the old ones stay", {{"reason", reloaded.error().message}});
        return;
    }
    log.info("the certificate was read again", {{"until", kv::format_time(tls.expires_at())}});
    warn_of_certificate(tls, log);
}

// TLS wherever there is a certificate; the operator's listener on loopback, and Unix sockets, do without.
Endpoint secured(Endpoint endpoint, const Tls* tls, bool is_admin) {
    endpoint.is_tls = tls != nullptr && !endpoint.is_unix() && !(is_admin && endpoint.is_loopback());
    return endpoint;
}

// Announced only when a request would be served: the port may have been picked by the system.
void announce(const std::vector<Endpoint>& api, const kv::SecretBytes& dev_token) {
    if (!dev_token.empty())
        std::fprintf(stderr,
                     "kvd: --dev: not for production. Everything is in memory, and this token may do anything:\n%.*s\n",
                     static_cast<int>(dev_token.size()), dev_token.reveal().data());
    for (const Endpoint& endpoint : api) std::fprintf(stdout, "kvd: listening on %s\n", endpoint.url().c_str());
    std::fflush(stdout);
}

int fail_locked() {
    return fail(exit_config,
                "nobody could log in: set KVD_ROOT_TOKEN (32 characters or more), or name a file with --tokens whose lines "
                "`kvd token` makes");
}

int serve(const Settings& settings, SecretVariables variables) {
    std::vector<std::string> private_files = {settings.tokens, variables.master_key_file.value_or(""),
                                              variables.previous_master_key_file.value_or(""), settings.amqp_password_file,
                                              settings.amqp_key, settings.tls_key, settings.permissions_token_file,
                                              settings.jwt_secret_file};
    for (std::string& path : database_files(settings.storage)) private_files.push_back(std::move(path));
    std::vector<std::string> shared_with_group;
    if (const auto checked = check_exposure(private_files, settings.tokens, shared_with_group); !checked)
        return fail(exit_config, checked.error().message);
    auto secrets = load_secrets(settings, std::move(variables));
    if (!secrets) return fail(exit_config, secrets.error().message);
    // Whether the store has tokens of its own is known only once it is open; a new one has none.
    const bool is_new = settings.storage == "memory:" || (settings.storage.starts_with("sqlite:") && access(settings.storage.substr(7).c_str(), F_OK) != 0);
    if (secrets->needs_stored_token && is_new) return fail_locked();
    if (settings.check_config) return fail(exit_ok, "the configuration is good");

    raise_descriptor_limit();
    kv::configure_sqlite();
    Log log(settings.log_level, settings.log_format);
    for (const std::string& path : shared_with_group)
        log.warning("the group may read or write a file that should be private: chmod 600", {{"file", path}});
    Metrics metrics;
    const SessionLimits limits = session_limits(settings);
    Tls* const tls = secrets->tls.get();
    Server server(server_options(settings, tls), limits, metrics, log);

    kv::Options options = settings.store;
    options.keys = secrets->keys;
    options.previous_keys = secrets->previous_keys;
    options.log = [&log](kv::LogLevel level, std::string_view message) { log.write(level, message); };
    std::unique_ptr<AuditCopy> copy;  // before the store, which calls it
    if (!settings.audit_copy.empty()) {
        auto opened = AuditCopy::open(*AuditCopyTarget::parse(settings.audit_copy), log);
        if (!opened) return fail(exit_config, opened.error().message);
        copy = *std::move(opened);
        options.audit_copy = [&copy = *copy](std::span<const kv::AuditRecord> records) { copy.add(records); };
    }
    const auto amqp = make_amqp_sink(std::exchange(secrets->amqp, std::nullopt), log);  // before the store, which calls it
    if (amqp) options.sinks = {amqp.get()};
    auto store = kv::open(settings.storage, std::move(options));
    if (!store) return fail(exit_code_of(store.error().code), shown_storage(settings.storage) + ": " + store.error().message);
    kv::Store& kv = **store;
    if (secrets->needs_stored_token) {
        const auto has_tokens = kv.has_tokens();
        if (!has_tokens) return fail(exit_code_of(has_tokens.error().code), has_tokens.error().message);
        if (!*has_tokens) return fail_locked();
    }
    std::atomic<bool> draining{false};
    const Health health([&kv, &draining]() -> kv::Result<void> {
        if (draining.load(std::memory_order_relaxed)) return kv::Error{kv::Errc::shutting_down, "kvd is shutting down"};
        return kv.ready();
    });
    IdentitySources identities(settings, {std::move(secrets->permissions_token), std::move(secrets->jwt_secret)}, *secrets->tokens, kv, log);
    Metrics::Sources sources{[&kv] { return kv.stats(); }, [&health] { return health.ready(); }, {}, {}, {}, {}, {}};
    if (identities.stats().permissions) {
        sources.permissions = [&identities]() -> Metrics::PermissionStats {
            const auto stats = identities.stats().permissions;
            return {stats->asked, stats->failures};
        };
    }
    if (identities.stats().keys) {
        sources.jwt_keys = [&identities]() -> Metrics::KeyStats {
            const auto stats = identities.stats().keys;
            return {stats->refreshes, stats->failures, stats->has_keys};
        };
    }
    if (tls != nullptr) sources.certificate_end = [tls] { return tls->expires_at(); };
    if (amqp) sources.amqp = [&amqp = *amqp] { return amqp.stats(); };
    if (copy) sources.audit_copy = [&copy = *copy] { return copy.stats(); };
    metrics.set_sources({KV_VERSION, kv.key_id(), std::string(kv.crypto_backend())}, std::move(sources));
    Router router(kv);
    WatchPace pace;
    pace.heartbeat = settings.watch_heartbeat;
    Gate gate(identities.authenticator(), {settings.rate_limit, settings.rate_limit_address, settings.failed_logins}, metrics,
              *TrustedProxies::parse(settings.trusted_proxies));
    ApiService api(router, gate, health, settings.limits, pace, *Cors::parse(settings.cors_origins));
    AdminService admin({kv, router, gate, health, metrics, settings.limits});
    std::vector<Endpoint> listening;
    const auto endpoints = Endpoint::parse_list(settings.listen);
    for (const Endpoint& endpoint : *endpoints) {
        auto opened = server.listen(secured(endpoint, tls, false), api);
        if (!opened) return fail(exit_config, opened.error().message);
        listening.push_back(*std::move(opened));
    }
    if (settings.admin_listen != "off") {
        const auto admin_listening = server.listen_admin(secured(*Endpoint::parse(settings.admin_listen), tls, true), admin);
        if (!admin_listening) return fail(exit_config, admin_listening.error().message);
        log.info("metrics and health", {{"url", admin_listening->url()}});
    }
    log.info("serving", {{"version", KV_VERSION},
                         {"storage", settings.storage.substr(0, settings.storage.find(':'))},
                         {"keyId", kv.key_id()},
                         {"crypto", std::string(kv.crypto_backend())}});
    if (secrets->previous_keys)
        log.info("the master key is being changed: both open the store",
                 {{"keyId", kv.key_id()}, {"previousKeyId", key_id_of(*secrets->previous_keys)}});
    if (tls != nullptr) warn_of_certificate(*tls, log);
    announce(listening, secrets->dev_token);
    secrets->dev_token.reset();
    if (copy) copy->start();  // not before: what scripts read first is where we listen

    const bool was_clean = server.run({.on_hangup =
                                           [&] {
                                               reload_tokens(*secrets->tokens, metrics, log);
                                               if (tls != nullptr) reload_tls(*tls, metrics, log);
                                               identities.reload();
                                               if (copy) copy->reopen();
                                           },
                                       .on_drain =
                                           [&] {
                                               log.info("stopping: finishing what is in flight");
                                               draining.store(true, std::memory_order_relaxed);
                                               admin.drain();
                                               kv.release_waiters();
                                           },
                                       .on_minute = [&] { log_audit_heads(kv, log); },
                                       .on_second = [&] { identities.tick(); }});
    if (!was_clean) log.warning("some requests took too long and were cut off");
    admin.stop();
    identities.stop();
    kv.stop();
    server.stop();
    log_audit_heads(kv, log);
    if (copy) stop_copy(*copy, log);
    log.info("stopped");
    return exit_ok;
}

int run(const std::vector<std::string>& arguments) {
    SecretVariables secrets = SecretVariables::take();
    auto parsed = parse_command(arguments, read_environment());
    if (const auto* error = std::get_if<ConfigError>(&parsed)) return fail(error->code, error->message);
    Command& command = std::get<Command>(parsed);
    command.storage = with_password(std::move(command.storage), secrets.postgres_password);
    command.settings.storage = with_password(std::move(command.settings.storage), secrets.postgres_password);
    switch (command.kind) {
        case Command::Kind::print:
            std::fputs(command.text.c_str(), stdout);
            return exit_ok;
        case Command::Kind::keygen:
            return run_keygen(command);
        case Command::Kind::token:
            return run_token(command);
        case Command::Kind::key_id:
            return run_key_id(secrets);
        case Command::Kind::check_key:
            return run_check_key(command, secrets);
        case Command::Kind::verify:
            if (!command.server.empty()) return run_server_verify(command, std::move(secrets));
            return run_verify(command, secrets);
        case Command::Kind::audit_key_export:
            return run_audit_key_export(command, secrets);
        case Command::Kind::forget_master_key:
            if (!command.server.empty()) return run_server_forget_master_key(command, std::move(secrets));
            return run_forget_master_key(command, secrets);
        case Command::Kind::backup:
            if (!command.server.empty()) return run_server_backup(command, std::move(secrets));
            return run_backup(command, std::move(secrets));
        case Command::Kind::restore:
            return run_restore(command, std::move(secrets));
        case Command::Kind::new_epoch:
            return run_new_epoch(command, std::move(secrets));
        case Command::Kind::migrate:
            return run_migrate(command);
        case Command::Kind::trim_audit:
            return run_trim_audit(command, secrets);
        case Command::Kind::sink_list:
            return run_sink_list(command);
        case Command::Kind::sink_forget:
            return run_sink_forget(command, secrets);
        case Command::Kind::rotate_data_key:
            return run_server_rotate_data_key(command, std::move(secrets));
        case Command::Kind::serve:
            break;
    }
    return serve(command.settings, std::move(secrets));
}

}  // namespace
}  // namespace kvd

int main(int argc, char** argv) {
    kvd::harden_process();
    try {
        return kvd::run(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "kvd: internal error: %s\n", error.what());
    } catch (...) {
        std::fputs("kvd: internal error\n", stderr);
    }
    return kvd::exit_internal;
}
