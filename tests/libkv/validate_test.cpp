#include "validate.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

namespace {

using namespace std::string_literals;
using kv::Errc;

const kv::NamespaceRef some_namespace = kv::NamespaceName{"default", "app"};
const kv::Actor someone = kv::Actor::trusted("someone");

// "ok", or code, field and limit of the failure.
std::string told(const kv::Result<void>& result) {
    if (result) return "ok";
    const kv::Error& error = result.error();
    std::string text(kv::code_name(error.code));
    if (!error.field.empty()) text += " " + error.field;
    if (error.limit) text += " " + std::to_string(*error.limit);
    return text;
}

std::string judged(kv::Request request, const kv::Limits& limits = {}) { return told(kv::validate(someone, request, limits)); }

std::string judged_as(const kv::Actor& actor) { return told(kv::validate(actor, kv::GetNamespace{some_namespace, {}}, {})); }

// One line per offending item: key, code, field, message.
std::string items_of(const kv::Request& request) {
    auto result = kv::validate(someone, request, {});
    if (result) return "ok";
    std::string text;
    for (const kv::Error& item : result.error().items) {
        text += item.key_path + " " + std::string(kv::code_name(item.code)) + " " + item.field + ": " + item.message + "\n";
    }
    return text;
}

kv::EntryWrite write_to(std::string key_path) {
    kv::EntryWrite write;
    write.key_path = std::move(key_path);
    write.value = kv::ValueInput::text("x");
    return write;
}

std::vector<std::string> many_keys(int count) {
    std::vector<std::string> keys;
    for (int i = 0; i < count; ++i) keys.push_back("key/" + std::to_string(i));
    return keys;
}

kv::BulkGet get_all(std::vector<std::string> keys) { return {some_namespace, std::move(keys), {}}; }

kv::BulkSet set_all(std::vector<kv::EntryWrite> entries, bool atomic = true) { return {some_namespace, std::move(entries), atomic}; }

kv::BulkDelete delete_all(std::vector<std::string> keys, bool atomic = true) {
    return {some_namespace, std::move(keys), atomic, false};
}

// Changes one thing about a request that is otherwise right.
template <class R, class F>
std::string with(R request, F change) {
    change(request);
    return judged(std::move(request));
}

kv::CreateNamespace creation() {
    kv::CreateNamespace request;
    request.name = "app";
    return request;
}

kv::UpdateNamespace update() {
    kv::UpdateNamespace request;
    request.ns = some_namespace;
    return request;
}

kv::PutEntry put() { return {some_namespace, write_to("db/host"), false}; }

kv::RotateEntry rotation() {
    kv::RotateEntry request;
    request.ns = some_namespace;
    request.key_path = "db/password";
    request.value = kv::Generate{};
    return request;
}

kv::RollbackEntry rollback() {
    kv::RollbackEntry request;
    request.ns = some_namespace;
    request.key_path = "db/password";
    return request;
}

}  // namespace

TEST_CASE("a key path is segments between single slashes") {
    for (const char* key : {"a", "db/host", "a/b/c", "DB.HOST", "with space", "caf\xc3\xa9/\xf0\x9f\x94\x91", "~", "*", "a:b", "...", ".a", "a..", "%2F",
                            "\\", "rotate/x", "a/versions/b", "rotated", "Rotate", "\xc2\xa0", "\xe2\x80\xa8"}) {
        CAPTURE(key);
        CHECK(told(kv::check_key_path(key)) == "ok");
    }
    for (const char* key : {"", "/", "/a", "a/", "a//b", "//", ".", "..", "./a", "a/.", "a/../b", "a/..", "a\nb", "\x7f", "\xc2\x85", "\xff",
                            "a/\xc3", "\xed\xa0\x80"}) {
        CAPTURE(key);
        CHECK(told(kv::check_key_path(key)) == "invalid-key keyPath");
    }
    CHECK(told(kv::check_key_path("a\0b"s)) == "invalid-key keyPath");
}

TEST_CASE("a key path has at most 1024 bytes, a segment 255") {
    const std::string segment(255, 's');
    CHECK(told(kv::check_key_path(segment)) == "ok");
    CHECK(told(kv::check_key_path(segment + "s")) == "invalid-key keyPath");
    CHECK(told(kv::check_key_path("a/" + segment + "s/b")) == "invalid-key keyPath");
    const std::string four = segment + "/" + segment + "/" + segment + "/" + segment;  // 1023 bytes
    CHECK(told(kv::check_key_path(four)) == "ok");
    CHECK(told(kv::check_key_path(four.substr(1) + "/a")) == "ok");
    CHECK(told(kv::check_key_path(four + "/a")) == "invalid-key keyPath");
}

