#include "beginning.h"

#include <set>

#include "kv/events.h"

namespace kv {
namespace {

// What a new store begins with: its own keys and its epoch. A no-op on one that exists. Empty where another process made it
// one that exists since `keys` were drawn for a new one: they are not those of the store then.
Result<std::optional<StoreMeta>> initialise(Storage& storage, crypto::Keyring& keys, bool is_new) {
    const std::vector<KeyRow> rows = keys.take_new_rows();
    KV_TRY(StoreMeta meta, read_store_meta(storage));
    if (rows.empty() && !meta.epoch.empty()) return std::optional(std::move(meta));
    if (meta.epoch.empty()) meta.epoch = draw_epoch();
    bool is_late = false;
    Result<void> written = storage.write([&](StorageWriter& writer) -> Result<void> {
        KV_CHECK(writer.lock({}));
        KV_TRY(const std::vector<KeyRow> stored, writer.internal_keys());
        is_late = is_new && !stored.empty();
        if (is_late) return {};
        Changeset changes;
        changes.keys = rows;
        changes.meta.push_back({std::string(meta_epoch), meta.epoch});
        return writer.apply(changes);
    });
    KV_CHECK(std::move(written));
    return is_late ? std::nullopt : std::optional(std::move(meta));
}

Result<void> check_limits(const Limits& asked) {
    const Limits most;
    const bool is_within = asked.value_bytes_max <= most.value_bytes_max && asked.metadata_bytes_max <= most.metadata_bytes_max &&
                           asked.bulk_items_max <= most.bulk_items_max && asked.page_items_max <= most.page_items_max &&
                           asked.page_items_max > 0 && asked.page_value_bytes_max <= most.page_value_bytes_max &&
                           asked.bulk_get_bytes_max <= most.bulk_get_bytes_max && asked.export_keys_max <= most.export_keys_max &&
                           asked.export_bytes_max <= most.export_bytes_max &&
                           asked.audit_rows_walked_max <= most.audit_rows_walked_max;
    if (is_within) return {};
    return Error{Errc::invalid_request, "Limits can be lowered, not raised."};
}

bool is_sink_name(std::string_view name) {
    constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    return !name.empty() && name.size() <= 64 && name.find_first_not_of(letters) == std::string_view::npos;
}

Result<void> check_sinks(const Options& options) {
    std::set<std::string_view> names;
    for (const EventSink* sink : options.sinks) {
        if (sink == nullptr || !is_sink_name(sink->name())) {
            return Error{Errc::invalid_request, "A sink's name is 1 to 64 characters of a-z, 0-9, '.', '_' and '-'."};
        }
        if (!names.insert(sink->name()).second) return Error{Errc::invalid_request, "Two sinks have one name."};
    }
    if (options.event_retention.count() < 0) return Error{Errc::invalid_request, "Events are kept for some time, or for none."};
    return {};
}

}  // namespace

Result<void> check_options(const Options& options) {
    KV_CHECK(check_limits(options.limits));
    KV_CHECK(check_sinks(options));
    if (options.seals_per_key == 0 || options.seals_per_key > Options{}.seals_per_key) {
        return Error{Errc::invalid_request, "A data key seals 1 to 2^30 values before it is replaced."};
    }
    if (!options.keys) return Error{Errc::invalid_request, "A store needs Options::keys: the master key."};
    return {};
}

Result<Beginning> begin(Storage& storage, const SecretBytes& master_key, CryptoBackend backend, const SecretBytes* previous) {
    for (;;) {
        KV_TRY(std::vector<KeyRow> stored, storage.internal_keys());
        const bool is_new = stored.empty();
        KV_TRY(const Time now, storage.now());
        KV_TRY(auto keys, crypto::Keyring::open(master_key, backend, std::move(stored), now, previous));
        KV_TRY(std::optional<StoreMeta> meta, initialise(storage, *keys, is_new));
        if (meta) return Beginning{std::move(keys), std::move(*meta)};
    }
}

}  // namespace kv
