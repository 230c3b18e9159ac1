#include "kvd/routes.h"

#include <doctest/doctest.h>

#include "json/json.h"
#include "kvd/header_fields.h"
#include "kvd/query.h"
#include "kvd/status.h"
#include "kvd/web/assets.h"
#include "fake_client.h"

using kv::Errc;

namespace {

const std::string base = "/api/v1/kv";
const std::string ns_id = "0190a3c0-1111-7222-8333-444455556666";
const std::string entry_path = base + "/app~ns/entries/";

// "entry.get ns=app~ns key=a/b", "not-found", or "method-not-allowed GET, HEAD".
std::string route_of(std::string_view method, std::string_view path) {
    auto found = kvd::match_route(method, path);
    if (const auto* none = std::get_if<kvd::NoRoute>(&found)) {
        std::string text(kv::code_name(none->error.code));
        return none->allow.empty() ? text : text + " " + none->allow;
    }
    const auto& match = std::get<kvd::RouteMatch>(found);
    std::string text = match.route->operation;
    if (!match.ns.empty()) text += " ns=" + match.ns;
    if (!match.key.empty()) text += " key=" + match.key;
    if (match.fault) text += " fault=" + std::string(kv::code_name(match.fault->code));
    return text;
}

kvd::HttpRequest request_of(std::string method, std::string_view target, std::string_view body = {}) {
    kvd::HttpRequest request;
    request.method = std::move(method);
    std::size_t mark = target.find('?');
    request.has_query = mark != std::string_view::npos;
    request.path = std::string(target.substr(0, mark));
    if (request.has_query) request.query = std::string(target.substr(mark + 1));
    request.body = std::string(body);
    request.request_id = "req-1";
    return request;
}

kvd::HttpResponse respond(FakeClient& client, kvd::HttpRequest request) {
    auto found = kvd::match_route(request.method, request.path);
    REQUIRE(std::holds_alternative<kvd::RouteMatch>(found));
    std::optional<kvd::HttpResponse> response;
    kvd::Router router(client);
    router.handle(std::get<kvd::RouteMatch>(std::move(found)), std::move(request), kv::Actor::trusted("ann"),
                  [&](kvd::HttpResponse answer) {
                      CHECK(!response);
                      response.emplace(std::move(answer));
                  });
    REQUIRE(response);
    return *std::move(response);
}

std::string header(const kvd::HttpResponse& response, std::string_view name) {
    for (const auto& [key, value] : response.headers) {
        if (key == name) return value;
    }
    return "(none)";
}

std::string member(const kvd::HttpResponse& response, std::string_view name) {
    auto node = kv::json::parse(response.body);
    REQUIRE(node);
    const kv::json::Node* found = node->find(name);
    return found ? found->text : "(none)";
}

// What the request became: parses it and gives the struct that libkv was asked with.
template <class T>
T asked(kvd::HttpRequest request) {
    FakeClient client;
    respond(client, std::move(request));
    REQUIRE(client.requests.size() == 1);
    REQUIRE(std::holds_alternative<T>(client.requests[0]));
    return std::get<T>(std::move(client.requests[0]));
}

// "400 invalid-request limit" for a request that is refused before libkv sees it; its refusal is recorded.
std::string refused(kvd::HttpRequest request) {
    FakeClient client;
    kvd::HttpResponse response = respond(client, std::move(request));
    REQUIRE(client.requests.size() == 1);
    REQUIRE(std::holds_alternative<kv::RecordRefusal>(client.requests[0]));
    CHECK(kv::code_name(std::get<kv::RecordRefusal>(client.requests[0]).reason) == member(response, "code"));
    CHECK(response.content_type == "application/problem+json");
    std::string text = std::to_string(response.status) + " " + member(response, "code");
    return member(response, "field") == "(none)" ? text : text + " " + member(response, "field");
}

kv::EntryReply entry_reply(std::string_view value = "v") {
    kv::EntryReply reply;
    reply.entry.key_path = "a";
    reply.entry.value = kv::SecretBytes(value);
    reply.etag = "e-1";
    return reply;
}

}  // namespace

TEST_CASE("every route is found by its own pattern") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.pattern));
        auto found = kvd::match_route(route.method, route.pattern, route.listener);
        REQUIRE(std::holds_alternative<kvd::RouteMatch>(found));
        CHECK(std::get<kvd::RouteMatch>(found).route == &route);
    }
}

