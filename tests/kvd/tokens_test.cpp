#include "kvd/auth/tokens.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "text.h"

namespace {

using kvd::TokenStore;
using kvd::TokenTable;

const kv::Time noon = *kv::parse_time("2026-01-01T12:00:00Z");

std::string hex(const kvd::TokenHash& hash) {
    return kv::hex_encode({reinterpret_cast<const char*>(hash.data()), hash.size()});
}

std::string grant(const std::string& permissions = R"(["kv-entry:read"])",
                  const std::string& application = R"("app-1")", const std::string& ns = R"("*")",
                  const std::string& keys = R"(["config/**","exact/key"])") {
    return R"({"permissions":)" + permissions + R"(,"applicationId":)" + application + R"(,"namespaceId":)" + ns +
           R"(,"keys":)" + keys + "}";
}

std::string token(const std::string& text, const std::string& grants, const std::string& more = "") {
    return R"({"userId":"svc-a","tokenSha256":")" + hex(kvd::hash_token(text)) + R"(","grants":[)" + grants + "]" +
           more + "}";
}

std::string error_of(const std::string& json) {
    const auto table = TokenTable::parse(json);
    return table ? "read" : table.error().message;
}

}  // namespace

TEST_CASE("a token is found by its hash and stands for its user and grants") {
    const auto table = TokenTable::parse("[" + token("secret-token", grant()) + "]");
    REQUIRE(table);
    CHECK(table->find(kvd::hash_token("other"), noon) == nullptr);
    const kvd::Credential* credential = table->find(kvd::hash_token("secret-token"), noon);
    REQUIRE(credential != nullptr);
    CHECK(credential->user_id == "svc-a");
    CHECK(credential->credential_id == "token:" + hex(kvd::hash_token("secret-token")).substr(0, 12));
    REQUIRE(credential->grants->size() == 1);
    const kv::Grant& first = credential->grants->front();
    CHECK(first.permissions == kv::PermissionSet{kv::Permission::entry_read});
    CHECK(first.application_id == "app-1");
    CHECK(std::holds_alternative<kv::Grant::AnyNamespace>(first.namespaces));
    REQUIRE(first.keys.size() == 2);
    CHECK(first.keys[0].matches("config/a"));
    CHECK(first.keys[1].matches("exact/key"));
    CHECK_FALSE(first.keys[1].matches("exact/key/below"));
}

TEST_CASE("the hash is SHA-256 of the token's bytes") {
    CHECK(hex(kvd::hash_token("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("a grant may name a namespace by id or by application and name") {
    const std::string id = "01890a5d-ac96-774b-bcce-b302099a8057";
    const auto table = TokenTable::parse(
        "[" +
        token("t", grant(R"(["*"])", R"("*")", '"' + id + '"') + "," + grant(R"(["*"])", R"("*")", R"("app~prod")")) +
        "]");
    REQUIRE(table);
    const auto& grants = *table->find(kvd::hash_token("t"), noon)->grants;
    CHECK(grants[0].permissions == kv::PermissionSet::all());
    CHECK(std::get<kv::NamespaceId>(grants[0].namespaces).to_string() == id);
    CHECK(std::get<kv::NamespaceName>(grants[1].namespaces) == kv::NamespaceName{"app", "prod"});
}

TEST_CASE("a token ends at the instant it says") {
    const auto table = TokenTable::parse("[" + token("t", grant(), R"(,"expiresAt":"2026-01-01T12:00:00Z")") + "]");
    REQUIRE(table);
    CHECK(table->find(kvd::hash_token("t"), noon - std::chrono::microseconds(1)) != nullptr);
    CHECK(table->find(kvd::hash_token("t"), noon) == nullptr);
    CHECK(table->usable(noon) == 0);
    CHECK(table->size() == 1);
}

TEST_CASE("what a tokens file may not hold is refused where it stands") {
    const std::string good = token("t", grant());
    CHECK(error_of("[" + good + "]") == "read");
    CHECK(error_of("[]") == "read");
    CHECK(error_of("{}") == "tokens: the file must hold one JSON array");
    CHECK(error_of("[1]") == "tokens[0]: must be an object");
    CHECK(error_of("[" + good + "," + good + "]") == "tokens[1].tokenSha256: stands in the file twice");
    CHECK(error_of("[" + token("t", grant(), R"(,"user":"x")") + "]") == "tokens[0]: unknown member \"user\"");
    CHECK(error_of(R"([{"userId":"a","grants":[]}])") == "tokens[0]: there is no \"tokenSha256\"");
    CHECK(error_of(R"([{"userId":"a","tokenSha256":"abc","grants":[]}])") ==
          "tokens[0].tokenSha256: must be the 64 hex digits of a SHA-256");
    CHECK(error_of("[" + token("t", grant(), R"(,"expiresAt":"soon")") + "]") ==
          "tokens[0].expiresAt: must be an RFC 3339 time");
    CHECK(error_of("[" + token("t", R"({"permissions":["*"]})") + "]") ==
          "tokens[0].grants[0]: there is no \"applicationId\"");
    CHECK(error_of("[" + token("t", grant(R"(["kv-entry:fly"])")) + "]") ==
          "tokens[0].grants[0].permissions: unknown permission \"kv-entry:fly\"");
    CHECK(error_of("[" + token("t", grant("[]")) + "]") ==
          "tokens[0].grants[0].permissions: must be an array of permissions or [\"*\"]");
    CHECK(error_of("[" + token("t", grant(R"(["*","kv-entry:read"])")) + "]") ==
          "tokens[0].grants[0].permissions: unknown permission \"*\"");
    CHECK(error_of("[" + token("t", grant(R"(["*"])", R"("")")) + "]") ==
          "tokens[0].grants[0].applicationId: must be 1 to 255 bytes without control characters");
    CHECK(error_of("[" + token("t", grant(R"(["*"])", R"("*")", R"("prod")")) + "]") ==
          "tokens[0].grants[0].namespaceId: must be a namespace's id, application~name, or \"*\"");
    CHECK(error_of("[" + token("t", grant(R"(["*"])", R"("*")", R"("*")", R"(["a/*"])")) + "]") ==
          "tokens[0].grants[0].keys: \"a/*\" is neither a key, nor \"folder/**\", nor \"*\"");
    CHECK(error_of("[" + good) != "read");
}

TEST_CASE("a tokens file is read again, and a bad one changes nothing") {
    std::string path = "/tmp/kvd_tokens_test_XXXXXX";
    const int file = mkstemp(path.data());
    REQUIRE(file >= 0);
    ::close(file);
    const auto write = [&path](const std::string& text) { std::ofstream(path) << text; };
    const auto knows = [](const TokenStore& store, const char* text) {
        kv::Actor actor;
        return store.identify(text, actor) ? actor.user_id : "nobody";
    };

    write("[" + token("first", grant()) + "]");
    auto opened = TokenStore::open({.path = path, .root_token = kvd::hash_token("root-token")});
    REQUIRE(opened);
    TokenStore& store = **opened;
    CHECK(knows(store, "first") == "svc-a");
    CHECK(knows(store, "root-token") == "root");
    CHECK(store.usable() == 2);

    kv::Actor under_way;
    REQUIRE(store.identify("first", under_way));
    write("[" + token("second", grant()) + "]");
    REQUIRE(store.reload());
    CHECK(knows(store, "first") == "nobody");
    CHECK(knows(store, "second") == "svc-a");
    CHECK(knows(store, "root-token") == "root");
    CHECK(under_way.grants->size() == 1);

    write("[" + token("third", grant()));
    CHECK_FALSE(store.reload());
    CHECK(knows(store, "second") == "svc-a");
    ::unlink(path.c_str());
    CHECK_FALSE(store.reload());
    CHECK(knows(store, "second") == "svc-a");
}

TEST_CASE("a missing tokens file is named") {
    const auto opened = TokenStore::open({.path = "/nonexistent/tokens.json", .root_token = {}});
    REQUIRE_FALSE(opened);
    CHECK(opened.error().message.rfind("/nonexistent/tokens.json: ", 0) == 0);
}

TEST_CASE("grants of the command line become grants of the file") {
    CHECK(kvd::parse_grant("*").value() ==
          R"({"permissions":["*"],"applicationId":"*","namespaceId":"*","keys":["*"]})");
    CHECK(
        kvd::parse_grant(
            "permissions=kv-entry:read,kv-entry:write;applicationId=app-1;namespaceId=app-1~prod;keys=config/**,a/b")
            .value() ==
        R"({"permissions":["kv-entry:read","kv-entry:write"],"applicationId":"app-1","namespaceId":"app-1~prod","keys":["config/**","a/b"]})");
    CHECK(kvd::parse_grant(grant()).value() == grant());
    for (const char* text : {"", "read", "permissions=", "permissions=*;keys=a/*", "permissions=*;key=a",
                             R"({"permissions":["*"]})", "{"}) {
        INFO(text);
        CHECK_FALSE(kvd::parse_grant(text));
    }
}

TEST_CASE("a made token and its line belong together") {
    const kv::SecretBytes made = kvd::generate_token();
    CHECK(made.size() >= 43);
    CHECK(made.reveal() != kvd::generate_token().reveal());
    const std::string line =
        kvd::token_line("alice", kvd::hash_token(made.reveal()), "2030-01-01T00:00:00Z", {grant()});
    const auto table = TokenTable::parse("[" + line + "]");
    REQUIRE(table);
    const kvd::Credential* credential = table->find(kvd::hash_token(made.reveal()), noon);
    REQUIRE(credential != nullptr);
    CHECK(credential->user_id == "alice");
    CHECK(kv::format_time(*credential->expires_at) == "2030-01-01T00:00:00.000Z");
}
