#include "storage/postgres_conninfo.h"

#include <soci/postgresql/soci-postgresql.h>

#include <map>
#include <memory>

namespace kv::postgres {
namespace {

struct Freed {
    void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
    void operator()(char* text) const { PQfreemem(text); }
};

using Parameters = std::map<std::string, std::string>;

// What libpq says of a URI it does not understand quotes it, and so perhaps a password.
Result<Parameters> parse(const std::string& uri) {
    char* said = nullptr;
    const std::unique_ptr<PQconninfoOption, Freed> parsed(PQconninfoParse(uri.c_str(), &said));
    const std::unique_ptr<char, Freed> message(said);
    if (!parsed) {
        Error error{Errc::invalid_request, "The storage's URI is not one that PostgreSQL understands: "
                                           "postgresql://USER@HOST:PORT/DATABASE?PARAMETER=VALUE."};
        error.field = "storage";
        return error;
    }
    Parameters parameters;
    for (const PQconninfoOption* option = parsed.get(); option->keyword; ++option) {
        if (option->val) parameters[option->keyword] = option->val;
    }
    return parameters;
}

std::string setting(const char* name, std::chrono::milliseconds value) {
    return std::string(" -c ") + name + "=" + std::to_string(value.count());
}

// Plans: everything is found by an index and arrays are short, so a plan is made once per statement and does not depend on
// what the server knows of tables that grew since. They come first: of two settings the server takes the later.
std::string session_options(const PostgresOptions& options) {
    return setting("statement_timeout", options.statement_timeout) + setting("lock_timeout", options.lock_timeout) +
           setting("idle_in_transaction_session_timeout", std::chrono::milliseconds(10'000)) +
           " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off -c enable_material=off"
           " -c enable_hashjoin=off -c enable_mergejoin=off -c enable_memoize=off"
           " -c jit=off -c max_parallel_workers_per_gather=0";
}

std::string percent_encoded(const std::string& value) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    std::string text;
    for (const char c : value) {
        if (plain.find(c) != std::string_view::npos) {
            text += c;
        } else {
            text += {'%', digits[static_cast<unsigned char>(c) >> 4], digits[static_cast<unsigned char>(c) & 15]};
        }
    }
    return text;
}

}  // namespace

Result<std::string> make_conninfo(const PostgresOptions& options) {
    KV_TRY(Parameters parameters, parse(options.uri));
    const std::string own = parameters["options"];
    parameters["options"] = session_options(options) + (own.empty() ? "" : " " + own);
    parameters["client_encoding"] = "UTF8";
    // A server that does not take writes is the wrong one, as after a failover. What is only read may be asked of a standby
    // where the URI says so.
    if (!options.read_only && parameters["target_session_attrs"] != "primary") parameters["target_session_attrs"] = "read-write";
    parameters.try_emplace("target_session_attrs", "primary");
    parameters.try_emplace("connect_timeout", "3");
    parameters.try_emplace("tcp_user_timeout", "5000");
    parameters.try_emplace("keepalives_idle", "10");
    parameters.try_emplace("keepalives_interval", "3");
    parameters.try_emplace("keepalives_count", "3");
    parameters.try_emplace("fallback_application_name", "kv");
    // SOCI takes what it is given apart at spaces and the first '=', and puts it together again: only this stays as it is.
    std::string text = "postgresql:///";
    for (const auto& [name, value] : parameters) {
        text += (text.ends_with('/') ? "?" : "&") + name + "=" + percent_encoded(value);
    }
    return text;
}

}  // namespace kv::postgres