TEST_CASE("no route is found on the other listener") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.pattern));
        const bool is_admin = route.listener == kvd::ListenerKind::admin;
        auto found = kvd::match_route(route.method, route.pattern, is_admin ? kvd::ListenerKind::api : kvd::ListenerKind::admin);
        REQUIRE(std::holds_alternative<kvd::NoRoute>(found));
        CHECK(std::get<kvd::NoRoute>(found).error.code == kv::Errc::not_found);
    }
}

TEST_CASE("no two routes share an operation, or a method and pattern") {
    for (const kvd::Route& one : kvd::route_table()) {
        for (const kvd::Route& other : kvd::route_table()) {
            if (&one == &other) continue;
            CHECK(std::string_view(one.operation) != other.operation);
            CHECK(std::string(one.method) + one.pattern != std::string(other.method) + other.pattern);
        }
    }
}

TEST_CASE("a key is the rest of the path, decoded once") {
    CHECK(route_of("GET", entry_path + "a") == "entry.get ns=app~ns key=a");
    CHECK(route_of("GET", entry_path + "database/connection-string") == "entry.get ns=app~ns key=database/connection-string");
    CHECK(route_of("GET", entry_path + "a%2Fb%2fc") == "entry.get ns=app~ns key=a/b/c");
    CHECK(route_of("GET", entry_path + "a%252Fb") == "entry.get ns=app~ns key=a%2Fb");
    CHECK(route_of("GET", entry_path + "a+b%20c") == "entry.get ns=app~ns key=a+b c");
    CHECK(route_of("GET", entry_path + "%C3%A9") == "entry.get ns=app~ns key=\xc3\xa9");
    CHECK(route_of("GET", base + "/" + ns_id + "/entries/a") == "entry.get ns=" + ns_id + " key=a");
    CHECK(route_of("GET", base + "/app~my%20ns/entries") == "entry.list ns=app~my ns");
}

TEST_CASE("the grammar of keys is left to libkv, which judges it after the credential") {
    CHECK(route_of("GET", entry_path) == "entry.get ns=app~ns");
    CHECK(route_of("GET", entry_path + "a/") == "entry.get ns=app~ns key=a/");
    CHECK(route_of("GET", entry_path + "a//b") == "entry.get ns=app~ns key=a//b");
    CHECK(route_of("GET", entry_path + "../x") == "entry.get ns=app~ns key=../x");
    CHECK(route_of("GET", entry_path + "%C0%AF") == "entry.get ns=app~ns key=\xc0\xaf");
    CHECK(route_of("GET", entry_path + "a%00") == std::string("entry.get ns=app~ns key=a\0", 26));
    CHECK(asked<kv::GetEntry>(request_of("GET", entry_path + "a//b")).key_path == "a//b");
}

TEST_CASE("a percent escape that is none is told to whoever may ask at all") {
    for (const char* key : {"%", "%4", "%zz", "a/%G0", "%%41"}) {
        CAPTURE(key);
        CHECK(route_of("GET", entry_path + key) == "entry.get ns=app~ns fault=invalid-key");
        CHECK(refused(request_of("GET", entry_path + key)) == "400 invalid-key keyPath");
    }
    CHECK(refused(request_of("GET", base + "/%zz/entries/a")) == "400 invalid-request id");
}

TEST_CASE("an operation is the last segment behind at least one of a key") {
    CHECK(route_of("POST", entry_path + "api-key/rotate") == "entry.rotate ns=app~ns key=api-key");
    CHECK(route_of("POST", entry_path + "a/b/rollback") == "entry.rollback ns=app~ns key=a/b");
    CHECK(route_of("GET", entry_path + "a/versions") == "entry.versions ns=app~ns key=a");
    CHECK(route_of("POST", entry_path + "a%2Frotate") == "entry.rotate ns=app~ns key=a");
    CHECK(route_of("POST", entry_path + "rotate/rotate") == "entry.rotate ns=app~ns key=rotate");
    // Else it is a key that libkv refuses as reserved.
    CHECK(route_of("PUT", entry_path + "a/rotate") == "entry.put ns=app~ns key=a/rotate");
    CHECK(route_of("GET", entry_path + "versions") == "entry.get ns=app~ns key=versions");
    CHECK(route_of("DELETE", entry_path + "rollback") == "entry.delete ns=app~ns key=rollback");
    CHECK(route_of("GET", entry_path + "a/versions/b") == "entry.get ns=app~ns key=a/versions/b");
    CHECK(route_of("GET", entry_path + "a/xversions") == "entry.get ns=app~ns key=a/xversions");
}

