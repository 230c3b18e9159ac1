#include "kvd/json.h"

#include <doctest/doctest.h>

#include "json/json.h"

using kv::Errc;

namespace {

// "invalid-request ttlSeconds: must be an integer", or "ok".
std::string describe(const kv::Result<void>& result) {
    if (result) return "ok";
    return std::string(kv::code_name(result.error().code)) + " " + result.error().field + ": " + result.error().message;
}

template <class T>
std::string fault_of(std::string_view body) {
    T request{};
    return describe(kvd::read_body(body, request));
}

template <class T>
T read(std::string_view body) {
    T request{};
    REQUIRE(describe(kvd::read_body(body, request)) == "ok");
    return request;
}

// "text STRING? [bytes]"
std::string describe(const kv::ValueInput& value) {
    static constexpr const char* forms[] = {"text", "number", "boolean", "json", "bytes"};
    std::string text = forms[static_cast<int>(value.form)];
    if (value.type) text += " as " + std::string(kv::to_string(*value.type));
    return text + " [" + std::string(value.data.reveal()) + "]";
}

std::string describe(const kv::Ttl& ttl) {
    if (ttl.kind == kv::Ttl::Kind::absent) return "absent";
    return ttl.kind == kv::Ttl::Kind::never ? "never" : std::to_string(ttl.seconds);
}

std::string describe(const std::vector<kv::EchoedMember>& echoed) {
    std::string text;
    for (const kv::EchoedMember& member : echoed) text += member.name + "=" + member.text.value_or("(null)") + ";";
    return text;
}

kv::Uuid id(const char* text) { return *kv::Uuid::parse(text); }
kv::Time at(const char* text) { return *kv::parse_time(text); }

kv::Entry sample_entry() {
    kv::Entry entry;
    entry.id = id("0190a3c4-5d6e-7f80-9a1b-2c3d4e5f6071");
    entry.namespace_id = id("0190a3c0-1111-7222-8333-444455556666");
    entry.key_path = "database/connection-string";
    entry.value = kv::SecretBytes("a \"quoted\"\nvalue");
    entry.version = 1;
    entry.revision = 17;
    entry.ttl_seconds = 3600;
    entry.expires_at = at("2024-01-15T10:00:00Z");
    entry.metadata = R"({"n": 1.50})";
    entry.created_at = entry.updated_at = at("2024-01-15T09:00:00.25Z");
    entry.created_by = "ann";
    entry.updated_by = "bob";
    return entry;
}

std::string value_member(kv::ValueType type, std::string_view bytes) {
    kv::Entry entry = sample_entry();
    entry.value_type = type;
    entry.value = kv::SecretBytes(bytes);
    std::string text = kvd::write_json(entry);
    std::size_t begin = text.find("\"value\":") + 8;
    return text.substr(begin, text.find(",\"valueType\"") - begin);
}

}  // namespace

TEST_CASE("the namespace of the specification's example is read") {
    auto create = read<kv::CreateNamespace>(R"({
  "name": "production-secrets",
  "description": "Production environment secrets",
  "applicationId": "app-123",
  "isSecretNamespace": true,
  "defaultTtlSeconds": null
})");
    CHECK(create.name == "production-secrets");
    CHECK(create.description == "Production environment secrets");
    CHECK(create.application_id == "app-123");
    CHECK(create.is_secret);
    CHECK(!create.default_ttl_seconds);
    CHECK(create.keeps_history);
    CHECK(!create.history_limit);
}

TEST_CASE("a new namespace tells an absent history limit from none") {
    CHECK(!read<kv::CreateNamespace>(R"({"name":"n"})").history_limit);
    auto unlimited = read<kv::CreateNamespace>(R"({"name":"n","historyLimit":null})");
    REQUIRE(unlimited.history_limit);
    CHECK(!*unlimited.history_limit);
    CHECK(**read<kv::CreateNamespace>(R"({"name":"n","historyLimit":7})").history_limit == 7);
    CHECK(read<kv::CreateNamespace>(R"({"name":"n"})").application_id == "default");
}