TEST_CASE("the last segment of a key cannot be the name of an operation") {
    for (const char* key : {"rotate", "rollback", "versions", "a/rotate", "a/b/rollback", "rotate/versions"}) {
        CAPTURE(key);
        CHECK(told(kv::check_key_path(key)) == "reserved-key-segment keyPath");
        CHECK(judged(kv::GetEntry{some_namespace, key, {}, {}}) == "reserved-key-segment keyPath");
        CHECK(with(put(), [&](kv::PutEntry& r) { r.write.key_path = key; }) == "reserved-key-segment keyPath");
        CHECK(with(rotation(), [&](kv::RotateEntry& r) { r.key_path = key; }) == "reserved-key-segment keyPath");
        CHECK(with(rollback(), [&](kv::RollbackEntry& r) { r.key_path = key; }) == "reserved-key-segment keyPath");
        CHECK(judged(kv::DeleteEntry{some_namespace, key, false, {}}) == "reserved-key-segment keyPath");
        CHECK(judged(get_all({key})) == "reserved-key-segment keys");
        CHECK(judged(set_all({write_to(key)})) == "reserved-key-segment entries");
        CHECK(judged(delete_all({key})) == "reserved-key-segment keys");
    }
}

TEST_CASE("the error of a key names the key only where it can be shown") {
    CHECK(kv::check_key_path("a//b").error().key_path == "a//b");
    CHECK(kv::check_key_path("a//b").error().message == "the key path has an empty segment");
    CHECK(kv::check_key_path("a/\xff").error().key_path.empty());
    CHECK(kv::check_key_path(std::string(2000, 'k')).error().key_path.empty());
}

TEST_CASE("a list prefix is any text without control characters") {
    for (const char* prefix : {"", "a", "a/", "/", "a//", "..", "rotate", "caf\xc3\xa9"}) {
        CAPTURE(prefix);
        CHECK(judged(kv::ListEntries{some_namespace, prefix, false, false, {}, {}, {}}) == "ok");
    }
    CHECK(told(kv::check_prefix("a\n")) == "invalid-request prefix");
    CHECK(told(kv::check_prefix("\xff")) == "invalid-request prefix");
    CHECK(told(kv::check_prefix("a\0"s)) == "invalid-request prefix");
    CHECK(told(kv::check_prefix(std::string(1024, 'p'))) == "ok");
    CHECK(told(kv::check_prefix(std::string(1025, 'p'))) == "invalid-request prefix 1024");
}

TEST_CASE("a namespace is created with a name and what its limits allow") {
    CHECK(judged(creation()) == "ok");
    const auto named = [](std::string name) {
        return with(creation(), [&](kv::CreateNamespace& r) { r.name = std::move(name); });
    };
    CHECK(named("My App, 2024 (\xc3\xa9)") == "ok");
    CHECK(named(std::string(255, 'n')) == "ok");
    CHECK(named(std::string(256, 'n')) == "invalid-request name 255");
    for (const char* name : {"", "a/b", "a~b", "a\tb", "\xff", "\xc2\x9f"}) {
        CAPTURE(name);
        CHECK(named(name) == "invalid-request name");
    }
    CHECK(named("a\0b"s) == "invalid-request name");
}

TEST_CASE("an application id may hold a tilde but no slash") {
    const auto in = [](std::string id) {
        return with(creation(), [&](kv::CreateNamespace& r) { r.application_id = std::move(id); });
    };
    CHECK(in("team~app") == "ok");
    CHECK(in(std::string(255, 'a')) == "ok");
    CHECK(in("") == "invalid-request applicationId");
    CHECK(in("a/b") == "invalid-request applicationId");
    CHECK(in("a\n") == "invalid-request applicationId");
    CHECK(in("\xff") == "invalid-request applicationId");
    CHECK(in(std::string(256, 'a')) == "invalid-request applicationId 255");
    CHECK(with(update(), [](kv::UpdateNamespace& r) { r.application_id = "a/b"; }) == "invalid-request applicationId");
}