TEST_CASE("a path that no route has is not found") {
    for (const char* path : {"/", "", "/api/v1/kv", "/api/v1/kv/", "/api/v1/kv/namespaces/x/y", "/api/v1/kv/namespaces/x/",
                             "/api/v1/kv/namespaces/", "/api/v2/kv/namespaces", "/api/v1/kv/app~ns", "/api/v1/kv/app~ns/bulk",
                             "/api/v1/kv/app~ns/bulk/put", "/api/v1/kv/%6Eamespaces", "//api/v1/kv/namespaces",
                             "/api/v1/kv/audit/x", "/api/v1/kv/swagger-ui/a/b"}) {
        CAPTURE(path);
        // An empty {id} is a route whose namespace libkv is never asked for.
        std::string found = route_of("GET", path);
        if (std::string_view(path) == "/api/v1/kv/namespaces/") CHECK(found == "namespace.get");
        else CHECK(found == "not-found");
    }
    CHECK(asked<kv::GetNamespace>(request_of("GET", base + "/namespaces/")).ns == kv::NamespaceRef(kv::NamespaceName{}));
}

TEST_CASE("a method that a path does not take is answered with those it takes") {
    CHECK(route_of("PATCH", base + "/namespaces") == "method-not-allowed GET, POST");
    CHECK(route_of("POST", base + "/namespaces/x") == "method-not-allowed GET, PUT, DELETE");
    CHECK(route_of("OPTIONS", entry_path + "a") == "method-not-allowed GET, HEAD, PUT, PATCH, DELETE");
    CHECK(route_of("OPTIONS", entry_path + "a/rotate") == "method-not-allowed POST");
    CHECK(route_of("POST", entry_path + "a/versions") == "method-not-allowed GET");
    CHECK(route_of("POST", entry_path + "rotate") == "method-not-allowed GET, HEAD, PUT, PATCH, DELETE");
    CHECK(route_of("HEAD", base + "/namespaces") == "method-not-allowed GET, POST");
    CHECK(route_of("HEAD", entry_path + "a") == "entry.get ns=app~ns key=a");
    CHECK(route_of("get", entry_path + "a") == "method-not-allowed GET, HEAD, PUT, PATCH, DELETE");
}

TEST_CASE("an identifier that is neither a UUID nor a name names no namespace, once all else is right") {
    // The name that no namespace has is answered not-found by libkv, which first judges key, page and so on.
    const kv::NamespaceRef none = kv::NamespaceName{};
    CHECK(asked<kv::ListEntries>(request_of("GET", base + "/nonsense/entries")).ns == none);
    CHECK(asked<kv::PutEntry>(request_of("PUT", base + "/nonsense/entries/a", R"({"value":1})")).ns == none);
    CHECK(refused(request_of("GET", base + "/nonsense/entries?limit=x")) == "400 invalid-request limit");
    CHECK(refused(request_of("POST", base + "/namespaces/app~ns/restore")) == "404 not-found");
    auto upper = asked<kv::GetNamespace>(request_of("GET", base + "/namespaces/0190A3C0-1111-7222-8333-444455556666"));
    CHECK(std::get<kv::Uuid>(upper.ns).to_string() == ns_id);
    auto named = asked<kv::GetNamespace>(request_of("GET", base + "/namespaces/app-123~production"));
    CHECK(std::get<kv::NamespaceName>(named.ns).application_id == "app-123");
}

