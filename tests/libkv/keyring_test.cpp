#include "crypto/keyring.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kv/keys.h"
#include "libkv/vector_file.h"

using namespace kv;
using namespace kv::crypto;
using namespace kv::testing;

namespace {

constexpr CryptoBackend backend = CryptoBackend::openssl;
const Time now{std::chrono::seconds(1'700'000'000)};

Uuid id(std::uint8_t last) {
    Uuid uuid;
    uuid.bytes[15] = last;
    return uuid;
}

// A store's keys, and its master key.
struct Fixture {
    SecretBytes master_key = generate_master_key();
    std::unique_ptr<Keyring> keyring = Keyring::open(master_key, backend, {}, now).value();
    std::vector<KeyRow> rows = keyring->take_new_rows();

    Result<std::unique_ptr<Keyring>> reopen() const { return Keyring::open(master_key, backend, rows, now); }
    KeyRow& row(KeyPurpose purpose) {
        return *std::find_if(rows.begin(), rows.end(), [&](const KeyRow& row) { return row.purpose == purpose; });
    }
};

std::string seal(const AesGcm& aes, std::string_view plaintext) {
    std::string sealed(plaintext.size() + tag_bytes, '\0');
    REQUIRE(aes.seal(Nonce{}, "associated", plaintext, sealed.data()));
    return sealed;
}

// key_rows.txt: rows wrapped by two master keys, and what their keys must give.
struct Frozen {
    Frozen() {
        for (const auto& words : read_vectors("key_rows.txt")) {
            if (words.at(0) == "master") {
                masters.push_back({SecretBytes(from_hex(words.at(2))), words.at(3)});
            } else if (words.at(0) == "row") {
                rows.push_back(parse(words));
            } else {
                expected[words.at(1)] = words.at(2);
            }
        }
        data_row = rows.back();
        rows.pop_back();
    }
    static KeyRow parse(const std::vector<std::string>& words) {
        KeyRow row;
        row.purpose = static_cast<KeyPurpose>(std::stoi(words.at(1)));
        row.ns = Uuid::parse(words.at(2)).value();
        row.generation = static_cast<std::uint32_t>(std::stoul(words.at(3)));
        row.application_id = words.at(4) == "-" ? "" : words.at(4);
        row.wrap_key_id = words.at(5);
        row.wrap = from_hex(words.at(6));
        row.second_wrap_key_id = words.at(7);
        row.second_wrap = from_hex(words.at(8));
        row.commitment = to_array<32>(from_hex(words.at(9)));
        return row;
    }
    struct Master {
        SecretBytes key;
        std::string id;
    };
    std::vector<Master> masters;
    std::vector<KeyRow> rows;
    KeyRow data_row;
    std::map<std::string, std::string> expected;
};

std::string temporary_file(std::string_view content) {
    std::string path = "/tmp/kv_key_test_XXXXXX";
    const int descriptor = mkstemp(path.data());
    REQUIRE(descriptor >= 0);
    REQUIRE(write(descriptor, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
    close(descriptor);
    return path;
}

}  // namespace

TEST_CASE("a new store draws its canary and its internal keys, each its own") {
    Fixture store;
    std::vector<KeyPurpose> purposes;
    std::set<Mac> commitments;
    for (const KeyRow& row : store.rows) {
        purposes.push_back(row.purpose);
        commitments.insert(row.commitment);
        CHECK(row.ns.is_nil());
        CHECK(row.generation == 1);
        CHECK(row.created_at == now);
        CHECK(row.wrap_key_id == master_key_id(store.master_key));
        CHECK(row.second_wrap_key_id.empty());
    }
    CHECK(purposes == std::vector<KeyPurpose>{KeyPurpose::canary, KeyPurpose::audit, KeyPurpose::row_mac, KeyPurpose::token, KeyPurpose::cursor});
    CHECK(commitments.size() == 5);
    CHECK(store.keyring->key_id() == master_key_id(store.master_key));
    CHECK(store.keyring->backend() == backend);
    CHECK(store.keyring->take_new_rows().empty());
}

TEST_CASE("a reopened store has the same keys and draws none") {
    Fixture store;
    auto again = store.reopen().value();
    CHECK(again->take_new_rows().empty());
    CHECK(again->row_mac("x") == store.keyring->row_mac("x"));
    CHECK(again->cursor_mac("x") == store.keyring->cursor_mac("x"));
    CHECK(again->audit_stream_key(id(1)) == store.keyring->audit_stream_key(id(1)));
}

TEST_CASE("internal keys differ from each other, between streams and between stores") {
    Fixture store;
    Fixture other;
    CHECK(store.keyring->row_mac("x") != store.keyring->cursor_mac("x"));
    CHECK(store.keyring->audit_stream_key(id(1)) != store.keyring->audit_stream_key(id(2)));
    CHECK(store.keyring->row_mac("x") != other.keyring->row_mac("x"));
}

TEST_CASE("another master key is refused and both key ids are named") {
    Fixture store;
    const SecretBytes other = generate_master_key();
    auto opened = Keyring::open(other, backend, store.rows, now);
    REQUIRE(opened == Errc::wrong_key);
    CHECK(opened.error().message == "the master key " + master_key_id(other) + " does not open this store, whose keys are wrapped by " +
                                        master_key_id(store.master_key));
    CHECK(opened.error().message.find(hex_encode(other.reveal())) == std::string::npos);
}

TEST_CASE("another master key that claims the stored key id does not open anything") {
    Fixture store;
    const SecretBytes other = generate_master_key();
    for (KeyRow& row : store.rows) row.wrap_key_id = master_key_id(other);
    CHECK(Keyring::open(other, backend, store.rows, now) == Errc::integrity);
}

TEST_CASE("a master key that is not 32 bytes is refused") {
    for (std::size_t size : {0, 16, 31, 33}) {
        CHECK(Keyring::open(SecretBytes::of_size(size), backend, {}, now) == Errc::invalid_request);
    }
}

TEST_CASE("a changed key row stops the start, whichever member was changed") {
    struct Change {
        std::string member;
        std::function<void(KeyRow&)> apply;
    };
    const std::vector<Change> changes = {
        {"namespace", [](KeyRow& row) { row.ns = id(1); }},
        {"generation", [](KeyRow& row) { row.generation = 2; }},
        {"application", [](KeyRow& row) { row.application_id = "billing"; }},
        {"commitment", [](KeyRow& row) { row.commitment[31] ^= 1; }},
        {"wrap emptied", [](KeyRow& row) { row.wrap.clear(); }},
        {"wrap cut", [](KeyRow& row) { row.wrap.pop_back(); }},
        {"wrap lengthened", [](KeyRow& row) { row.wrap.push_back('x'); }},
    };
    for (const Change& change : changes) {
        for (KeyPurpose purpose : {KeyPurpose::canary, KeyPurpose::audit, KeyPurpose::row_mac, KeyPurpose::token, KeyPurpose::cursor}) {
            CAPTURE(change.member);
            Fixture store;
            change.apply(store.row(purpose));
            CHECK(store.reopen() == Errc::integrity);
        }
    }
}

TEST_CASE("no flipped bit of a wrap goes unnoticed") {
    Fixture store;
    std::string& wrap = store.row(KeyPurpose::row_mac).wrap;
    for (std::size_t i = 0; i < wrap.size() * 8; ++i) {
        wrap[i / 8] = static_cast<char>(wrap[i / 8] ^ (1 << i % 8));
        CHECK(store.reopen() == Errc::integrity);
        wrap[i / 8] = static_cast<char>(wrap[i / 8] ^ (1 << i % 8));
    }
    CHECK(store.reopen());
}

TEST_CASE("a missing key, one that is there twice, and two swapped ones stop the start") {
    Fixture store;
    for (std::size_t i = 0; i < store.rows.size(); ++i) {
        std::vector<KeyRow> rows = store.rows;
        rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(i));
        CHECK(Keyring::open(store.master_key, backend, rows, now) == Errc::integrity);
        rows = store.rows;
        rows.push_back(rows[i]);
        CHECK(Keyring::open(store.master_key, backend, rows, now) == Errc::integrity);
    }
    std::swap(store.row(KeyPurpose::audit).purpose, store.row(KeyPurpose::cursor).purpose);
    CHECK(store.reopen() == Errc::integrity);
}

TEST_CASE("a data key is there once its row was adopted, and again after a restart") {
    Fixture store;
    const KeyRow row = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    CHECK(store.keyring->data_key(id(1), 1) == nullptr);
    const auto key = store.keyring->adopt(row).value();
    CHECK(store.keyring->data_key(id(1), 1) == key);
    CHECK(store.keyring->data_key(id(1), 2) == nullptr);
    CHECK(store.keyring->data_key(id(2), 1) == nullptr);
    auto again = store.reopen().value();
    CHECK(seal(*again->adopt(row).value(), "text") == seal(*key, "text"));
}

TEST_CASE("every data key is a key of its own") {
    Fixture store;
    const KeyRow one = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    const KeyRow two = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    CHECK(one.commitment != two.commitment);
    const std::string sealed = seal(*store.keyring->adopt(one).value(), "text");
    CHECK(sealed != seal(*store.keyring->adopt(two).value(), "text"));
    CHECK(sealed != seal(*store.keyring->data_key(id(1), 1), "text"));  // the one adopted last
}

TEST_CASE("the data key of a purged namespace is forgotten, and those who hold it may go on") {
    Fixture store;
    for (std::uint8_t ns : {1, 2}) {
        for (std::uint32_t generation : {1u, 2u}) {
            REQUIRE(store.keyring->adopt(store.keyring->make_data_key(id(ns), "billing", generation, now).value()));
        }
    }
    const auto held = store.keyring->data_key(id(1), 1);
    store.keyring->forget(id(1));
    CHECK(store.keyring->data_key(id(1), 1) == nullptr);
    CHECK(store.keyring->data_key(id(1), 2) == nullptr);
    CHECK(store.keyring->data_key(id(2), 1) != nullptr);
    CHECK(seal(*held, "text").size() == 4 + tag_bytes);
}

TEST_CASE("a data key row that was moved to another namespace, application or generation is refused") {
    Fixture store;
    const KeyRow row = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    const std::vector<std::function<void(KeyRow&)>> changes = {
        [](KeyRow& moved) { moved.ns = id(2); },
        [](KeyRow& moved) { moved.application_id = "shipping"; },
        [](KeyRow& moved) { moved.generation = 2; },
        [](KeyRow& moved) { moved.generation = 0; },
        [](KeyRow& moved) { moved.purpose = KeyPurpose::audit; },
        [](KeyRow& moved) { moved.commitment[0] ^= 1; },
        [](KeyRow& moved) { moved.wrap.back() = static_cast<char>(moved.wrap.back() ^ 1); },
    };
    for (const auto& change : changes) {
        KeyRow moved = row;
        change(moved);
        CHECK(store.keyring->adopt(moved) == Errc::integrity);
        CHECK(store.keyring->data_key(moved.ns, moved.generation) == nullptr);
    }
    KeyRow foreign = row;
    foreign.wrap_key_id = "0123456789abcdef";
    CHECK(store.keyring->adopt(foreign) == Errc::wrong_key);
    KeyRow internal = store.row(KeyPurpose::audit);
    internal.purpose = KeyPurpose::data;
    CHECK(store.keyring->adopt(internal) == Errc::integrity);
}

TEST_CASE("the cache of data keys is bounded, and forgets what came first") {
    Fixture store;
    KeyRow row = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    REQUIRE(store.keyring->adopt(row));
    for (std::uint32_t generation = 2; generation <= 4097; ++generation) {
        REQUIRE(store.keyring->adopt(store.keyring->make_data_key(id(1), "billing", generation, now).value()));
    }
    CHECK(store.keyring->data_key(id(1), 1) == nullptr);
    CHECK(store.keyring->data_key(id(1), 2) != nullptr);
    CHECK(store.keyring->data_key(id(1), 4097) != nullptr);
}

TEST_CASE("data keys are found while others are adopted and forgotten") {
    Fixture store;
    const KeyRow row = store.keyring->make_data_key(id(1), "billing", 1, now).value();
    const KeyRow other = store.keyring->make_data_key(id(2), "billing", 1, now).value();
    REQUIRE(store.keyring->adopt(row));
    std::thread writer([&] {
        for (int i = 0; i < 300; ++i) {
            (void)store.keyring->adopt(other);
            store.keyring->forget(id(2));
        }
    });
    int missing = 0;
    for (int i = 0; i < 3000; ++i) missing += store.keyring->data_key(id(1), 1) == nullptr ? 1 : 0;
    writer.join();
    CHECK(missing == 0);
}

TEST_CASE("stored key rows keep their frozen form, and open by either of their wraps") {
    const Frozen frozen;
    REQUIRE(frozen.masters.size() == 2);
    for (const auto& master : frozen.masters) {
        CHECK(master_key_id(master.key) == master.id);
        for (CryptoBackend each : backends()) {
            auto keyring = Keyring::open(master.key, each, frozen.rows, now).value();
            CHECK(hex_of(keyring->row_mac("canonical")) == frozen.expected.at("row_mac"));
            CHECK(hex_of(keyring->cursor_mac("canonical")) == frozen.expected.at("cursor_mac"));
            CHECK(hex_of(keyring->audit_stream_key(frozen.data_row.ns)) == frozen.expected.at("audit_stream_key"));
            const auto key = keyring->adopt(frozen.data_row).value();
            CHECK(hex_encode(seal(*key, "text")) == frozen.expected.at("data_seal"));
        }
    }
}

TEST_CASE("a third master key is refused by rows with two wraps, and all key ids are named") {
    const Frozen frozen;
    const SecretBytes third = generate_master_key();
    auto opened = Keyring::open(third, backend, frozen.rows, now);
    REQUIRE(opened == Errc::wrong_key);
    CHECK(opened.error().message == "the master key " + master_key_id(third) + " does not open this store, whose keys are wrapped by " +
                                        frozen.masters[0].id + " or " + frozen.masters[1].id);
}

// ---- two master keys ----

namespace {

Result<std::unique_ptr<Keyring>> open_by(const SecretBytes& current, const SecretBytes* previous, const std::vector<KeyRow>& rows) {
    return Keyring::open(current, backend, rows, now, previous);
}

// By which master keys a row is wrapped: "a", "b+a"...
std::string wraps(const KeyRow& row, const std::map<std::string, std::string>& names) {
    std::string text = names.at(row.wrap_key_id);
    if (!row.second_wrap_key_id.empty()) text += "+" + names.at(row.second_wrap_key_id);
    CHECK(row.second_wrap.empty() == row.second_wrap_key_id.empty());
    return text;
}

}  // namespace

TEST_CASE("what is made while the master key is changed is wrapped by both keys, and opens by either") {
    const SecretBytes a = generate_master_key();
    const SecretBytes b = generate_master_key();
    const std::map<std::string, std::string> names = {{master_key_id(a), "a"}, {master_key_id(b), "b"}};
    auto fresh = open_by(b, &a, {}).value();
    CHECK(fresh->key_id() == master_key_id(b));
    CHECK(fresh->previous_key_id() == master_key_id(a));
    std::vector<KeyRow> rows = fresh->take_new_rows();
    rows.push_back(fresh->make_data_key(id(1), "billing", 1, now).value());
    for (const KeyRow& row : rows) CHECK(wraps(row, names) == "b+a");
    const KeyRow data = rows.back();
    rows.pop_back();
    for (const SecretBytes* key : {&a, &b}) {
        auto keyring = open_by(*key, nullptr, rows).value();
        CHECK(keyring->row_mac("x") == fresh->row_mac("x"));
        CHECK(seal(*keyring->adopt(data).value(), "text") == seal(*fresh->adopt(data).value(), "text"));
        CHECK(keyring->previous_key_id().empty());
    }
    fresh->stop_wrapping_by_previous();
    CHECK(wraps(fresh->make_data_key(id(1), "billing", 2, now).value(), names) == "b");
}

TEST_CASE("a row is wrapped by the current key at the cost of a third, older wrap alone") {
    const SecretBytes a = generate_master_key();
    const SecretBytes b = generate_master_key();
    const SecretBytes c = generate_master_key();
    const std::map<std::string, std::string> names = {{master_key_id(a), "a"}, {master_key_id(b), "b"}, {master_key_id(c), "c"}};
    auto by_a = open_by(a, nullptr, {}).value();
    std::vector<KeyRow> rows = by_a->take_new_rows();
    const KeyRow only_a = by_a->make_data_key(id(1), "billing", 1, now).value();
    auto by_b = open_by(b, &a, rows).value();
    const KeyRow b_and_a = by_b->rewrap(only_a).value();
    CHECK(wraps(b_and_a, names) == "b+a");
    CHECK(b_and_a.second_wrap == only_a.wrap);
    CHECK(b_and_a.commitment == only_a.commitment);
    CHECK(wraps(by_b->rewrap(b_and_a).value(), names) == "b+a");
    CHECK(by_b->rewrap(b_and_a)->wrap == b_and_a.wrap);  // nothing to do
    KeyRow a_and_b = b_and_a;
    std::swap(a_and_b.wrap, a_and_b.second_wrap);
    std::swap(a_and_b.wrap_key_id, a_and_b.second_wrap_key_id);
    rows = by_b->take_new_rows();
    REQUIRE(rows.size() == 5);
    auto by_c = open_by(c, &b, rows).value();
    for (const KeyRow& row : by_c->take_new_rows()) CHECK(wraps(row, names) == "c+b");
    for (const KeyRow& row : {b_and_a, a_and_b}) {
        CHECK(wraps(by_c->rewrap(row).value(), names) == "c+b");
        CHECK(seal(*by_c->adopt(by_c->rewrap(row).value()).value(), "text") == seal(*by_a->adopt(only_a).value(), "text"));
    }
    CHECK(by_c->rewrap(only_a) == Errc::wrong_key);
    CHECK(by_c->adopt(only_a) == Errc::wrong_key);
    CHECK(by_a->check(only_a));
    CHECK(by_b->check(only_a) == Errc::integrity);
}

TEST_CASE("internal rows that are wrapped by one key or the other all open, and only those that must be are written") {
    const SecretBytes a = generate_master_key();
    const SecretBytes b = generate_master_key();
    auto by_a = open_by(a, nullptr, {}).value();
    const std::vector<KeyRow> old_rows = by_a->take_new_rows();
    auto both = open_by(b, &a, old_rows).value();
    const std::vector<KeyRow> new_rows = both->take_new_rows();
    REQUIRE(new_rows.size() == 5);
    for (unsigned mask = 0; mask < 32; ++mask) {
        CAPTURE(mask);
        std::vector<KeyRow> rows;
        for (unsigned i = 0; i < 5; ++i) rows.push_back(mask & (1u << i) ? new_rows[i] : old_rows[i]);
        auto keyring = open_by(b, &a, rows).value();
        CHECK(keyring->row_mac("x") == by_a->row_mac("x"));
        CHECK(keyring->wraps_by_previous());
        CHECK(keyring->take_new_rows().size() == 5u - static_cast<unsigned>(__builtin_popcount(mask)));
        CHECK(open_by(a, nullptr, rows));
        CHECK(open_by(b, nullptr, rows).has_value() == (mask == 31));
    }
    // The canary tells whether the previous key still counts.
    std::vector<KeyRow> forgotten = new_rows;
    forgotten[0].second_wrap_key_id.clear();
    forgotten[0].second_wrap.clear();
    CHECK_FALSE(open_by(b, &a, forgotten).value()->wraps_by_previous());
}

TEST_CASE("a wrap that was tampered with does not open, though another one would") {
    const SecretBytes a = generate_master_key();
    const SecretBytes b = generate_master_key();
    auto fresh = open_by(b, &a, {}).value();
    const std::vector<KeyRow> rows = fresh->take_new_rows();
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::vector<KeyRow> changed = rows;
        changed[i].wrap.back() = static_cast<char>(changed[i].wrap.back() ^ 1);
        CHECK(open_by(b, &a, changed) == Errc::integrity);
        CHECK(open_by(a, nullptr, changed));
        changed = rows;
        changed[i].second_wrap.back() = static_cast<char>(changed[i].second_wrap.back() ^ 1);
        CHECK(open_by(a, nullptr, changed) == Errc::integrity);
        CHECK(open_by(b, &a, changed));
        changed = rows;
        std::swap(changed[i].wrap, changed[i].second_wrap);
        CHECK(open_by(b, &a, changed) == Errc::integrity);
    }
}

TEST_CASE("neither of two wrong master keys opens a store, and all ids are named") {
    Fixture store;
    const SecretBytes b = generate_master_key();
    const SecretBytes c = generate_master_key();
    auto opened = open_by(b, &c, store.rows);
    REQUIRE(opened == Errc::wrong_key);
    CHECK(opened.error().message == "the master keys " + master_key_id(b) + " and " + master_key_id(c) +
                                        " do not open this store, whose keys are wrapped by " + master_key_id(store.master_key));
    // A previous key that opens nothing is none, the same key twice is one.
    auto harmless = open_by(store.master_key, &b, store.rows).value();
    CHECK_FALSE(harmless->wraps_by_previous());
    CHECK(harmless->take_new_rows().empty());
    CHECK(open_by(store.master_key, &store.master_key, store.rows).value()->previous_key_id().empty());
    const SecretBytes short_key("short");
    CHECK(open_by(store.master_key, &short_key, store.rows) == Errc::invalid_request);
}

TEST_CASE("one generation of a data key is forgotten alone") {
    Fixture store;
    for (std::uint32_t generation : {1u, 2u}) {
        REQUIRE(store.keyring->adopt(store.keyring->make_data_key(id(1), "billing", generation, now).value()));
    }
    store.keyring->forget(id(1), 1);
    store.keyring->forget(id(1), 3);
    CHECK(store.keyring->data_key(id(1), 1) == nullptr);
    CHECK(store.keyring->data_key(id(1), 2) != nullptr);
}

TEST_CASE("a master key is read from base64 or hex, with white space around it") {
    const SecretBytes key = generate_master_key();
    const std::string base64 = base64_encode(key.reveal());
    std::string hex = hex_encode(key.reveal());
    for (const std::string& text : {base64, hex, base64 + "\n", "  " + hex + "\r\n\t"}) {
        CHECK(parse_master_key(text).value().reveal() == key.reveal());
    }
    std::transform(hex.begin(), hex.end(), hex.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    CHECK(parse_master_key(hex).value().reveal() == key.reveal());
}

TEST_CASE("a text that is no master key is refused without being repeated") {
    const std::string hex(64, 'a');
    for (const std::string& text : {std::string(), std::string(" \n"), hex + "a", hex.substr(1), "g" + hex.substr(1), std::string(44, 'A'),
                                    std::string(42, 'A') + "==", std::string(43, 'A'), std::string(32, 'k'),
                                    hex.substr(0, 32) + " " + hex.substr(32)}) {
        CAPTURE(text);
        auto key = parse_master_key(text);
        REQUIRE(key == Errc::invalid_request);
        CHECK(key.error().message == "a master key is 32 bytes, written as 44 characters of base64 or 64 of hex");
        CHECK(key.error().detail.empty());
    }
}

TEST_CASE("a key file holds the key as text or as its raw bytes") {
    SecretBytes key = generate_master_key();
    for (const std::string& content : {std::string(key.reveal()), base64_encode(key.reveal()) + "\n", hex_encode(key.reveal())}) {
        const std::string path = temporary_file(content);
        CHECK(read_master_key_file(path).value().reveal() == key.reveal());
        unlink(path.c_str());
    }
}

TEST_CASE("a key file that is missing, a directory or without a key is an error that names it") {
    auto missing = read_master_key_file("/nonexistent/key");
    REQUIRE(missing == Errc::unavailable);
    CHECK(missing.error().message == "cannot read the master key file /nonexistent/key: No such file or directory");
    CHECK(read_master_key_file("/") == Errc::unavailable);
    for (const std::string& content : {std::string(), std::string(31, 'x'), std::string(33, 'x'), std::string(100'000, 'a')}) {
        const std::string path = temporary_file(content);
        auto key = read_master_key_file(path);
        REQUIRE(key == Errc::invalid_request);
        CHECK(key.error().message.find(path) != std::string::npos);
        unlink(path.c_str());
    }
}

TEST_CASE("a fixed key is given as often as asked, and only if it has 32 bytes") {
    const SecretBytes key = generate_master_key();
    auto provider = make_fixed_key(key);
    CHECK(provider->master_key().value().reveal() == key.reveal());
    CHECK(provider->master_key().value().reveal() == key.reveal());
    CHECK(make_fixed_key(SecretBytes("short"))->master_key() == Errc::invalid_request);
}

TEST_CASE("master keys differ, and so do their ids") {
    const SecretBytes one = generate_master_key();
    const SecretBytes two = generate_master_key();
    CHECK(one.size() == master_key_bytes);
    CHECK(one.reveal() != two.reveal());
    CHECK(master_key_id(one) != master_key_id(two));
    CHECK(master_key_id(one).size() == 16);
    CHECK(master_key_id(one).find_first_not_of("0123456789abcdef") == std::string::npos);
}