TEST_CASE("a description is text of at most 4096 bytes") {
    const auto described = [](std::string text) {
        const std::string created = with(creation(), [&](kv::CreateNamespace& r) { r.description = text; });
        const std::string updated = with(update(), [&](kv::UpdateNamespace& r) { r.description.emplace(text); });
        return created == updated ? created : "differs: " + created + ", " + updated;
    };
    CHECK(described("two\nlines\tand a tab") == "ok");
    CHECK(described(std::string(4096, 'd')) == "ok");
    CHECK(described(std::string(4097, 'd')) == "invalid-request description 4096");
    CHECK(described("\xff") == "invalid-request description");
    CHECK(described("a\0b"s) == "invalid-request description");
    CHECK(with(update(), [](kv::UpdateNamespace& r) { r.description.emplace(std::nullopt); }) == "ok");
}

TEST_CASE("times to live are one second to ten years") {
    const std::int64_t most = 315'360'000;
    for (const std::int64_t s : std::vector<std::int64_t>{1, most, 0, -1, most + 1, INT64_MIN}) {
        CAPTURE(s);
        const bool fits = s >= 1 && s <= most;
        const std::string own = fits ? "ok" : "invalid-request ttlSeconds 315360000";
        const std::string of_namespace = fits ? "ok" : "invalid-request defaultTtlSeconds 315360000";
        CHECK(with(put(), [&](kv::PutEntry& r) { r.write.ttl = kv::Ttl::after(s); }) == own);
        CHECK(with(rotation(), [&](kv::RotateEntry& r) { r.ttl = kv::Ttl::after(s); }) == own);
        CHECK(with(rollback(), [&](kv::RollbackEntry& r) { r.ttl = kv::Ttl::after(s); }) == own);
        CHECK(judged(kv::PatchEntry{some_namespace, "k", kv::Ttl::after(s), {}, {}}) == own);
        CHECK(with(creation(), [&](kv::CreateNamespace& r) { r.default_ttl_seconds = s; }) == of_namespace);
        CHECK(with(update(), [&](kv::UpdateNamespace& r) { r.default_ttl_seconds.emplace(s); }) == of_namespace);
    }
    CHECK(with(put(), [](kv::PutEntry& r) { r.write.ttl = kv::Ttl::never(); }) == "ok");
    CHECK(with(update(), [](kv::UpdateNamespace& r) { r.default_ttl_seconds.emplace(std::nullopt); }) == "ok");
}

TEST_CASE("a history limit is at least one") {
    const auto limited = [](std::uint64_t limit) {
        return with(creation(), [&](kv::CreateNamespace& r) { r.history_limit.emplace(limit); });
    };
    CHECK(limited(1) == "ok");
    CHECK(limited(1'000'000) == "ok");
    CHECK(limited(0) == "invalid-request historyLimit 1000000");
    CHECK(limited(1'000'001) == "invalid-request historyLimit 1000000");
    CHECK(with(creation(), [](kv::CreateNamespace& r) { r.history_limit.emplace(std::nullopt); }) == "ok");
    CHECK(with(update(), [](kv::UpdateNamespace& r) { r.history_limit.emplace(0u); }) == "invalid-request historyLimit 1000000");
}

TEST_CASE("that a secret namespace keeps its history is judged after permissions, not here") {
    const auto secret = [](auto& r) {
        r.is_secret = true;
        r.keeps_history = false;
    };
    CHECK(with(creation(), secret) == "ok");
    CHECK(with(update(), secret) == "ok");
}

TEST_CASE("a namespace whose name cannot exist is not found") {
    for (const kv::NamespaceName& name : std::vector<kv::NamespaceName>{
             {"default", "a/b"}, {"default", ""}, {"", "app"}, {"a/b", "app"}, {"default", "\xff"}, {"\xff", "app"}, {"default", "a\0b"s}}) {
        CHECK(judged(kv::GetNamespace{name, {}}) == "not-found");
        CHECK(judged(kv::GetEntry{name, "k", {}, {}}) == "not-found");
        CHECK(judged(kv::BulkGet{name, {"k"}, {}}) == "not-found");
        CHECK(judged(kv::ListEntries{name, "", false, false, {}, {}, {}}) == "not-found");
    }
    CHECK(judged(kv::GetNamespace{kv::NamespaceId{}, {}}) == "ok");
    // What is wrong with the request itself comes first.
    CHECK(judged(kv::GetEntry{kv::NamespaceName{"default", "a/b"}, "a//b", {}, {}}) == "invalid-key keyPath");
}