TEST_CASE("a namespace update leaves alone what is absent and clears what is null") {
    auto update = read<kv::UpdateNamespace>(R"({"description":null,"defaultTtlSeconds":60,"version":3})");
    CHECK(!update.name);
    REQUIRE(update.description);
    CHECK(!*update.description);
    CHECK(**update.default_ttl_seconds == 60);
    CHECK(!update.history_limit);
    CHECK(!update.is_secret);
    CHECK(update.precondition.expected_version == 3u);
}

TEST_CASE("what only answers carry goes back to libkv as text") {
    auto update = read<kv::UpdateNamespace>(R"({"id":"x","sealing":false,"revision":12,"createdAt":"t","updatedBy":"ann"})");
    CHECK(describe(update.echoed) == "id=x;sealing=false;revision=12;createdAt=t;updatedBy=ann;");
    auto write = read<kv::EntryWrite>(R"({"value":1,"keyPath":"a/b","revision":1.0,"expiresAt":null})");
    CHECK(describe(write.echoed) == "revision=1.0;expiresAt=(null);keyPath=a/b;");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"id":{}})") == "invalid-request id: must be as answers give it");
}

TEST_CASE("the entry of the specification's example is read") {
    auto write = read<kv::EntryWrite>(R"({
  "value": "postgresql://user:pass@host:5432/db",
  "valueType": "STRING",
  "ttlSeconds": 3600
})");
    CHECK(describe(write.value) == "text as STRING [postgresql://user:pass@host:5432/db]");
    CHECK(describe(write.ttl) == "3600");
    CHECK(write.metadata == "{}");
}

TEST_CASE("a value keeps the form and the text it was written in") {
    CHECK(describe(read<kv::EntryWrite>(R"({"value":"a\u0000b\n"})").value) == std::string("text [a\0b\n]", 11));
    CHECK(describe(read<kv::EntryWrite>(R"({"value":-1.50e+3})").value) == "number [-1.50e+3]");
    CHECK(describe(read<kv::EntryWrite>(R"({"value":18446744073709551617})").value) == "number [18446744073709551617]");
    CHECK(describe(read<kv::EntryWrite>(R"({"value":false})").value) == "boolean [false]");
    CHECK(describe(read<kv::EntryWrite>(R"({"value": { "port" : 5432.0 } })").value) == R"(json [{ "port" : 5432.0 }])");
    CHECK(describe(read<kv::EntryWrite>(R"({"value":[1, 2]})").value) == "json [[1, 2]]");
    CHECK(describe(read<kv::EntryWrite>(R"({"valueType":"BINARY","value":"SGk="})").value) == "text as BINARY [SGk=]");
}

TEST_CASE("a time to live is absent, never, or seconds") {
    CHECK(describe(read<kv::EntryWrite>(R"({"value":1})").ttl) == "absent");
    CHECK(describe(read<kv::EntryWrite>(R"({"value":1,"ttlSeconds":null})").ttl) == "never");
    CHECK(describe(read<kv::EntryWrite>(R"({"value":1,"ttlSeconds":5})").ttl) == "5");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"ttlSeconds":1.5})") == "invalid-request ttlSeconds: must be an integer");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"ttlSeconds":"5"})") == "invalid-request ttlSeconds: must be an integer");
}

TEST_CASE("version and expectedVersion ask for the same thing") {
    CHECK(read<kv::EntryWrite>(R"({"value":1,"version":4})").precondition.expected_version == 4u);
    CHECK(read<kv::EntryWrite>(R"({"value":1,"expectedVersion":0})").precondition.expected_version == 0u);
    CHECK(read<kv::EntryWrite>(R"({"value":1,"version":4,"expectedVersion":4})").precondition.expected_version == 4u);
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"version":4,"expectedVersion":5})") ==
          "invalid-request expectedVersion: version and expectedVersion differ");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"version":-1})") == "invalid-request version: must not be negative");
}