TEST_CASE("a query is read strictly") {
    const std::string list = base + "/app~ns/entries";
    CHECK(refused(request_of("GET", list + "?Prefix=a")) == "400 invalid-request Prefix");
    CHECK(refused(request_of("GET", list + "?prefix=a&prefix=b")) == "400 invalid-request prefix");
    CHECK(refused(request_of("GET", list + "?includeValues=1")) == "400 invalid-request includeValues");
    CHECK(refused(request_of("GET", list + "?includeValues")) == "400 invalid-request includeValues");
    CHECK(refused(request_of("GET", list + "?limit=")) == "400 invalid-request limit");
    CHECK(refused(request_of("GET", list + "?limit=-1")) == "400 invalid-request limit");
    CHECK(refused(request_of("GET", list + "?limit=18446744073709551616")) == "400 invalid-request limit");
    CHECK(refused(request_of("GET", list + "?delimiter=.")) == "400 invalid-request delimiter");
    CHECK(refused(request_of("GET", list + "?prefix=%zz")) == "400 invalid-request prefix");
    CHECK(refused(request_of("GET", list + "?prefix=%FF")) == "400 invalid-request prefix");
    CHECK(refused(request_of("GET", list + "?expiringBefore=tomorrow")) == "400 invalid-request expiringBefore");
    CHECK(refused(request_of("POST", base + "/app~ns/bulk/get?limit=1", R"({"keys":[]})")) == "400 invalid-request limit");
    CHECK(asked<kv::ListEntries>(request_of("GET", list + "?")).prefix.empty());
}

TEST_CASE("a list is asked for with all it may say") {
    auto list = asked<kv::ListEntries>(request_of(
        "GET", base + "/app~ns/entries?prefix=config/data+b%2Bse&delimiter=%2F&includeValues=true&limit=5&cursor=c&expiringBefore=2024-01-15T10:00:00Z"));
    CHECK(list.prefix == "config/data b+se");
    CHECK(list.fold_folders);
    CHECK(list.include_values);
    CHECK(list.page.limit == 5u);
    CHECK(list.page.cursor == "c");
    CHECK(kv::format_time(*list.expiring_before) == "2024-01-15T10:00:00.000Z");

    auto plain = asked<kv::ListEntries>(request_of("GET", base + "/app~ns/entries?prefix=config/database"));
    CHECK(plain.prefix == "config/database");
    CHECK(!plain.fold_folders);
    CHECK(!plain.include_values);
    CHECK(!plain.page.limit);
}

TEST_CASE("the audit log is asked for with all its filters") {
    auto list = asked<kv::ListAudit>(request_of(
        "GET", base + "/audit?namespaceId=" + ns_id +
                   "&keyPath=a/b&userId=u&credentialId=c&action=ROTATE&operation=entry.rotate&success=false"
                   "&from=2024-01-15T10:00:00Z&to=2024-01-15T12:00:00%2B01:00&order=asc"));
    CHECK(std::get<kv::Uuid>(*list.ns).to_string() == ns_id);
    CHECK(list.key_path == "a/b");
    CHECK(list.user_id == "u");
    CHECK(list.credential_id == "c");
    CHECK(list.action == kv::AuditAction::rotate);
    CHECK(list.operation == "entry.rotate");
    CHECK(list.success == false);
    CHECK(kv::format_time(*list.to) == "2024-01-15T11:00:00.000Z");
    CHECK(!list.newest_first);
    CHECK(asked<kv::ListAudit>(request_of("GET", base + "/audit")).newest_first);
    CHECK(refused(request_of("GET", base + "/audit?action=read")) == "400 invalid-request action");
    CHECK(refused(request_of("GET", base + "/audit?order=up")) == "400 invalid-request order");
    CHECK(refused(request_of("GET", base + "/audit?namespaceId=x")) == "400 invalid-request namespaceId");
    CHECK(refused(request_of("GET", base + "/audit?from=2024-01-15T12:00:00+01:00")) == "400 invalid-request from");
}

