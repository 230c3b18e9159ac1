#include "seal.h"

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "crypto/hash.h"
#include "libkv/vector_file.h"

using namespace kv;
using namespace kv::testing;

namespace {

Uuid id(std::uint8_t last) {
    Uuid uuid;
    uuid.bytes[0] = 1;
    uuid.bytes[15] = last;
    return uuid;
}

SealContext some_context() { return {2, id(1), id(2), "db/password", 5, ValueType::string}; }

std::unique_ptr<crypto::AesGcm> some_key(CryptoBackend backend) { return crypto::AesGcm::create(crypto::Key{42}, backend); }

}  // namespace

TEST_CASE("sealed records keep their frozen form") {
    for (const auto& words : read_vectors("sealed.txt")) {
        CAPTURE(words.at(0));
        SealContext context;
        context.generation = static_cast<std::uint32_t>(std::stoul(words.at(2)));
        context.ns = Uuid::parse(words.at(3)).value();
        context.entry_id = Uuid::parse(words.at(4)).value();
        context.key_path = words.at(5);
        context.version = std::stoull(words.at(6));
        context.value_type = static_cast<ValueType>(std::stoi(words.at(7)));
        const auto nonce = to_array<crypto::nonce_bytes>(from_hex(words.at(8)));
        const std::string plaintext = from_hex(words.at(9));
        const std::string record = from_hex(words.at(10));
        for (CryptoBackend backend : backends()) {
            auto key = crypto::AesGcm::create(to_array<crypto::key_bytes>(from_hex(words.at(1))), backend);
            CHECK(hex_encode(seal_value_with_nonce(*key, context, plaintext, nonce).value()) == hex_encode(record));
            CHECK(open_value(*key, context, record).value().reveal() == plaintext);
        }
    }
}

TEST_CASE("a value comes back as it was sealed, and is never sealed twice the same way") {
    for (CryptoBackend backend : backends()) {
        auto key = some_key(backend);
        for (std::size_t size : {0, 1, 100, 1 << 20}) {
            const std::string plaintext(size, 'p');
            const std::string one = seal_value(*key, some_context(), plaintext).value();
            const std::string two = seal_value(*key, some_context(), plaintext).value();
            CHECK(one.size() == size + sealed_overhead_bytes);
            CHECK(one != two);
            CHECK(open_value(*key, some_context(), one).value().reveal() == plaintext);
            CHECK(open_value(*key, some_context(), two).value().reveal() == plaintext);
        }
    }
}

TEST_CASE("no flipped bit of a sealed record goes unnoticed") {
    for (CryptoBackend backend : backends()) {
        auto key = some_key(backend);
        const std::string record = seal_value(*key, some_context(), "hunter2").value();
        for (std::size_t i = 0; i < record.size(); ++i) {
            for (int bit = 0; bit < 8; ++bit) {
                std::string changed = record;
                changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
                CHECK(open_value(*key, some_context(), changed) == Errc::integrity);
            }
        }
    }
}

TEST_CASE("a cut or lengthened record does not open") {
    auto key = some_key(CryptoBackend::openssl);
    const std::string record = seal_value(*key, some_context(), "hunter2").value();
    for (std::size_t size = 0; size < record.size(); ++size) {
        CHECK(open_value(*key, some_context(), std::string_view(record).substr(0, size)) == Errc::integrity);
    }
    CHECK(open_value(*key, some_context(), record + 'x') == Errc::integrity);
}

TEST_CASE("a record does not open in any other place than its own") {
    struct Move {
        std::string what;
        std::function<void(SealContext&)> apply;
    };
    const std::vector<Move> moves = {
        {"generation", [](SealContext& context) { context.generation = 3; }},
        {"namespace", [](SealContext& context) { context.ns = id(9); }},
        {"entry", [](SealContext& context) { context.entry_id = id(9); }},
        {"namespace and entry swapped", [](SealContext& context) { std::swap(context.ns, context.entry_id); }},
        {"key path", [](SealContext& context) { context.key_path = "db/passwore"; }},
        {"shorter key path", [](SealContext& context) { context.key_path = "db/passwor"; }},
        {"version", [](SealContext& context) { context.version = 6; }},
        {"far version", [](SealContext& context) { context.version += std::uint64_t{1} << 56; }},
        {"value type", [](SealContext& context) { context.value_type = ValueType::binary; }},
    };
    for (CryptoBackend backend : backends()) {
        auto key = some_key(backend);
        const std::string record = seal_value(*key, some_context(), "hunter2").value();
        for (const Move& move : moves) {
            CAPTURE(move.what);
            SealContext context = some_context();
            move.apply(context);
            CHECK(open_value(*key, context, record) == Errc::integrity);
        }
        CHECK(open_value(*key, some_context(), record).value().reveal() == "hunter2");
    }
}

TEST_CASE("a record given another generation in its header does not open as that generation") {
    auto key = some_key(CryptoBackend::openssl);
    std::string record = seal_value(*key, some_context(), "hunter2").value();
    record[6] = 3;
    SealContext context = some_context();
    context.generation = 3;
    CHECK(open_value(*key, context, record) == Errc::integrity);
}

TEST_CASE("another key does not open a record") {
    auto key = some_key(CryptoBackend::openssl);
    auto other = crypto::AesGcm::create(crypto::Key{43}, CryptoBackend::openssl);
    const std::string record = seal_value(*key, some_context(), "hunter2").value();
    CHECK(open_value(*other, some_context(), record) == Errc::integrity);
}

TEST_CASE("the error of a record that does not open names the entry and no byte of it") {
    auto key = some_key(CryptoBackend::openssl);
    std::string record = seal_value(*key, some_context(), "hunter2").value();
    record.back() = static_cast<char>(record.back() ^ 1);
    const Error error = open_value(*key, some_context(), record).error();
    CHECK(error.message == "the sealed value at db/password, version 5, does not open: it was changed, moved or damaged");
    CHECK(error.key_path == "db/password");
    CHECK(error.detail.empty());
}