TEST_CASE("a body that is wrong is told by the member at fault") {
    CHECK(fault_of<kv::EntryWrite>("{}") == "invalid-request value: is missing");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":null})") == "invalid-value value: a value cannot be null");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"ttl":1})") == "invalid-request ttl: this body does not know the member");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"Value":1})") == "invalid-request Value: this body does not know the member");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"key":"a"})") == "invalid-request key: this body does not know the member");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"valueType":"TEXT"})") ==
          "invalid-request valueType: must be STRING, JSON, NUMBER, BOOLEAN or BINARY");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"metadata":[]})") == "invalid-request metadata: must be an object");
    CHECK(fault_of<kv::EntryWrite>(R"({"value":1,"comment":7})") == "invalid-request comment: must be a string");
    CHECK(fault_of<kv::EntryWrite>("[]") == "invalid-request : the body must be a JSON object");
    CHECK(fault_of<kv::CreateNamespace>(R"({"name":"n","isSecretNamespace":"true"})") ==
          "invalid-request isSecretNamespace: must be true or false");
    CHECK(fault_of<kv::CreateNamespace>(R"({"name":null})") == "invalid-request name: must be a string");
    CHECK(fault_of<kv::Precondition>(R"({"version":1})") == "invalid-request version: this body does not know the member");
}

TEST_CASE("a body that is no JSON, or says a thing twice, is malformed") {
    kv::EntryWrite write;
    for (const char* body : {"", "{", "{\"value\":1}x", "{\"value\":1,\"value\":1}", "{\"value\":{\"a\":1,\"a\":1}}", "{\"value\":\"\xff\"}"}) {
        CAPTURE(body);
        CHECK(kvd::read_body(body, write) == Errc::malformed_body);
    }
}

TEST_CASE("metadata keeps its text") {
    CHECK(read<kv::EntryWrite>(R"({"value":1,"metadata":{ "n" : 1.50 }})").metadata == R"({ "n" : 1.50 })");
}

TEST_CASE("a patch touches the time to live and the metadata alone") {
    auto patch = read<kv::PatchEntry>(R"({"ttlSeconds":null,"metadata":{"a":null},"expectedVersion":2})");
    CHECK(describe(patch.ttl) == "never");
    CHECK(patch.metadata == R"({"a":null})");
    CHECK(patch.precondition.expected_version == 2u);
    CHECK(read<kv::PatchEntry>(R"({"metadata":null})").metadata == "null");
    CHECK(!read<kv::PatchEntry>("{}").metadata);
    CHECK(fault_of<kv::PatchEntry>(R"({"value":1})") == "invalid-request value: this body does not know the member");
    CHECK(fault_of<kv::PatchEntry>(R"({"metadata":3})") == "invalid-request metadata: must be an object");
}

TEST_CASE("a rotation takes a value or has one generated") {
    auto value = read<kv::RotateEntry>(R"({"value":"new-api-key-value"})");
    CHECK(describe(std::get<kv::ValueInput>(value.value)) == "text [new-api-key-value]");
    auto generated = read<kv::RotateEntry>(R"({"generate":{"length":40,"alphabet":"base64url"},"comment":"c","ttlSeconds":9})");
    CHECK(std::get<kv::Generate>(generated.value).length == 40);
    CHECK(std::get<kv::Generate>(generated.value).alphabet == kv::Generate::Alphabet::base64url);
    CHECK(describe(generated.ttl) == "9");
    CHECK(std::get<kv::Generate>(read<kv::RotateEntry>(R"({"generate":{}})").value).length == 32);
    CHECK(fault_of<kv::RotateEntry>("{}") == "invalid-request value: is missing");
    CHECK(fault_of<kv::RotateEntry>(R"({"value":1,"generate":{}})") ==
          "invalid-request generate: takes the place of value: give one of them");
    CHECK(fault_of<kv::RotateEntry>(R"({"generate":{},"valueType":"STRING"})") ==
          "invalid-request valueType: does not go with generate");
    CHECK(fault_of<kv::RotateEntry>(R"({"generate":{"alphabet":"emoji"}})") ==
          "invalid-request alphabet: must be alphanumeric, hex, base64url or ascii");
    CHECK(fault_of<kv::RotateEntry>(R"({"generate":{"length":4294967296}})") == "invalid-request length: is too large");
    CHECK(fault_of<kv::RotateEntry>(R"({"value":1,"metadata":{}})") ==
          "invalid-request metadata: this body does not know the member");
}