TEST_CASE("a version is a number from one") {
    CHECK(judged(kv::GetEntry{some_namespace, "k", 1, {}}) == "ok");
    CHECK(judged(kv::GetEntry{some_namespace, "k", 0, {}}) == "invalid-request version 9223372036854775807");
    CHECK(judged(kv::GetEntry{some_namespace, "k", UINT64_MAX, {}}) == "invalid-request version 9223372036854775807");
    CHECK(with(rollback(), [](kv::RollbackEntry& r) { r.version = 0; }) == "invalid-request version 9223372036854775807");
    CHECK(with(rollback(), [](kv::RollbackEntry& r) { r.version = 3; }) == "ok");
}

TEST_CASE("an expected version may be zero but not beyond what is stored") {
    const auto expecting = [](std::uint64_t version) {
        return with(put(), [&](kv::PutEntry& r) { r.write.precondition.expected_version = version; });
    };
    CHECK(expecting(0) == "ok");
    CHECK(expecting(INT64_MAX) == "ok");
    CHECK(expecting(std::uint64_t{INT64_MAX} + 1) == "invalid-request expectedVersion 9223372036854775807");
    kv::Precondition wrong;
    wrong.expected_version = UINT64_MAX;
    const std::string refused = "invalid-request expectedVersion 9223372036854775807";
    CHECK(judged(kv::DeleteEntry{some_namespace, "k", false, wrong}) == refused);
    CHECK(judged(kv::PatchEntry{some_namespace, "k", {}, {}, wrong}) == refused);
    CHECK(judged(kv::DeleteNamespace{some_namespace, false, wrong}) == refused);
    CHECK(with(update(), [&](kv::UpdateNamespace& r) { r.precondition = wrong; }) == refused);
    CHECK(with(rotation(), [&](kv::RotateEntry& r) { r.precondition = wrong; }) == refused);
    CHECK(with(rollback(), [&](kv::RollbackEntry& r) { r.precondition = wrong; }) == refused);
}

TEST_CASE("a page has one to a thousand items, or fewer where so configured") {
    const auto page = [](std::uint64_t limit) { return kv::Page{limit, ""}; };
    kv::Limits limits;
    limits.page_items_max = 10;
    CHECK(judged(kv::ListVersions{some_namespace, "k", false, page(1), {}}) == "ok");
    CHECK(judged(kv::ListVersions{some_namespace, "k", false, page(1000), {}}) == "ok");
    CHECK(judged(kv::ListVersions{some_namespace, "k", false, page(0), {}}) == "invalid-request limit 1000");
    CHECK(judged(kv::ListEntries{some_namespace, "", false, false, {}, page(1001), {}}) == "invalid-request limit 1000");
    CHECK(judged(kv::ListNamespaces{{}, {}, false, page(11), {}}, limits) == "invalid-request limit 10");
    kv::ListAudit audit;
    audit.page = page(0);
    CHECK(judged(audit) == "invalid-request limit 1000");
}

TEST_CASE("metadata is an object of at most 16 KiB") {
    const auto tagged = [](std::string metadata) {
        return with(put(), [&](kv::PutEntry& r) { r.write.metadata = std::move(metadata); });
    };
    CHECK(tagged(R"({"owner":"me"})") == "ok");
    CHECK(tagged("[]") == "invalid-request metadata");
    CHECK(tagged("null") == "invalid-request metadata");
    CHECK(tagged("{\"a\":\"" + std::string(16 << 10, 'x') + "\"}") == "invalid-request metadata 16384");
    const auto patched = [](std::string metadata) { return judged(kv::PatchEntry{some_namespace, "k", {}, std::move(metadata), {}}); };
    CHECK(patched(R"({"owner":null})") == "ok");
    CHECK(patched("null") == "ok");
    CHECK(patched("[]") == "invalid-request metadata");
    CHECK(patched("{\"a\":\"" + std::string(16 << 10, 'x') + "\"}") == "invalid-request metadata 16384");
}

TEST_CASE("a comment is text of at most 4096 bytes") {
    const auto commented = [](const std::string& comment) {
        const std::string one = with(put(), [&](kv::PutEntry& r) { r.write.comment = comment; });
        const std::string two = with(rotation(), [&](kv::RotateEntry& r) { r.comment = comment; });
        const std::string three = with(rollback(), [&](kv::RollbackEntry& r) { r.comment = comment; });
        return one == two && two == three ? one : "differs";
    };
    CHECK(commented("why\nand how") == "ok");
    CHECK(commented(std::string(4097, 'c')) == "invalid-request comment 4096");
    CHECK(commented("\xc3") == "invalid-request comment");
    CHECK(commented("a\0b"s) == "invalid-request comment");
}

