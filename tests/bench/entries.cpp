#include "entries.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace kv::bench {
namespace {

constexpr std::uint64_t keys_per_folder = 1000;
constexpr std::uint64_t items_per_bulk = 1000;  // as many as one may have

Result<void> put_some(Store& store, const NamespaceRef& ns, std::uint64_t first, std::uint64_t end) {
    BulkSet bulk;
    bulk.ns = ns;
    for (std::uint64_t number = first; number < end; ++number) {
        EntryWrite& write = bulk.entries.emplace_back();
        write.key_path = key_of(number);
        write.value = ValueInput::text(value_of(number));
    }
    auto reply = store.call(actor(), std::move(bulk));
    if (!reply) return std::move(reply).error();
    return {};
}

}  // namespace

std::string key_of(std::uint64_t number) {
    char text[64];
    std::snprintf(text, sizeof text, "service-%04llu/setting-%07llu", static_cast<unsigned long long>(number / keys_per_folder),
                  static_cast<unsigned long long>(number));
    return text;
}

std::string value_of(std::uint64_t number) {
    static constexpr char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    std::string value(value_bytes, ' ');
    std::uint64_t state = number;
    for (char& letter : value) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        letter = alphabet[state >> 58];
    }
    return value;
}

Actor actor() { return Actor::trusted("bench"); }

Result<void> fill(Store& store, const Filling& filling) {
    CreateNamespace create;
    create.application_id = application;
    create.name = filling.ns;
    create.is_secret = filling.is_secret;
    if (auto created = store.call(actor(), create); !created) return std::move(created).error();
    const NamespaceRef ns = NamespaceName{std::string(application), filling.ns};
    for (std::uint64_t first = 0; first < filling.entries; first += items_per_bulk) {
        auto put = put_some(store, ns, first, std::min(first + items_per_bulk, filling.entries));
        if (!put) return put;
    }
    return {};
}

Result<std::unique_ptr<Store>> open_store(const std::string& uri, ReadAudit read_audit, EventSink* sink) {
    const char* text = std::getenv("KV_MASTER_KEY");
    auto key = parse_master_key(text ? text : "");
    if (!key) return std::move(key).error();
    Options options;
    options.keys = make_fixed_key(*std::move(key));
    options.read_audit = read_audit;
    if (sink != nullptr) options.sinks = {sink};
    options.log = [](LogLevel level, std::string_view message) {
        if (level >= LogLevel::warning) std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
    };
    return open(uri, std::move(options));
}

}  // namespace kv::bench