TEST_CASE("a rollback may name the version it wants") {
    auto rollback = read<kv::RollbackEntry>(R"({"version":3,"expectedVersion":9,"comment":"bad deploy"})");
    CHECK(rollback.version == 3u);
    CHECK(rollback.precondition.expected_version == 9u);
    CHECK(rollback.comment == "bad deploy");
    CHECK(!read<kv::RollbackEntry>("{}").version);
}

TEST_CASE("bulk bodies are read") {
    CHECK(read<kv::BulkGet>(R"({"keys":["b","a"]})").keys == std::vector<std::string>{"b", "a"});
    CHECK(fault_of<kv::BulkGet>("{}") == "invalid-request keys: is missing");
    CHECK(fault_of<kv::BulkGet>(R"({"keys":"a"})") == "invalid-request keys: must be an array of strings");
    CHECK(fault_of<kv::BulkGet>(R"({"keys":["a",1]})") == "invalid-request keys: must be an array of strings");

    auto remove = read<kv::BulkDelete>(R"({"keys":["a"],"atomic":false,"purge":true})");
    CHECK(!remove.atomic);
    CHECK(remove.purge);
    CHECK(read<kv::BulkDelete>(R"({"keys":[]})").atomic);

    auto set = read<kv::BulkSet>(R"({"entries":[{"keyPath":"a","value":1,"version":2},{"key":"b","value":[],"id":"x"}]})");
    REQUIRE(set.entries.size() == 2);
    CHECK(set.atomic);
    CHECK(set.entries[0].key_path == "a");
    CHECK(set.entries[0].precondition.expected_version == 2u);
    CHECK(set.entries[0].echoed.empty());
    CHECK(set.entries[1].key_path == "b");
    CHECK(describe(set.entries[1].value) == "json [[]]");
    CHECK(describe(set.entries[1].echoed) == "id=x;");
}

TEST_CASE("every faulty item of a bulk is named at once") {
    kv::BulkSet set;
    auto result = kvd::read_body(R"({"entries":[
        {"keyPath":"good","value":1},
        {"keyPath":"no/value"},
        {"key":"null/value","value":null},
        {"value":1},
        7,
        {"keyPath":"a","key":"b","value":1}]})", set);
    REQUIRE(!result);
    CHECK(result.error().code == Errc::invalid_request);
    std::string told;
    for (const kv::Error& item : result.error().items) {
        told += std::string(kv::code_name(item.code)) + " " + item.field + " " + item.key_path + ": " + item.message + "\n";
    }
    CHECK(told ==
          "invalid-request entries[1].value no/value: is missing\n"
          "invalid-value entries[2].value null/value: a value cannot be null\n"
          "invalid-request entries[3].keyPath : is missing\n"
          "invalid-request entries[4] : must be an object\n"
          "invalid-request entries[5].key a: key and keyPath differ\n");
    CHECK(fault_of<kv::BulkSet>(R"({"atomic":true})") == "invalid-request entries: is missing");
    CHECK(fault_of<kv::BulkSet>(R"({"entries":{}})") == "invalid-request entries: must be an array of objects");
}

