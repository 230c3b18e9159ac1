#include "kvd/commands.h"

#include <cstdio>
#include <utility>

#include "json/json.h"
#include "kvd/auth/sources.h"
#include "kvd/files.h"
#include "kvd/framing.h"
#include "kvd/tool.h"
#include "text.h"

namespace kvd {
namespace {

constexpr std::size_t root_token_bytes_min = 32;
constexpr std::size_t token_bytes_max = 8u << 10;

kv::Error missing(std::string what) { return {kv::Errc::invalid_request, std::move(what)}; }

// From the variable `name`, or the file that the variable `name`_FILE names; empty if neither is set.
kv::Result<std::optional<kv::SecretBytes>> read_key(const std::string& name, const std::optional<kv::SecretBytes>& text,
                                                    const std::optional<std::string>& file) {
    if (text && file) return missing("both " + name + " and " + name + "_FILE are set: unset one");
    if (!text && !file) return std::optional<kv::SecretBytes>();
    auto key = file ? kv::read_master_key_file(*file) : kv::parse_master_key(text->reveal());
    if (key) return std::optional(*std::move(key));
    if (text) key.error().message = name + ": " + key.error().message;
    return std::move(key).error();
}

kv::Result<kv::SecretBytes> load_key(const Settings& settings, const SecretVariables& variables) {
    KV_TRY(auto given, read_key("KV_MASTER_KEY", variables.master_key, variables.master_key_file));
    if (given) return *std::move(given);
    if (settings.dev) {
        if (settings.storage != "memory:")
            return missing("--dev would make up a key that opens " + shown_storage(settings.storage) +
                           " only once: set KV_MASTER_KEY, or leave --storage out");
        return kv::generate_master_key();
    }
    return missing(
        "no master key: make one with `kvd keygen --out FILE`, keep a copy of it in a safe place, and set "
        "KV_MASTER_KEY_FILE=FILE "
        "(or put the key itself into KV_MASTER_KEY)");
}

kv::Result<std::optional<TokenHash>> root_hash(const SecretVariables& variables) {
    if (!variables.root_token) return std::optional<TokenHash>();
    const std::string_view token = variables.root_token->reveal();
    if (token.size() < root_token_bytes_min || !is_visible_ascii(token))
        return missing("KVD_ROOT_TOKEN must be 32 visible ASCII characters or more");
    return std::optional<TokenHash>(hash_token(token));
}

// One line; empty if there is no such file to be read.
kv::Result<kv::SecretBytes> read_token_file(const std::string& path) {
    if (path.empty()) return kv::SecretBytes();
    KV_TRY(kv::SecretBytes file, read_file(path, token_bytes_max));
    const std::string_view line = file.reveal().substr(0, file.reveal().find_last_not_of("\r\n") + 1);
    if (line.empty() || !is_visible_ascii(line)) return missing(path + ": must hold one token of visible ASCII characters");
    return kv::SecretBytes(line);
}

}  // namespace

kv::Result<std::shared_ptr<kv::KeyProvider>> load_master_key(const SecretVariables& variables) {
    KV_TRY(kv::SecretBytes key, load_key({}, variables));
    return kv::make_fixed_key(std::move(key));
}

kv::Result<std::shared_ptr<kv::KeyProvider>> load_previous_key(const SecretVariables& variables) {
    KV_TRY(auto key, read_key("KV_MASTER_KEY_PREVIOUS", variables.previous_master_key, variables.previous_master_key_file));
    if (!key) return std::shared_ptr<kv::KeyProvider>();
    return kv::make_fixed_key(*std::move(key));
}

kv::Result<ServeSecrets> load_secrets(const Settings& settings, SecretVariables variables) {
    ServeSecrets secrets;
    KV_TRY(kv::SecretBytes key, load_key(settings, variables));
    secrets.keys = kv::make_fixed_key(std::move(key));
    KV_TRY(secrets.previous_keys, load_previous_key(variables));
    KV_TRY(secrets.amqp, load_amqp(settings, variables.amqp_password));

    TokenStore::Source source{.path = settings.tokens, .root_token = {}};
    KV_TRY(source.root_token, root_hash(variables));
    if (settings.dev && !source.root_token) {
        secrets.dev_token = generate_token();
        source.root_token = hash_token(secrets.dev_token.reveal());
    }
    KV_TRY(secrets.tokens, TokenStore::open(std::move(source)));
    KV_TRY(secrets.permissions_token, read_token_file(settings.permissions_token_file));
    if (!settings.tls_certificate.empty()) {
        KV_TRY(secrets.tls, Tls::open({settings.tls_certificate, settings.tls_key, settings.tls_client_ca, settings.tls_needs_client}));
    }
    if (!settings.jwt_secret_file.empty()) {
        KV_TRY(const kv::SecretBytes secret, read_file(settings.jwt_secret_file, token_bytes_max));
        auto keys = Jwks::of_secret(secret);
        if (!keys) return missing(settings.jwt_secret_file + ": " + keys.error().message);
        secrets.jwt_secret = *std::move(keys);
    }
    if (!settings.jwt_jwks.empty() && !KeySource::is_url(settings.jwt_jwks)) {
        KV_TRY(const kv::SecretBytes set, read_file(settings.jwt_jwks, Jwks::set_bytes_max));
        if (const auto keys = Jwks::parse(set.reveal()); !keys) return missing(settings.jwt_jwks + ": " + keys.error().message);
    }
    secrets.needs_stored_token = secrets.tokens->usable() == 0 && !IdentitySources::has_others(settings);
    return secrets;
}

int run_keygen(const Command& command) {
    const kv::SecretBytes key = kv::generate_master_key();
    std::string text = kv::base64_encode(key.reveal()) + "\n";
    int code = exit_ok;
    if (command.out.empty()) {
        if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0)
            code = fail(exit_internal, "cannot write to stdout");
    } else if (const auto written = write_secret_file(command.out, text); !written) {
        code = fail(exit_config, written.error().message);
    }
    kv::json::wipe(text);
    if (code == exit_ok)
        std::fprintf(stderr, "kvd: key id %s; without this key no secret can be read: keep a copy\n",
                     kv::master_key_id(key).c_str());
    return code;
}

int run_token(const Command& command) {
    std::vector<std::string> grants;
    for (const std::string& grant : command.grants) {
        auto parsed = parse_grant(grant);
        if (!parsed) return fail(exit_usage, parsed.error().message);
        grants.push_back(*std::move(parsed));
    }
    if (!command.certificate.empty()) {
        const std::string line = certificate_line(command.user, command.certificate, command.expires_at, grants);
        if (const auto table = TokenTable::parse("[" + line + "]"); !table) return fail(exit_usage, table.error().message);
        std::fprintf(stdout, "%s\n", line.c_str());
        return std::fflush(stdout) == 0 ? exit_ok : fail(exit_internal, "cannot write to stdout");
    }
    const kv::SecretBytes token = generate_token();
    const std::string line = token_line(command.user, hash_token(token.reveal()), command.expires_at, grants);
    // What we print, the server must read.
    if (const auto table = TokenTable::parse("[" + line + "]"); !table) return fail(exit_usage, table.error().message);
    std::fprintf(stdout, "%.*s\n%s\n", static_cast<int>(token.size()), token.reveal().data(), line.c_str());
    if (std::fflush(stdout) != 0) return fail(exit_internal, "cannot write to stdout");
    std::fputs("kvd: the first line is the token, shown only now; the second goes into the array of the tokens file\n",
               stderr);
    return exit_ok;
}

}  // namespace kvd