TEST_CASE("bodies are JSON, or bytes where a PUT says so") {
    kvd::HttpRequest json = request_of("PUT", entry_path + "a?includeValue=true", R"({"value":1})");
    json.content_type = "Application/JSON ; charset=utf-8";
    CHECK(asked<kv::PutEntry>(std::move(json)).include_value);

    kvd::HttpRequest bytes = request_of("PUT", entry_path + "a", std::string_view("\0\xff", 2));
    bytes.content_type = "application/octet-stream";
    auto put = asked<kv::PutEntry>(std::move(bytes));
    CHECK(put.write.key_path == "a");
    CHECK(put.write.value.form == kv::ValueInput::Form::bytes);
    CHECK(put.write.value.data.reveal() == std::string_view("\0\xff", 2));
    CHECK(put.write.ttl.kind == kv::Ttl::Kind::absent);

    for (const char* type : {"text/plain", "application/json; version=2", "application/merge-patch+json", "json"}) {
        CAPTURE(type);
        kvd::HttpRequest request = request_of("PUT", entry_path + "a", R"({"value":1})");
        request.content_type = type;
        CHECK(refused(std::move(request)) == "415 unsupported-media-type Content-Type");
    }
    kvd::HttpRequest patch = request_of("PATCH", entry_path + "a", R"({"ttlSeconds":5})");
    patch.content_type = "application/merge-patch+json";
    CHECK(asked<kv::PatchEntry>(std::move(patch)).ttl.seconds == 5);

    CHECK(refused(request_of("PUT", entry_path + "a")) == "400 malformed-body");
    CHECK(refused(request_of("GET", entry_path + "a", "{}")) == "400 invalid-request");
}

TEST_CASE("bodies that may be absent may be absent") {
    CHECK(!asked<kv::RollbackEntry>(request_of("POST", entry_path + "a/rollback")).version);
    CHECK(asked<kv::RollbackEntry>(request_of("POST", entry_path + "a/rollback", R"({"version":2})")).version == 2u);
    CHECK(asked<kv::RestoreNamespace>(request_of("POST", base + "/namespaces/" + ns_id + "/restore")).ns.to_string() == ns_id);
    CHECK(asked<kv::RestoreNamespace>(request_of("POST", base + "/namespaces/" + ns_id + "/restore", "{}")).ns.to_string() == ns_id);
    CHECK(asked<kv::DeleteEntry>(request_of("DELETE", entry_path + "a?purge=true")).purge);
    CHECK(asked<kv::DeleteEntry>(request_of("DELETE", entry_path + "a", R"({"expectedVersion":2})")).precondition.expected_version == 2u);
    CHECK(refused(request_of("POST", entry_path + "a/rotate")) == "400 malformed-body");
}

TEST_CASE("If-Match and If-None-Match of a write become its precondition") {
    auto precondition = [](const char* if_match, const char* if_none_match) {
        kvd::HttpRequest request = request_of("PUT", entry_path + "a", R"({"value":1,"expectedVersion":3})");
        request.if_match = if_match;
        request.if_none_match = if_none_match;
        return asked<kv::PutEntry>(std::move(request)).write.precondition;
    };
    CHECK(precondition("", "").expected_version == 3u);
    CHECK(!precondition("", "").if_match);
    CHECK(precondition("\"e-1\"", "").if_match == std::vector<std::string>{"e-1"});
    CHECK(precondition("\"a,b\" ,\t\"c\",", "").if_match == std::vector<std::string>{"a,b", "c"});
    CHECK(precondition("W/\"a\"", "").if_match == std::vector<std::string>{});
    CHECK(precondition(" * ", "").if_match_any);
    CHECK(!precondition(" * ", "").if_match);
    CHECK(precondition("", "*").if_none_match_any);
}

TEST_CASE("a malformed condition is refused") {
    for (const char* condition : {"e-1", "\"", "\"a\" \"b\"", "*, \"a\"", "w/\"a\"", "W/ \"a\"", "\"a b\"", ","}) {
        CAPTURE(condition);
        kvd::HttpRequest write = request_of("DELETE", entry_path + "a");
        write.if_match = condition;
        CHECK(refused(std::move(write)) == "400 invalid-request If-Match");
        kvd::HttpRequest read = request_of("GET", entry_path + "a");
        read.if_none_match = condition;
        CHECK(refused(std::move(read)) == "400 invalid-request If-None-Match");
    }
    kvd::HttpRequest write = request_of("DELETE", entry_path + "a");
    write.if_none_match = "\"a\"";
    CHECK(refused(std::move(write)) == "400 invalid-request If-None-Match");
}

TEST_CASE("a list waits behind a revision, for a while") {
    auto list = asked<kv::ListEntries>(request_of("GET", base + "/app~ns/entries?waitRevision=17&timeoutSeconds=5"));
    CHECK(list.wait_revision == 17u);
    CHECK(list.wait_seconds == 5);
    CHECK(asked<kv::ListEntries>(request_of("GET", base + "/app~ns/entries?waitRevision=0")).wait_seconds == 60);
    CHECK_FALSE(asked<kv::ListEntries>(request_of("GET", base + "/app~ns/entries")).wait_revision);
    CHECK(refused(request_of("GET", base + "/app~ns/entries?timeoutSeconds=5")) == "400 invalid-request timeoutSeconds");
}

