#include "kvd/tool_keys.h"

#include <cstdio>

#include "kv/admin.h"
#include "kv/store.h"
#include "kvd/commands.h"
#include "kvd/tool.h"

namespace kvd {
namespace {

std::string show(const kv::KeyCheck& check) {
    std::string ids;
    for (const std::string& id : check.wrapped_by) ids += (ids.empty() ? "" : " ") + id;
    return "key id: " + check.key_id + "\nstore wrapped by: " + ids + "\nkeys opened: " + std::to_string(check.keys) +
           "\nkeys not opened: " + std::to_string(check.unwrapped) + "\n";
}

kv::Result<kv::KeyCheck> check(const std::string& uri, kv::KeyProvider& keys) {
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, kv::open_storage(uri, kv::Access::read_only, *clock));
    return kv::check_key(*storage, keys);
}

kv::Result<std::unique_ptr<kv::Store>> open_store(const std::string& uri, const SecretVariables& variables) {
    kv::Options options;
    KV_TRY(options.keys, load_master_key(variables));
    KV_CHECK(check(uri, *options.keys));  // opening makes a store where there is none
    KV_TRY(options.previous_keys, load_previous_key(variables));
    options.maintenance_interval = std::chrono::milliseconds(0);  // it only does what it was started for
    options.log = [](kv::LogLevel level, std::string_view message) {
        if (level >= kv::LogLevel::warning) std::fprintf(stderr, "kvd: %.*s\n", static_cast<int>(message.size()), message.data());
    };
    return kv::open(uri, std::move(options));
}

}  // namespace

std::string key_id_of(kv::KeyProvider& keys) {
    const auto key = keys.master_key();
    return key ? kv::master_key_id(*key) : std::string();
}

int run_key_id(const SecretVariables& variables) {
    const auto keys = load_master_key(variables);
    if (!keys) return fail(exit_config, keys.error().message);
    return print(key_id_of(**keys) + "\n");
}

int run_check_key(const Command& command, const SecretVariables& variables) {
    const auto keys = load_master_key(variables);
    if (!keys) return fail(exit_config, keys.error().message);
    const auto found = check(command.storage, **keys);
    if (found == kv::Errc::wrong_key || found == kv::Errc::integrity)
        return fail(exit_not_good, shown_storage(command.storage) + ": " + found.error().message);
    if (!found) return fail(exit_code_of(found.error().code), shown_storage(command.storage) + ": " + found.error().message);
    if (const int code = print(show(*found)); code != exit_ok) return code;
    if (found->unwrapped == 0) return exit_ok;
    return fail(exit_not_good, shown_storage(command.storage) + ": the master key " + found->key_id + " opens only a part: " +
                              std::to_string(found->unwrapped) + " stored keys are not wrapped by it, or were damaged");
}

int run_forget_master_key(const Command& command, const SecretVariables& variables) {
    auto store = open_store(command.storage, variables);
    if (!store) return fail(exit_code_of(store.error().code), shown_storage(command.storage) + ": " + store.error().message);
    const auto dropped = (*store)->forget_master_key(kv::Actor::trusted("operator"), command.key_id);
    if (dropped == kv::Errc::invalid_state || dropped == kv::Errc::integrity) return fail(exit_not_good, dropped.error().message);
    if (!dropped) return fail(exit_code_of(dropped.error().code), dropped.error().message);
    return print("wraps dropped: " + std::to_string(*dropped) + "\n");
}

}  // namespace kvd