TEST_CASE("a generated value has 16 to 1024 characters") {
    const auto generated = [](std::uint32_t length) {
        return with(rotation(), [&](kv::RotateEntry& r) { r.value = kv::Generate{length, kv::Generate::Alphabet::hex}; });
    };
    CHECK(generated(16) == "ok");
    CHECK(generated(1024) == "ok");
    CHECK(generated(15) == "invalid-request length 1024");
    CHECK(generated(1025) == "invalid-request length 1024");
    CHECK(generated(0) == "invalid-request length 1024");
}

TEST_CASE("a bulk has one to a thousand items") {
    CHECK(judged(get_all(many_keys(1))) == "ok");
    CHECK(judged(get_all(many_keys(1000))) == "ok");
    CHECK(judged(get_all(many_keys(1001))) == "invalid-request keys 1000");
    CHECK(judged(get_all({})) == "invalid-request keys 1000");
    CHECK(judged(delete_all({})) == "invalid-request keys 1000");
    CHECK(judged(delete_all(many_keys(1001), false)) == "invalid-request keys 1000");
    CHECK(judged(set_all({})) == "invalid-request entries 1000");
    kv::Limits limits;
    limits.bulk_items_max = 2;
    CHECK(judged(get_all(many_keys(2)), limits) == "ok");
    CHECK(judged(get_all(many_keys(3)), limits) == "invalid-request keys 2");
}

TEST_CASE("the same key twice in a bulk is refused and named, atomic or not") {
    for (const kv::Request& request : std::vector<kv::Request>{get_all({"a", "b", "a"}), delete_all({"b", "a", "a"}), delete_all({"a", "a"}, false),
                                                               set_all({write_to("a"), write_to("b"), write_to("a")}),
                                                               set_all({write_to("a"), write_to("a")}, false)}) {
        auto result = kv::validate(someone, request, {});
        REQUIRE(result == Errc::invalid_request);
        CHECK(result.error().key_path == "a");
        CHECK(result.error().items.empty());
    }
    CHECK(judged(get_all({"a", "A", "a/b", "a "})) == "ok");
}

TEST_CASE("an atomic bulk names every invalid item and what is wrong with it") {
    auto late = write_to("late");
    late.ttl = kv::Ttl::after(0);
    auto odd = write_to("odd");
    odd.metadata = "[]";
    const auto request = set_all({write_to("good"), write_to("a//b"), late, write_to("x/rotate"), odd, write_to("\xff")});
    CHECK(items_of(request) ==
          "a//b invalid-key keyPath: the key path has an empty segment\n"
          "late invalid-request ttlSeconds: ttlSeconds is a number from 1 to 315360000\n"
          "x/rotate reserved-key-segment keyPath: the last segment names an operation\n"
          "odd invalid-request metadata: metadata is not a JSON object\n"
          " invalid-key keyPath: the key path is not valid UTF-8 (item 6)\n");
    auto result = kv::validate(someone, request, {});
    CHECK(result == Errc::invalid_key);
    CHECK(result.error().message == "5 of 6 items are not valid");
    CHECK(result.error().field == "entries");
    CHECK(items_of(get_all({"a", "/", "b", ""})) ==
          "/ invalid-key keyPath: the key path has an empty segment\n"
          " invalid-key keyPath: the key path is empty (item 4)\n");
    CHECK(items_of(delete_all({"ok", "versions"})) == "versions reserved-key-segment keyPath: the last segment names an operation\n");
}

TEST_CASE("the items of a bulk that is not atomic are left to be judged one by one") {
    CHECK(judged(set_all({write_to("a//b"), write_to("good")}, false)) == "ok");
    CHECK(judged(delete_all({"a//b", "rotate"}, false)) == "ok");
    CHECK(told(kv::validate_write(write_to("a//b"), {})) == "invalid-key keyPath");
    CHECK(told(kv::validate_write(write_to("good"), {})) == "ok");
}

TEST_CASE("an export's prefix is a folder, with or without its slash") {
    const auto below = [](std::string prefix) {
        return judged(kv::ExportEntries{some_namespace, std::move(prefix), kv::ExportEntries::Format::dotenv, {}});
    };
    for (const char* prefix : {"", "app", "app/", "app/prod", "app/versions/", "rotate"}) {
        CAPTURE(prefix);
        CHECK(below(prefix) == "ok");
    }
    for (const char* prefix : {"/", "//", "/app", "app//", "a/../b", ".", "a\n", "\xff"}) {
        CAPTURE(prefix);
        CHECK(below(prefix) == "invalid-request prefix");
    }
}