TEST_CASE("what was waited for does not count as slow") {
    for (const auto& [query, is_awaited] : {std::pair("", false), std::pair("?waitRevision=3", true)}) {
        FakeClient client;
        client.answer = kv::Reply(kv::EntryList{});
        CHECK(respond(client, request_of("GET", base + "/app~ns/entries" + query)).was_awaited == is_awaited);
    }
}

TEST_CASE("a watch begins behind the event its client heard last, or behind a revision, or now") {
    auto watch = asked<kv::WatchEntries>(request_of("GET", base + "/app~ns/watch?prefix=config/&fromRevision=3"));
    CHECK(watch.prefix == "config/");
    CHECK(watch.from_revision == 3u);
    kvd::HttpRequest again = request_of("GET", base + "/app~ns/watch?fromRevision=3");
    again.last_event_id = "18446744073709551615";
    CHECK(asked<kv::WatchEntries>(std::move(again)).from_revision == UINT64_MAX);
    CHECK_FALSE(asked<kv::WatchEntries>(request_of("GET", base + "/app~ns/watch")).from_revision);
    for (const char* text : {"x", "-1", "1 ", "18446744073709551616", "0x1"}) {
        CAPTURE(text);
        kvd::HttpRequest wrong = request_of("GET", base + "/app~ns/watch");
        wrong.last_event_id = text;
        CHECK(refused(std::move(wrong)) == "400 invalid-request Last-Event-ID");
    }
    kvd::HttpRequest old = request_of("GET", base + "/app~ns/watch");
    old.is_http_1_0 = true;
    CHECK(refused(std::move(old)) == "400 invalid-request");
}

TEST_CASE("If-None-Match of a read compares weakly") {
    kvd::HttpRequest request = request_of("GET", entry_path + "a?version=2");
    request.if_none_match = "\"a\", W/\"b\"";
    auto get = asked<kv::GetEntry>(std::move(request));
    CHECK(get.if_none_match == std::vector<std::string>{"a", "b"});
    CHECK(get.version == 2u);
}

TEST_CASE("an export is asked for by folder and format") {
    auto wanted = asked<kv::ExportEntries>(request_of("GET", base + "/app~ns/export?prefix=config/db&format=yaml"));
    CHECK(wanted.prefix == "config/db");
    CHECK(wanted.format == kv::ExportEntries::Format::yaml);
    CHECK(refused(request_of("GET", base + "/app~ns/export?format=xml")) == "400 invalid-request format");
}

TEST_CASE("a new namespace is answered with where it is") {
    FakeClient client;
    kv::NamespaceReply reply;
    reply.ns.id = *kv::Uuid::parse(ns_id);
    reply.etag = "e-1";
    client.answer = kv::Reply(reply);
    kvd::HttpResponse response = respond(client, request_of("POST", base + "/namespaces", R"({"name":"n"})"));
    CHECK(response.status == 201);
    CHECK(header(response, "Location") == base + "/namespaces/" + ns_id);
    CHECK(header(response, "ETag") == "\"e-1\"");
    CHECK(member(response, "id") == ns_id);
}

TEST_CASE("a PUT answers 201 where it created and 200 where it updated") {
    FakeClient client;
    kv::EntryReply reply = entry_reply();
    reply.created = true;
    client.answer = kv::Reply(reply);
    CHECK(respond(client, request_of("PUT", entry_path + "a", R"({"value":1})")).status == 201);
    reply.created = false;
    client.answer = kv::Reply(reply);
    CHECK(respond(client, request_of("PUT", entry_path + "a", R"({"value":1})")).status == 200);
}

TEST_CASE("a DELETE answers nothing but that it is done") {
    FakeClient client;
    kvd::HttpResponse response = respond(client, request_of("DELETE", entry_path + "a"));
    CHECK(response.status == 204);
    CHECK(response.body.empty());
    CHECK(response.content_type.empty());
}