TEST_CASE("an entry is written with the members of the contract in their order") {
    CHECK(kvd::write_json(sample_entry()) ==
          R"({"id":"0190a3c4-5d6e-7f80-9a1b-2c3d4e5f6071","namespaceId":"0190a3c0-1111-7222-8333-444455556666",)"
          R"("keyPath":"database/connection-string","value":"a \"quoted\"\nvalue","valueType":"STRING","version":1,)"
          R"("revision":17,"ttlSeconds":3600,"expiresAt":"2024-01-15T10:00:00.000Z","metadata":{"n": 1.50},)"
          R"("createdAt":"2024-01-15T09:00:00.250Z","createdBy":"ann","updatedAt":"2024-01-15T09:00:00.250Z","updatedBy":"bob"})");
}

TEST_CASE("an entry without a value has no such member, and what is unset is null") {
    kv::Entry entry = sample_entry();
    entry.value.reset();
    entry.ttl_seconds.reset();
    entry.expires_at.reset();
    std::string text = kvd::write_json(entry);
    CHECK(text.find("\"value\"") == std::string::npos);
    CHECK(text.find(R"("ttlSeconds":null,"expiresAt":null,)") != std::string::npos);
}

TEST_CASE("values are written in their native JSON form, digit for digit") {
    using kv::ValueType;
    CHECK(value_member(ValueType::string, "") == R"("")");
    CHECK(value_member(ValueType::string, std::string_view("\0\x1f", 2)) == R"("\u0000\u001f")");
    CHECK(value_member(ValueType::json, R"({"b" : 1e400})") == R"({"b" : 1e400})");
    CHECK(value_member(ValueType::number, "-0.10") == "-0.10");
    CHECK(value_member(ValueType::boolean, "true") == "true");
    CHECK(value_member(ValueType::binary, std::string_view("\0\xff", 2)) == R"("AP8=")");
}

TEST_CASE("an entry that fails its check carries the error in the place of the value") {
    kv::Entry entry = sample_entry();
    entry.value.reset();
    entry.error = kv::Error{Errc::integrity, "the stored value failed its integrity check", "driver words"};
    std::string text = kvd::write_json(entry);
    CHECK(text.find(R"("error":{"code":"integrity","detail":"the stored value failed its integrity check"},"valueType")") !=
          std::string::npos);
    CHECK(text.find("\"value\"") == std::string::npos);
    CHECK(text.find("driver words") == std::string::npos);
}

TEST_CASE("lists name their items and the next page") {
    kv::EntryList list;
    list.next_cursor = "c";
    list.prefixes = {"a/", "b/"};
    list.revision = 17;
    CHECK(kvd::write_json(list, true) == R"({"items":[],"prefixes":["a/","b/"],"nextCursor":"c","revision":17})");
    CHECK(kvd::write_json(kv::EntryList{}, true) == R"({"items":[],"prefixes":[],"nextCursor":null,"revision":0})");
    CHECK(kvd::write_json(kv::EntryList{}, false) == R"({"items":[],"nextCursor":null,"revision":0})");
    CHECK(kvd::write_json(kv::AuditList{}) == R"({"items":[],"nextCursor":null})");
}

TEST_CASE("a namespace is written with the members of the contract in their order") {
    kv::Namespace ns;
    ns.id = id("0190a3c0-1111-7222-8333-444455556666");
    ns.name = "n";
    ns.application_id = "app";
    ns.is_secret = true;
    ns.history_limit = 5;
    ns.version = 2;
    ns.created_by = "ann";
    CHECK(kvd::write_json(ns) ==
          R"({"id":"0190a3c0-1111-7222-8333-444455556666","name":"n","description":"","applicationId":"app",)"
          R"("isSecretNamespace":true,"defaultTtlSeconds":null,"keepsHistory":true,"historyLimit":5,)"
          R"("deletionProtection":false,"sealing":false,"version":2,"revision":0,"createdAt":"1970-01-01T00:00:00.000Z",)"
          R"("createdBy":"ann","updatedAt":"1970-01-01T00:00:00.000Z","updatedBy":""})");
}

