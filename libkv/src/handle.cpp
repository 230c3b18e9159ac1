#include <charconv>
#include <cmath>

#include "kv/store.h"

namespace kv {
namespace {

Error not_a(const char* what, std::string_view key_path) {
    Error error{Errc::invalid_value, std::string("The value is not ") + what + "."};
    error.key_path = key_path;
    return error;
}

template <class T>
Result<T> parse_number(const SecretBytes& value, std::string_view key_path, const char* what) {
    const std::string_view text = value.reveal();
    T number{};
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failed != std::errc{} || end != text.data() + text.size()) return not_a(what, key_path);
    return number;
}

Result<Entry> entry_of(Result<EntryReply> reply) {
    if (!reply) return std::move(reply).error();
    return std::move(reply->entry);
}

}  // namespace

BoundNamespace Client::in(std::string application_id, std::string name, Actor actor) {
    return in(NamespaceName{std::move(application_id), std::move(name)}, std::move(actor));
}

BoundNamespace Client::in(NamespaceRef ns, Actor actor) { return {*this, std::move(ns), std::move(actor)}; }

BoundNamespace::BoundNamespace(Client& client, NamespaceRef ns, Actor actor)
    : client_(&client), ns_(std::move(ns)), actor_(std::move(actor)) {}

Result<Entry> BoundNamespace::entry(std::string_view key_path) const {
    GetEntry request;
    request.ns = ns_;
    request.key_path = key_path;
    return entry_of(client_->call(actor_, std::move(request)));
}

template <>
Result<SecretBytes> BoundNamespace::get<SecretBytes>(std::string_view key_path) const {
    KV_TRY(Entry found, entry(key_path));
    return found.value ? std::move(*found.value) : SecretBytes();
}

template <>
Result<std::string> BoundNamespace::get<std::string>(std::string_view key_path) const {
    KV_TRY(Entry found, entry(key_path));
    if (found.value_type == ValueType::binary) return not_a("text", key_path);
    return std::string(found.value ? found.value->reveal() : "");
}

template <>
Result<std::int64_t> BoundNamespace::get<std::int64_t>(std::string_view key_path) const {
    KV_TRY(const SecretBytes value, get<SecretBytes>(key_path));
    return parse_number<std::int64_t>(value, key_path, "an integer that fits 64 bits");
}

template <>
Result<double> BoundNamespace::get<double>(std::string_view key_path) const {
    KV_TRY(const SecretBytes value, get<SecretBytes>(key_path));
    return parse_number<double>(value, key_path, "a number");
}

template <>
Result<bool> BoundNamespace::get<bool>(std::string_view key_path) const {
    KV_TRY(const SecretBytes value, get<SecretBytes>(key_path));
    if (value.reveal() == "true") return true;
    if (value.reveal() == "false") return false;
    return not_a("true or false", key_path);
}

Result<Entry> BoundNamespace::put(std::string_view key_path, ValueInput value, Ttl ttl) const {
    PutEntry request;
    request.ns = ns_;
    request.write.key_path = key_path;
    request.write.value = std::move(value);
    request.write.ttl = ttl;
    return entry_of(client_->call(actor_, std::move(request)));
}

Result<Entry> BoundNamespace::put(std::string_view key_path, std::int64_t number, Ttl ttl) const {
    return put(key_path, ValueInput::number(std::to_string(number)), ttl);
}

Result<Entry> BoundNamespace::put(std::string_view key_path, double number, Ttl ttl) const {
    if (!std::isfinite(number)) return not_a("a finite number", key_path);
    char text[64];
    const auto [end, failed] = std::to_chars(text, text + sizeof text, number);  // the shortest that reads back the same
    if (failed != std::errc{}) return not_a("a number", key_path);
    return put(key_path, ValueInput::number({text, static_cast<std::size_t>(end - text)}), ttl);
}

Result<Entry> BoundNamespace::put(std::string_view key_path, bool value, Ttl ttl) const {
    return put(key_path, ValueInput::boolean(value), ttl);
}

Result<void> BoundNamespace::remove(std::string_view key_path) const {
    DeleteEntry request;
    request.ns = ns_;
    request.key_path = key_path;
    KV_TRY([[maybe_unused]] const Done done, client_->call(actor_, std::move(request)));
    return {};
}

Result<std::vector<Entry>> BoundNamespace::list(std::string_view prefix) const {
    std::vector<Entry> entries;
    ListEntries request;
    request.ns = ns_;
    request.prefix = prefix;
    request.include_values = true;
    while (true) {
        KV_TRY(EntryList page, client_->call(actor_, request));
        for (Entry& entry : page.items) entries.push_back(std::move(entry));
        if (!page.next_cursor) return entries;
        request.page.cursor = *page.next_cursor;
    }
}

Result<std::unique_ptr<Subscription>> BoundNamespace::watch(std::string prefix, std::optional<std::uint64_t> from_revision,
                                                            std::function<void(const Result<WatchBatch>&)> heard) const {
    return client_->watch(actor_, WatchEntries{ns_, std::move(prefix), from_revision}, std::move(heard));
}

Result<Entry> BoundNamespace::rotate(std::string_view key_path, ValueInput value) const {
    RotateEntry request;
    request.ns = ns_;
    request.key_path = key_path;
    request.value = std::move(value);
    return entry_of(client_->call(actor_, std::move(request)));
}

Result<Entry> BoundNamespace::rollback(std::string_view key_path, std::optional<std::uint64_t> version) const {
    RollbackEntry request;
    request.ns = ns_;
    request.key_path = key_path;
    request.version = version;
    return entry_of(client_->call(actor_, std::move(request)));
}

}  // namespace kv