TEST_CASE("an entry is read as JSON, or as its bytes alone") {
    FakeClient client;
    client.answer = kv::Reply(entry_reply(std::string_view("\0\xff", 2)));
    auto read = [&](const char* accept) {
        kvd::HttpRequest request = request_of("GET", entry_path + "a");
        request.accept = accept;
        return respond(client, std::move(request));
    };
    for (const char* accept : {"application/octet-stream", "text/html, Application/Octet-Stream;q=0.5, */*;q=0.1",
                               "application/json;q=0.5, application/octet-stream"}) {
        CAPTURE(accept);
        kvd::HttpResponse response = read(accept);
        CHECK(response.status == 200);
        CHECK(response.content_type == "application/octet-stream");
        CHECK(response.body == std::string_view("\0\xff", 2));
        CHECK(header(response, "ETag") == "\"e-1\"");
    }
    client.answer = kv::Reply(entry_reply());
    for (const char* accept : {"", "*/*", "application/json", "application/json, application/octet-stream",
                               "application/octet-stream;q=0"}) {
        CAPTURE(accept);
        kvd::HttpResponse response = read(accept);
        CHECK(response.content_type == "application/json");
        CHECK(member(response, "value") == "v");
    }
}

TEST_CASE("what the caller has already is answered 304 without a body") {
    FakeClient client;
    kv::EntryReply reply = entry_reply();
    reply.not_modified = true;
    client.answer = kv::Reply(reply);
    kvd::HttpRequest request = request_of("GET", entry_path + "a");
    request.accept = "application/octet-stream";
    kvd::HttpResponse response = respond(client, std::move(request));
    CHECK(response.status == 304);
    CHECK(response.body.empty());
    CHECK(response.content_type.empty());
    CHECK(header(response, "ETag") == "\"e-1\"");
}

TEST_CASE("prefixes are answered where a delimiter was given") {
    FakeClient client;
    client.answer = kv::Reply(kv::EntryList{});
    CHECK(respond(client, request_of("GET", base + "/app~ns/entries?delimiter=/")).body ==
          R"({"items":[],"prefixes":[],"nextCursor":null,"revision":0})");
    CHECK(respond(client, request_of("GET", base + "/app~ns/entries")).body == R"({"items":[],"nextCursor":null,"revision":0})");
}

TEST_CASE("an export is text, or JSON if that was asked for") {
    FakeClient client;
    kv::ExportReply reply;
    reply.text = kv::SecretBytes("A=\"b\"\n");
    reply.etag = "e";
    client.answer = kv::Reply(reply);
    kvd::HttpResponse text = respond(client, request_of("GET", base + "/app~ns/export"));
    CHECK(text.content_type == "text/plain; charset=utf-8");
    CHECK(text.body == "A=\"b\"\n");
    CHECK(respond(client, request_of("GET", base + "/app~ns/export?format=json")).content_type == "application/json");
}

TEST_CASE("what libkv refuses is answered as a problem") {
    FakeClient client;
    kv::Error error{Errc::version_conflict, "the entry has another version", "driver words"};
    error.current_version = 4;
    client.answer = error;
    kvd::HttpResponse response = respond(client, request_of("PUT", entry_path + "a", R"({"value":1})"));
    CHECK(response.status == 409);
    CHECK(response.content_type == "application/problem+json");
    CHECK(member(response, "code") == "version-conflict");
    CHECK(member(response, "requestId") == "req-1");
    CHECK(member(response, "currentVersion") == "4");
    CHECK(response.body.find("driver words") == std::string::npos);
}

TEST_CASE("a request that does not parse is recorded, then answered") {
    FakeClient client;
    kvd::HttpResponse response = respond(client, request_of("POST", entry_path + "a/b/rotate", "{"));
    CHECK(response.status == 400);
    REQUIRE(client.requests.size() == 1);
    const auto& refusal = std::get<kv::RecordRefusal>(client.requests[0]);
    CHECK(refusal.action == kv::AuditAction::rotate);
    CHECK(refusal.operation == "entry.rotate");
    CHECK(refusal.key_path == "a/b");
    CHECK(refusal.reason == Errc::malformed_body);
    CHECK(client.actors[0].user_id == "ann");
}

TEST_CASE("a refusal that cannot be recorded is not given") {
    FakeClient client;
    client.answer = kv::Error{Errc::audit_unavailable, "the audit log cannot be written"};
    kvd::HttpResponse response = respond(client, request_of("PUT", entry_path + "a", "{"));
    CHECK(response.status == 503);
    CHECK(member(response, "code") == "audit-unavailable");
    CHECK(header(response, "Retry-After") == "1");
}