TEST_CASE("bulk answers tell what became of each item") {
    kv::BulkSetReply set;
    set.results.push_back({"a", kv::BulkSetResult::Status::created, 1, {}});
    set.results.push_back({"b", kv::BulkSetResult::Status::updated, 7, {}});
    kv::Error conflict{Errc::version_conflict, "another version"};
    conflict.key_path = "c";
    conflict.current_version = 4;
    set.results.push_back({"c", kv::BulkSetResult::Status::failed, 0, conflict});
    CHECK(kvd::write_json(set) ==
          R"({"results":[{"keyPath":"a","status":"created","version":1},{"keyPath":"b","status":"updated","version":7},)"
          R"({"keyPath":"c","status":"failed","version":null,"error":{"code":"version-conflict","detail":"another version",)"
          R"("keyPath":"c","currentVersion":4}}]})");

    kv::BulkDeleteReply removed;
    removed.deleted = {"a"};
    removed.missing = {"b"};
    removed.failed = {conflict};
    CHECK(kvd::write_json(removed) ==
          R"({"deleted":["a"],"missing":["b"],"failed":[{"code":"version-conflict","detail":"another version","keyPath":"c",)"
          R"("currentVersion":4}]})");
}

TEST_CASE("a version and an audit row are written with the members of the contract") {
    kv::VersionList versions;
    kv::Version version;
    version.version = 3;
    version.reason = kv::Reason::rollback;
    version.changed_by = "ann";
    version.request_id = "r";
    version.is_current = true;
    version.rolled_back_from = 1;
    version.value_type = kv::ValueType::number;
    version.value = kv::SecretBytes("5432");
    versions.items.push_back(std::move(version));
    CHECK(kvd::write_json(versions) ==
          R"({"items":[{"version":3,"valueType":"NUMBER","reason":"ROLLBACK","comment":"","changedBy":"ann",)"
          R"("changedAt":"1970-01-01T00:00:00.000Z","requestId":"r","current":true,"rolledBackFrom":1,"value":5432}],)"
          R"("nextCursor":null})");

    kv::AuditList audit;
    kv::AuditRecord record;
    record.stream = id("0190a3bf-0000-7000-8000-000000000001");
    record.sequence = 42;
    record.operation = "namespace.list";
    record.user_id = "ann";
    record.request_id = "r";
    record.success = true;
    audit.items.push_back(record);
    CHECK(kvd::write_json(audit) ==
          R"({"items":[{"id":"0190a3bf-0000-7000-8000-000000000001-42","stream":"0190a3bf-0000-7000-8000-000000000001",)"
          R"("sequence":42,"timestamp":"1970-01-01T00:00:00.000Z","namespaceId":null,"entryId":null,"keyPath":null,)"
          R"("action":"READ","operation":"namespace.list","userId":"ann","credentialId":null,"applicationId":null,)"
          R"("peer":null,"requestId":"r","success":true,"reason":null,"version":null,"count":1}],"nextCursor":null})");
}

TEST_CASE("a problem has the members of RFC 9457 and ours, and never a driver's words") {
    kv::Error error{Errc::version_conflict, "the entry has another version", "driver words"};
    error.field = "expectedVersion";
    error.key_path = "bad\xff";
    error.current_version = 4;
    error.items.push_back(kv::Error{Errc::too_large, "too large", "driver words"});
    error.items[0].limit = 16;
    CHECK(kvd::write_problem(error, 409, "req-1") ==
          "{\"type\":\"urn:kvd:problem:version-conflict\",\"title\":\"Version conflict\",\"status\":409,"
          "\"detail\":\"the entry has another version\",\"code\":\"version-conflict\",\"requestId\":\"req-1\","
          "\"field\":\"expectedVersion\",\"keyPath\":\"bad\xef\xbf\xbd\",\"currentVersion\":4,"
          "\"errors\":[{\"code\":\"too-large\",\"detail\":\"too large\",\"limit\":16}]}");
}
