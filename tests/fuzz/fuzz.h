#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kv/kv.h"

// What the fuzz targets share. Each is one function from bytes to nothing that ends the process where a property does not
// hold; everything random is in the input, so that an input alone shows the same again.
#define KV_PROPERTY(condition) \
    if (!(condition)) ::kv::fuzz::fail(__FILE__, __LINE__, #condition)

namespace kv::fuzz {

[[noreturn]] inline void fail(const char* file, int line, const char* property) {
    std::fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, property);
    std::abort();
}

// Takes an input apart from its front. Beyond its end everything reads as zero or empty.
class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

    bool empty() const { return rest_.empty(); }
    std::uint8_t u8() {
        const std::string_view byte = bytes(1);
        return byte.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(byte.front());
    }
    std::uint16_t u16() {
        const auto high = static_cast<unsigned>(u8());
        return static_cast<std::uint16_t>(high << 8 | u8());
    }
    std::string_view bytes(std::size_t size) {
        const std::string_view part = rest_.substr(0, size);
        rest_.remove_prefix(part.size());
        return part;
    }
    // Up to `end`, which is taken off too.
    std::string_view up_to(char end) {
        const std::size_t size = std::min(rest_.find(end), rest_.size());
        const std::string_view part = rest_.substr(0, size);
        rest_.remove_prefix(std::min(size + 1, rest_.size()));
        return part;
    }
    std::string_view rest() { return std::exchange(rest_, {}); }

private:
    std::string_view rest_;
};

// Changes a string as an input says: flips bits of a byte, cuts the end off, adds to it, or moves a part.
inline void edit(std::string& text, Input& input) {
    const std::uint8_t kind = input.u8();
    const std::size_t at = text.empty() ? 0 : input.u16() % text.size();
    const std::uint8_t byte = input.u8();
    switch (kind % 4) {
        case 0:
            if (!text.empty()) text[at] = static_cast<char>(static_cast<std::uint8_t>(text[at]) ^ byte);
            break;
        case 1: text.resize(at); break;
        case 2: text.insert(at, 1, static_cast<char>(byte)); break;
        case 3: std::rotate(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), text.end()); break;
    }
}

// Stands still until told otherwise.
class StillClock final : public Clock {
public:
    Time now() override { return now_; }
    void pass(std::chrono::microseconds span) { now_ += span; }

private:
    Time now_ = *parse_time("2024-01-15T10:00:00Z");
};

inline SecretBytes fixed_key() { return SecretBytes("0123456789abcdef0123456789abcdef"); }

// A store over memory in which nothing happens but what it is asked for.
class SmallStore {
public:
    SmallStore() {
        storage_ = make_memory_storage(clock);
        storage = storage_.get();
        Options options;
        options.keys = make_fixed_key(fixed_key());
        options.clock = &clock;
        options.maintenance_interval = std::chrono::milliseconds(0);
        options.denial_window = std::chrono::seconds(0);
        auto opened = Store::open(std::move(storage_), options);
        KV_PROPERTY(opened.has_value());
        store = *std::move(opened);
    }

    NamespaceId make_namespace(const std::string& name, bool is_secret, bool keeps_history = true) {
        CreateNamespace create;
        create.application_id = "a";
        create.name = name;
        create.is_secret = is_secret;
        create.keeps_history = keeps_history;
        auto reply = store->call(trusted, create);
        KV_PROPERTY(reply.has_value());
        return reply->ns.id;
    }
    void put(const NamespaceId& ns, const std::string& key_path, std::string_view text) {
        PutEntry request;
        request.ns = ns;
        request.write.key_path = key_path;
        request.write.value = ValueInput::text(text);
        KV_PROPERTY(store->call(trusted, request).has_value());
    }

    StillClock clock;
    Storage* storage = nullptr;  // the store's own
    std::unique_ptr<Store> store;
    const Actor trusted = Actor::trusted("fuzzer");

private:
    std::unique_ptr<Storage> storage_;
};

// Every operation is answered before submit() returns, so that a run does not depend on what threads do.
class WaitingClient final : public Client {
public:
    explicit WaitingClient(Client& inner) : inner_(inner) {}
    void submit(Actor actor, Request request, Completion done) override { done(inner_.wait(actor, std::move(request))); }
    Result<Reply> wait(const Actor& actor, Request request) override { return inner_.wait(actor, std::move(request)); }

private:
    Client& inner_;
};

}  // namespace kv::fuzz
