#include "kvd/tool_sink.h"

#include <string>
#include <vector>

#include "kv/admin.h"
#include "kv/store.h"
#include "kvd/commands.h"
#include "kvd/tool.h"

namespace kvd {
namespace {

std::string show(const std::vector<kv::SinkInfo>& sinks) {
    std::string text;
    for (const kv::SinkInfo& sink : sinks) {
        text += sink.name + "\n  since:    " + kv::format_time(sink.registered_at) + "\n  pending:  " + std::to_string(sink.pending) + "\n";
        if (!sink.owner.empty()) text += "  owner:    " + sink.owner + " until " + kv::format_time(sink.owned_until) + "\n";
    }
    return text;
}

kv::Result<std::vector<kv::SinkInfo>> list(const std::string& uri) {
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, kv::open_storage(uri, kv::Access::read_only, *clock));
    return kv::list_sinks(*storage);
}

kv::Result<void> forget(const Command& command, const SecretVariables& secrets) {
    KV_TRY(const auto keys, load_master_key(secrets));
    KV_CHECK(must_exist(command.storage));
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, kv::open_storage(command.storage, kv::Access::read_write, *clock));
    return kv::forget_sink(*storage, *keys, command.sink);
}

int fail_at(const Command& command, const kv::Error& error) {
    const ExitCode code = error == kv::Errc::invalid_state ? exit_not_good : exit_code_of(error.code);
    return fail(code, shown_storage(command.storage) + ": " + error.message);
}

}  // namespace

int run_sink_list(const Command& command) {
    const auto sinks = list(command.storage);
    return sinks ? print(show(*sinks)) : fail_at(command, sinks.error());
}

int run_sink_forget(const Command& command, const SecretVariables& secrets) {
    const auto forgotten = forget(command, secrets);
    return forgotten ? print("forgotten: " + command.sink + "\n") : fail_at(command, forgotten.error());
}

}  // namespace kvd