TEST_CASE("a key that is no text is left out of the record of a refusal") {
    FakeClient client;
    respond(client, request_of("GET", entry_path + "%FF?limit=1"));
    CHECK(std::get<kv::RecordRefusal>(client.requests[0]).key_path.empty());
    respond(client, request_of("GET", entry_path + std::string(1025, 'a') + "?limit=1"));
    CHECK(std::get<kv::RecordRefusal>(client.requests[1]).key_path.empty());
}

TEST_CASE("a request refused before it had an actor is recorded with its route and key") {
    FakeClient client;
    kvd::Router router(client);
    kvd::HttpRequest request = request_of("GET", entry_path + "a/b");
    auto found = kvd::match_route(request.method, request.path);
    std::optional<kvd::HttpResponse> response;
    router.refuse(std::get<kvd::RouteMatch>(found).route, request, kv::Actor{}, {Errc::unauthenticated, "a token is needed"},
                  [&](kvd::HttpResponse answer) { response.emplace(std::move(answer)); });
    REQUIRE(response);
    CHECK(response->status == 401);
    CHECK(header(*response, "WWW-Authenticate") == "Bearer");
    const auto& refusal = std::get<kv::RecordRefusal>(client.requests[0]);
    CHECK(refusal.operation == "entry.get");
    CHECK(refusal.key_path == "a/b");

    router.refuse(nullptr, request_of("GET", "/nowhere"), kv::Actor{}, {Errc::too_large, "too large"}, [](kvd::HttpResponse) {});
    CHECK(std::get<kv::RecordRefusal>(client.requests[1]).operation == "request");
}

TEST_CASE("a reply of another kind than the route's is an internal error, not a crash") {
    FakeClient client;
    client.answer = kv::Reply(kv::AuditList{});
    CHECK(respond(client, request_of("GET", entry_path + "a")).status == 500);
}

TEST_CASE("what only a host program meets is shown as internal") {
    kvd::HttpResponse response = kvd::problem({Errc::invalid_state, "called after fork"}, "r");
    CHECK(response.status == 500);
    CHECK(member(response, "code") == "internal");
    CHECK(response.body.find("fork") == std::string::npos);
}

TEST_CASE("the viewer runs its own scripts and nothing else") {
    FakeClient client;
    for (const char* page : {"/swagger-ui", "/swagger-ui/", "/swagger-ui/index.html"}) {
        kvd::HttpResponse response = respond(client, request_of("GET", base + page));
        CHECK(response.status == 200);
        CHECK(response.content_type == "text/html; charset=utf-8");
        CHECK(header(response, "Content-Security-Policy").find("default-src 'none'") == 0);
        CHECK(response.body.find("://") == std::string::npos);
    }
    CHECK(respond(client, request_of("GET", base + "/swagger-ui/none.js")).status == 404);
    CHECK(respond(client, request_of("GET", base + "/swagger-ui/%zz")).status == 400);
    CHECK(client.requests.empty());
}

TEST_CASE("the viewer's large files are compressed for whoever takes that") {
    if (!kvd::web::has_viewer()) return;
    FakeClient client;
    auto script = [&](const char* accept_encoding) {
        kvd::HttpRequest request = request_of("GET", base + "/swagger-ui/swagger-ui-bundle.js");
        request.accept_encoding = accept_encoding;
        return respond(client, std::move(request));
    };
    CHECK(header(script("gzip, deflate, br"), "Content-Encoding") == "gzip");
    CHECK(script("gzip").body.substr(0, 2) == "\x1f\x8b");
    CHECK(header(script("gzip;q=0, *"), "Content-Encoding") == "(none)");
    CHECK(header(script(""), "Content-Encoding") == "(none)");
    CHECK(script("").body.size() > script("*").body.size());
}

TEST_CASE("the table can be read by a program") {
    auto table = kv::json::parse(kvd::routes_json());
    REQUIRE(table);
    REQUIRE(table->items.size() == kvd::route_table().size());
    const kv::json::Node& first = table->items.front();
    CHECK(first.find("operation")->text == "namespace.list");
    CHECK(first.find("permissions")->items.at(0).text == "kv-namespace:read");
}
