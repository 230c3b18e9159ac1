#include "kvd/config.h"

#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kv/clock.h"
#include "kv/version.h"
#include "kvd/auth/tokens.h"
#include "kvd/files.h"
#include "kvd/server.h"
#include "kvd/settings.h"

extern char** environ;

namespace kvd {
namespace {

// ---- layers ----

// A value and where it came from: "--threads", "KVD_THREADS", "kvd.toml line 3 (threads)".
struct Given {
    std::string value;
    std::string source;
    ExitCode blame = exit_config;
};
using Layer = std::map<std::string, Given>;  // by setting

std::optional<ConfigError> read_environment_layer(const Environment& environment, Layer& layer) {
    for (const auto& [variable, value] : environment) {
        if (variable.rfind("KVD_", 0) != 0 || variable == "KVD_CONFIG" || variable == "KVD_ROOT_TOKEN" ||
            variable == "KVD_TOKEN" || variable == "KVD_AMQP_PASSWORD")
            continue;
        const auto& table = settings_table();
        const auto setting = std::find_if(table.begin(), table.end(), [&name = variable](const Setting& row) {
            return row.variable_name() == name;
        });
        if (setting == table.end())
            return ConfigError{exit_config, "unknown variable " + variable + " (see kvd serve --help-all)"};
        layer[setting->name] = {value, variable};
    }
    return {};
}

std::string_view trim(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// The value of one line: "basic" or 'literal' or bare, and a comment. Not CLI11's reader, which cuts values at '#' even
// inside quotes, splits them at spaces and skips short lines.
std::optional<std::string> parse_file_value(std::string_view text) {
    std::string value;
    if (!text.empty() && (text.front() == '"' || text.front() == '\'')) {
        const char quote = text.front();
        std::size_t at = 1;
        for (; at < text.size() && text[at] != quote; ++at) {
            if (quote == '"' && text[at] == '\\') {
                ++at;
                if (at == text.size() || (text[at] != '"' && text[at] != '\\')) return std::nullopt;
            }
            value += text[at];
        }
        if (at == text.size()) return std::nullopt;
        const std::string_view rest = trim(text.substr(at + 1));
        if (!rest.empty() && rest.front() != '#') return std::nullopt;
        return value;
    }
    value = trim(text.substr(0, text.find('#')));
    if (value.empty() || value.find_first_of("\"'[]{}, \t") != std::string::npos) return std::nullopt;
    return value;
}

std::optional<ConfigError> read_file_layer(const std::string& path, Layer& layer) {
    constexpr std::size_t config_bytes_max = 1u << 20;
    const auto file = read_file(path, config_bytes_max);
    if (!file) return ConfigError{exit_config, file.error().message};
    std::string_view rest = file->reveal();
    for (std::size_t number = 1; !rest.empty(); ++number) {
        const std::string_view line = trim(rest.substr(0, rest.find('\n')));
        rest.remove_prefix(std::min(rest.find('\n'), rest.size() - 1) + 1);
        if (line.empty() || line.front() == '#') continue;
        const std::string where = path + " line " + std::to_string(number);
        const std::size_t equals = line.find('=');
        if (equals == std::string_view::npos) return ConfigError{exit_config, where + ": not of the form key = value"};
        const std::string name(trim(line.substr(0, equals)));
        if (find_setting(name) == nullptr || name == "check-config")
            return ConfigError{exit_config, where + ": unknown key \"" + name + "\""};
        const auto value = parse_file_value(trim(line.substr(equals + 1)));
        if (!value)
            return ConfigError{exit_config,
                               where + ": the value of " + name + " is malformed (put text in double quotes)"};
        if (layer.count(name) != 0) return ConfigError{exit_config, where + ": " + name + " is set twice"};
        layer[name] = {*value, where + " (" + name + ")"};
    }
    return {};
}

// ---- the command line ----

class CommandLine {
public:
    CommandLine() {
        app_.name("kvd");
        app_.require_subcommand(0, 1);
        app_.set_help_flag("-h,--help", "Print this help");
        app_.add_flag("--version", print_version_, "Print the version");
        add_serve();
        keygen_ = app_.add_subcommand("keygen", "Make a master key");
        keygen_->add_option("--out", command_.out, "A file to write it to, for its owner only (stdout)");
        token_ = app_.add_subcommand("token", "Make a token, and its line for the tokens file");
        token_->add_option("--user", command_.user, "Whom it stands for")->required();
        token_
            ->add_option("--grant", command_.grants,
                         "What it may: '*', a JSON object as in the tokens file, or\n"
                         "permissions=kv-entry:read;applicationId=app-1;namespaceId=app-1~production;keys=config/**")
            ->required()
            ->expected(1)
            ->take_all();
        token_->add_option("--certificate", command_.certificate,
                           "Make no token: it is for whoever shows a client certificate of this name, like DNS:worker-7.example");
        token_->add_option("--expires-at", command_.expires_at, "RFC 3339 time at which it ends (never)");
        add_key_commands();
        add_backup();
        add_migrate();
        add_trim_audit();
        add_sinks();
        add_verify_commands();
        add_server_commands();
        routes_ = app_.add_subcommand("routes", "Print the table of routes as JSON");
        routes_->group("");  // for tests and tools: not in the help
        app_.footer(
            "The master key comes from KV_MASTER_KEY (base64 or hex) or the file that KV_MASTER_KEY_FILE names.\n"
            "While it is being changed the one before comes from KV_MASTER_KEY_PREVIOUS or KV_MASTER_KEY_PREVIOUS_FILE.\n"
            "KVD_ROOT_TOKEN (32 characters or more) gives one token every permission.");
    }

    // Empty: parsed.
    std::optional<std::variant<Command, ConfigError>> parse(const std::vector<std::string>& arguments) {
        try {
            app_.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
        } catch (const CLI::CallForHelp&) {
            return printed(app_.help());
        } catch (const CLI::CallForAllHelp&) {
            return printed(app_.help("", CLI::AppFormatMode::All));
        } catch (const CLI::ExtrasError&) {
            return ConfigError{exit_usage, unexpected(app_.remaining(true)) + " (see kvd --help)"};
        } catch (const CLI::ConversionError& error) {
            const std::string line = error.what();  // "Could not convert: --json = what was given"
            return ConfigError{exit_usage, line.substr(0, line.find(" = ")) + ": a flag is true or false (see kvd --help)"};
        } catch (const CLI::ParseError& error) {
            std::string line = error.what();
            std::replace(line.begin(), line.end(), '\n', ' ');
            return ConfigError{exit_usage, line + " (see kvd --help)"};
        }
        if (print_version_) return printed("kvd " KV_VERSION "\n");
        if (routes_->parsed()) return printed(routes_json() + "\n");
        if (app_.get_subcommands().empty())
            return ConfigError{exit_usage, "a command is needed: serve, keygen or token (see kvd --help)"};
        return std::nullopt;
    }

    bool is_serve() const { return serve_->parsed(); }
    const std::string& config() const { return config_; }
    const Layer& flags() const { return flags_; }

    Command take() {
        command_.kind = keygen_->parsed()              ? Command::Kind::keygen
                        : token_->parsed()             ? Command::Kind::token
                        : key_id_->parsed()            ? Command::Kind::key_id
                        : check_key_->parsed()         ? Command::Kind::check_key
                        : forget_master_key_->parsed() ? Command::Kind::forget_master_key
                        : backup_->parsed()            ? Command::Kind::backup
                        : restore_->parsed()           ? Command::Kind::restore
                        : new_epoch_->parsed()         ? Command::Kind::new_epoch
                        : migrate_->parsed()           ? Command::Kind::migrate
                        : trim_audit_->parsed()        ? Command::Kind::trim_audit
                        : sink_list_->parsed()         ? Command::Kind::sink_list
                        : sink_forget_->parsed()       ? Command::Kind::sink_forget
                        : rotate_data_key_->parsed()   ? Command::Kind::rotate_data_key
                        : verify_->parsed()            ? Command::Kind::verify
                        : audit_key_->parsed()         ? Command::Kind::audit_key_export
                                                       : Command::Kind::serve;
        return std::move(command_);
    }

private:
    void add_serve() {
        serve_ = app_.add_subcommand("serve", "Serve the API");
        serve_->set_help_all_flag("--help-all", "Print every option");
        serve_->add_option("--config", config_,
                           "Read settings from a file of `key = value` lines, keys as the options here (KVD_CONFIG)");
        for (const Setting& setting : settings_table()) {
            CLI::Option* option = add_setting(serve_, setting, " [" + setting.variable_name() + "]");
            if (setting.is_advanced) option->group("Advanced");
        }
    }

    CLI::Option* add_setting(CLI::App* command, const Setting& setting, const std::string& more_help) {
        const std::string flag = std::string("--") + setting.name;
        const std::string help = setting.help + more_help;
        const auto take = [this, flag, name = setting.name](const std::string& value) { flags_[name] = {value, flag, exit_usage}; };
        if (setting.placeholder != nullptr)
            return command->add_option_function<std::string>(flag, take, help)->type_name(setting.placeholder);
        return command->add_flag_function(flag, [take](std::int64_t count) { take(count > 0 ? "true" : "false"); }, help);
    }

    // What is done with the master key while nobody serves the store.
    void add_key_commands() {
        const auto add_storage = [this](CLI::App* command) {
            command->add_option("--storage", command_.storage, "The store [KVD_STORAGE] (sqlite:kv.db)")->type_name("URI");
        };
        key_id_ = app_.add_subcommand("key-id", "Print the id of the master key");
        check_key_ = app_.add_subcommand("check-key", "Try whether the master key opens a store, all of it");
        add_storage(check_key_);
        forget_master_key_ = app_.add_subcommand("forget-master-key", "Drop what an old master key still opens");
        forget_master_key_->add_option("key-id", command_.key_id, "Which one: see kvd check-key")->required();
        add_storage(forget_master_key_);
        add_server(forget_master_key_)->excludes("--storage");
    }

    // What an operator asks of a running kvd; KVD_TOKEN says who asks.
    void add_server_commands() {
        rotate_data_key_ = app_.add_subcommand("rotate-data-key", "Give a secret namespace a new data key");
        rotate_data_key_->add_option("namespace", command_.ns, "Its id, or APPLICATION~NAME")->required();
        add_server(rotate_data_key_)->required();
        rotate_data_key_->add_flag("--wait", command_.waits, "Wait until no value is sealed by the old one");
    }

    CLI::Option* add_server(CLI::App* command) {
        return command->add_option("--server", command_.server, "A running kvd: http://ADDRESS:PORT of its --admin-listen")
            ->type_name("URL");
    }

    void add_backup() {
        const auto add_storage = [this](CLI::App* command, const char* help) {
            command->add_option("--storage", command_.storage, help)->type_name("URI");
        };
        backup_ = app_.add_subcommand("backup", "Write a backup of a storage, which may be served meanwhile");
        add_storage(backup_, "What to back up [KVD_STORAGE]");
        add_server(backup_)->excludes("--storage");
        backup_->add_option("--to", command_.file, "A file to be made, for its owner only; - is stdout (not with --server)")->required()->type_name("FILE");
        restore_ = app_.add_subcommand("restore", "Fill a new storage from a backup");
        add_storage(restore_, "What to fill: sqlite:FILE that is not there yet, or an empty PostgreSQL database [KVD_STORAGE]");
        restore_->add_option("--from", command_.file, "The backup; - is stdin")->required()->type_name("FILE");
        new_epoch_ = app_.add_subcommand("new-epoch", "Begin a new epoch in a storage that was set back by other means");
        add_storage(new_epoch_, "A storage that nobody serves [KVD_STORAGE]");
    }

    void add_sinks() {
        CLI::App* sink = app_.add_subcommand("sink", "Who is sent events");
        sink->require_subcommand(1);
        sink_list_ = sink->add_subcommand("list", "Show them, and how much each has not confirmed");
        sink_list_->add_option("--storage", command_.storage, "The store [KVD_STORAGE] (sqlite:kv.db)")->type_name("URI");
        sink_forget_ = sink->add_subcommand("forget", "Forget one that will not come back: events are not kept for it any more");
        sink_forget_->add_option("name", command_.sink, "Its name: see kvd sink list")->required();
        sink_forget_->add_option("--storage", command_.storage, "A store in which nobody sends to it [KVD_STORAGE] (sqlite:kv.db)")
            ->type_name("URI");
    }

    void add_migrate() {
        migrate_ = app_.add_subcommand("migrate", "Make or migrate the schema of a PostgreSQL database, which serving it does as well");
        migrate_->add_option("--storage", command_.storage, "Which one [KVD_STORAGE]")->type_name("URI");
        migrate_->add_flag("--print", command_.prints,
                           "Print the SQL for a new database instead, for an administrator: then kvd needs no right to make tables")
            ->excludes("--storage");
        migrate_->add_option("--role", command_.role, "With --print: the role that serves it (kvd)")->type_name("NAME")->needs("--print");
        migrate_->add_flag("--audit-removal", command_.removes_audit, "With --print: that role may remove old rows of the audit log, too")
            ->needs("--print");
    }

    // What whoever owns the tables does where kvd's role may not.
    void add_trim_audit() {
        trim_audit_ = app_.add_subcommand("trim-audit", "Remove old rows of the audit log, as serving it does where it may");
        trim_audit_->add_option("--storage", command_.storage, "The store, which may be served from PostgreSQL meanwhile [KVD_STORAGE]")
            ->type_name("URI");
        for (const char* name : {"audit-retention", "audit-bytes-max", "audit-archive"}) add_setting(trim_audit_, *find_setting(name), "");
    }

    // What an auditor does, also while the store is served.
    void add_verify_commands() {
        const auto add_storage = [this](CLI::App* command) {
            command->add_option("--storage", command_.storage, "The store [KVD_STORAGE] (sqlite:kv.db)")->type_name("URI");
        };
        verify_ = app_.add_subcommand("verify", "Look for what was damaged or tampered with: exits with 1 if there is something");
        add_storage(verify_);
        verify_->add_option("--audit-key", command_.audit_key, "Look with this key, from kvd audit-key export, at the audit log alone")
            ->type_name("FILE");
        add_server(verify_)->excludes("--storage", "--audit-key");
        verify_->add_option("--anchors", command_.anchors, "Logs of kvd: the audit heads in them must still be there; - is stdin")
            ->type_name("FILE");
        verify_->add_flag("--json", command_.json, "Print one JSON object");
        audit_key_ = app_.add_subcommand("audit-key", "The key that proves the audit log and opens nothing");
        audit_key_->require_subcommand(1);
        CLI::App* export_key = audit_key_->add_subcommand("export", "Give it out, in base64");
        add_storage(export_key);
        export_key->add_option("--out", command_.out, "A file to write it to, for its owner only (stdout)")->type_name("FILE");
    }

    // Names words like those of our commands and options, and nothing else: it may be a token or a key, put where none
    // belongs.
    static std::string unexpected(const std::vector<std::string>& arguments) {
        constexpr std::size_t word_bytes_max = 24;
        std::string names;
        for (const std::string& argument : arguments) {
            const std::string word = argument.substr(0, argument.find('='));
            const bool is_word = word.find_first_not_of("abcdefghijklmnopqrstuvwxyz-") == std::string::npos;
            if (is_word && word.size() <= word_bytes_max) names += ' ' + word;
        }
        return names.empty() ? "an argument was not expected" : "not expected:" + names;
    }

    static Command printed(std::string text) {
        Command command;
        command.kind = Command::Kind::print;
        command.text = std::move(text);
        return command;
    }

    CLI::App app_{"A store for secrets, configuration and environment variables"};
    CLI::App* serve_ = nullptr;
    CLI::App* keygen_ = nullptr;
    CLI::App* token_ = nullptr;
    CLI::App* backup_ = nullptr;
    CLI::App* restore_ = nullptr;
    CLI::App* new_epoch_ = nullptr;
    CLI::App* migrate_ = nullptr;
    CLI::App* trim_audit_ = nullptr;
    CLI::App* sink_list_ = nullptr;
    CLI::App* sink_forget_ = nullptr;
    CLI::App* routes_ = nullptr;
    CLI::App* key_id_ = nullptr;
    CLI::App* check_key_ = nullptr;
    CLI::App* rotate_data_key_ = nullptr;
    CLI::App* forget_master_key_ = nullptr;
    CLI::App* verify_ = nullptr;
    CLI::App* audit_key_ = nullptr;
    bool print_version_ = false;
    std::string config_;
    Layer flags_;
    Command command_;
};

// Of settings that are nothing without each other.
std::optional<std::string> missing_part(const Settings& settings) {
    const bool has_tls = !settings.tls_certificate.empty();
    const bool has_client_ca = !settings.tls_client_ca.empty();
    const bool has_unix = settings.listen.find("unix:") != std::string::npos;
    const bool has_jwt = !settings.jwt_jwks.empty() || !settings.jwt_secret_file.empty();
    if (has_tls != !settings.tls_key.empty()) return "--tls-cert and --tls-key go together";
    if (has_client_ca && !has_tls) return "--tls-client-ca: clients show certificates only to a server with --tls-cert";
    if (!settings.gateway_names.empty() && !settings.gateway_identity) return "--gateway-names: says nothing without --gateway-identity";
    if (!settings.gateway_names.empty() && !has_client_ca) return "--gateway-names: certificates are looked at only with --tls-client-ca";
    if (settings.gateway_identity && settings.gateway_names.empty() && !has_unix)
        return "--gateway-identity: no gateway could prove itself: give --gateway-names, or --listen unix:PATH";
    if (settings.gateway_identity && settings.permissions_url.empty())
        return "--gateway-identity: nobody says what its users were granted: give --permissions-url";
    if (!settings.jwt_jwks.empty() && !settings.jwt_secret_file.empty()) return "--jwt-jwks and --jwt-secret-file: give one";
    if (has_jwt && (settings.jwt_issuer.empty() || settings.jwt_audience.empty())) return "JWTs need --jwt-issuer and --jwt-audience";
    if (!has_jwt && !(settings.jwt_issuer.empty() && settings.jwt_audience.empty()))
        return "--jwt-issuer and --jwt-audience say nothing without --jwt-jwks";
    if (!settings.permissions_url.empty() && !settings.gateway_identity && !has_jwt)
        return "--permissions-url: there is nobody to ask for: give --gateway-identity or --jwt-jwks";
    if (!settings.permissions_token_file.empty() && settings.permissions_url.empty())
        return "--permissions-token-file says nothing without --permissions-url";
    return std::nullopt;
}

// What only the settings together can tell.
std::optional<ConfigError> check_together(Settings& settings) {
    for (const auto& [name, value] :
         {std::pair{"--listen", &settings.listen}, {"--admin-listen", &settings.admin_listen}}) {
        if (*value == "off") continue;
        const auto endpoints = Endpoint::parse_list(*value);
        for (const Endpoint& endpoint : *endpoints) {
            if (endpoint.is_loopback()) continue;
            if (settings.dev)
                return ConfigError{exit_config, std::string("--dev listens on loopback only, not on ") + *value};
            if (!settings.insecure_http && settings.tls_certificate.empty())
                return ConfigError{
                    exit_config,
                    std::string(name) + " " + *value +
                        ": tokens and values would travel in the clear beyond this machine. Give --tls-cert and --tls-key, or put "
                        "TLS in front and listen on loopback, or say --insecure-http"};
        }
    }
    if (auto wrong = missing_part(settings)) return ConfigError{exit_config, *std::move(wrong)};
    if (settings.storage.empty()) settings.storage = settings.dev ? "memory:" : "sqlite:kv.db";
    return {};
}

std::optional<ConfigError> apply(const Layer& layer, Settings& settings) {
    for (const auto& [name, given] : layer) {
        const Setting* setting = find_setting(name);
        if (const Problem problem = setting->set(settings, given.value))
            return ConfigError{given.blame, given.source + ": " + *problem};
    }
    return {};
}

std::optional<ConfigError> read_settings(const CommandLine& line, const Environment& environment, Settings& settings) {
    Layer from_environment, from_file;
    if (auto error = read_environment_layer(environment, from_environment)) return error;
    std::string config = line.config();
    if (const auto variable = environment.find("KVD_CONFIG"); config.empty() && variable != environment.end())
        config = variable->second;
    if (!config.empty())
        if (auto error = read_file_layer(config, from_file)) return error;
    // Each layer is checked whole, also where a stronger one hides it: a wrong line should not wait for the day it counts.
    for (const Layer* layer : {&std::as_const(from_file), &std::as_const(from_environment), &line.flags()})
        if (auto error = apply(*layer, settings)) return error;
    return check_together(settings);
}

std::optional<ConfigError> check_token_command(const Command& command) {
    if (!command.expires_at.empty() && !kv::parse_time(command.expires_at))
        return ConfigError{exit_usage, "--expires-at: must be an RFC 3339 time like 2030-01-01T00:00:00Z"};
    for (const std::string& grant : command.grants)
        if (const auto parsed = parse_grant(grant); !parsed) return ConfigError{exit_usage, parsed.error().message};
    return {};
}

// Overwrites a variable where it stands, and unsets it.
void wipe_variable(const char* name) {
    if (char* value = std::getenv(name); value != nullptr) kv::secure_wipe(value, std::strlen(value));
    unsetenv(name);
}

}  // namespace

std::variant<Command, ConfigError> parse_command(const std::vector<std::string>& arguments,
                                                 const Environment& environment) {
    CommandLine line;
    if (auto done = line.parse(arguments)) return *std::move(done);
    Command command = line.take();
    std::optional<ConfigError> error;
    if (command.kind == Command::Kind::serve) error = read_settings(line, environment, command.settings);
    if (command.storage.empty()) {
        const auto variable = environment.find("KVD_STORAGE");
        command.storage = variable != environment.end() ? variable->second : "sqlite:kv.db";
    }
    if (command.kind == Command::Kind::trim_audit) error = apply(line.flags(), command.settings);
    if (command.kind == Command::Kind::token) error = check_token_command(command);
    if (error) return *std::move(error);
    return command;
}

Environment read_environment() {
    Environment result;
    for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
        const char* equals = std::strchr(*entry, '=');
        if (equals == nullptr || std::strncmp(*entry, "KVD_", 4) != 0) continue;
        result.emplace(std::string(static_cast<const char*>(*entry), equals), equals + 1);
    }
    wipe_variable("KVD_AMQP_URL");  // it may hold a password
    return result;
}

SecretVariables SecretVariables::take() {
    const auto take_one = [](const char* name) -> std::optional<kv::SecretBytes> {
        char* value = std::getenv(name);
        if (value == nullptr) return std::nullopt;
        kv::SecretBytes secret{std::string_view(value)};
        wipe_variable(name);
        if (secret.empty()) return std::nullopt;
        return secret;
    };
    SecretVariables secrets;
    secrets.master_key = take_one("KV_MASTER_KEY");
    secrets.previous_master_key = take_one("KV_MASTER_KEY_PREVIOUS");
    secrets.root_token = take_one("KVD_ROOT_TOKEN");
    secrets.token = take_one("KVD_TOKEN");
    secrets.postgres_password = take_one("PGPASSWORD");
    secrets.amqp_password = take_one("KVD_AMQP_PASSWORD");
    const auto read_path = [](const char* name) -> std::optional<std::string> {
        const char* path = std::getenv(name);
        if (path == nullptr || *path == '\0') return std::nullopt;
        return path;
    };
    secrets.master_key_file = read_path("KV_MASTER_KEY_FILE");
    secrets.previous_master_key_file = read_path("KV_MASTER_KEY_PREVIOUS_FILE");
    return secrets;
}

}  // namespace kvd