TEST_CASE("filters of the audit are lines of text") {
    CHECK(judged(kv::ListAudit{}) == "ok");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.key_path = "a//refused"; }) == "ok");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.key_path = "\xff"; }) == "invalid-request keyPath");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.user_id = "a\0b"s; }) == "invalid-request userId");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.credential_id = "\x01"; }) == "invalid-request credentialId");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.operation = std::string(65, 'o'); }) == "invalid-request operation 64");
    CHECK(with(kv::ListAudit{}, [](kv::ListAudit& r) { r.ns = kv::NamespaceName{"", ""}; }) == "not-found");
}

TEST_CASE("namespace filters follow the grammar of names") {
    CHECK(judged(kv::ListNamespaces{"default", "app", false, {}, {}}) == "ok");
    CHECK(judged(kv::ListNamespaces{"a/b", {}, false, {}, {}}) == "invalid-request applicationId");
    CHECK(judged(kv::ListNamespaces{{}, "a~b", false, {}, {}}) == "invalid-request name");
}

TEST_CASE("a refusal is recorded even with a key that was never one") {
    const auto refusal = [](std::string operation, std::string key_path) {
        return judged(kv::RecordRefusal{kv::AuditAction::read, std::move(operation), std::move(key_path), Errc::invalid_key});
    };
    CHECK(refusal("entry.get", "") == "ok");
    CHECK(refusal("entry.get", "a//b/../rotate") == "ok");
    CHECK(refusal("entry.get", "\xff") == "invalid-request keyPath");
    CHECK(refusal("", "a") == "invalid-request operation");
    CHECK(refusal(std::string(65, 'o'), "a") == "invalid-request operation 64");
}

TEST_CASE("who asks is told in bounded lines of text") {
    kv::Actor actor;
    CHECK(judged_as(actor) == "ok");
    actor.user_id = std::string(255, 'u');
    actor.request_id = std::string(128, '~');
    actor.peer = "[2001:db8::1]:443";
    CHECK(judged_as(actor) == "ok");
    const auto changed = [](std::string kv::Actor::*member, std::string text) {
        kv::Actor other;
        other.*member = std::move(text);
        return judged_as(other);
    };
    CHECK(changed(&kv::Actor::user_id, std::string(256, 'u')) == "invalid-request userId 255");
    CHECK(changed(&kv::Actor::user_id, "a\nb") == "invalid-request userId");
    CHECK(changed(&kv::Actor::user_id, "\xff") == "invalid-request userId");
    CHECK(changed(&kv::Actor::credential_id, "a\0"s) == "invalid-request credentialId");
    CHECK(changed(&kv::Actor::application_id, std::string(256, 'a')) == "invalid-request applicationId 255");
    CHECK(changed(&kv::Actor::peer, "\x1b[0m") == "invalid-request peer");
    CHECK(changed(&kv::Actor::request_id, std::string(129, 'r')) == "invalid-request requestId 128");
    for (const char* id : {"a b", "a\t", "caf\xc3\xa9", "\x7f"}) CHECK(changed(&kv::Actor::request_id, id) == "invalid-request requestId");
}

TEST_CASE("ordinary requests of every kind are well formed") {
    CHECK(judged(kv::ListNamespaces{}) == "ok");
    CHECK(judged(kv::GetNamespace{some_namespace, {}}) == "ok");
    CHECK(judged(update()) == "ok");
    CHECK(judged(kv::DeleteNamespace{some_namespace, true, {}}) == "ok");
    CHECK(judged(kv::RestoreNamespace{}) == "ok");
    CHECK(judged(kv::GetEntry{some_namespace, "db/host", {}, {}}) == "ok");
    CHECK(judged(put()) == "ok");
    CHECK(judged(kv::PatchEntry{some_namespace, "db/host", {}, {}, {}}) == "ok");
    CHECK(judged(kv::DeleteEntry{some_namespace, "db/host", true, {}}) == "ok");
    CHECK(judged(set_all({write_to("a"), write_to("b")})) == "ok");
    CHECK(judged(delete_all({"a", "b"})) == "ok");
    CHECK(judged(rotation()) == "ok");
    CHECK(judged(rollback()) == "ok");
    CHECK(judged(kv::ListVersions{some_namespace, "k", false, {}, {}}) == "ok");
}
