#include <algorithm>
#include <map>
#include <set>

#include <doctest/doctest.h>

#include "json/json.h"
#include "kvd/admin.h"
#include "kvd/json.h"
#include "kvd/routes.h"
#include "kvd/status.h"
#include "kvd/web/assets.h"
#include "fake_client.h"

// Holds the API document against the server: every route, method, status, parameter and member, both ways.

using kv::Errc;
using kv::json::Kind;
using kv::json::Node;

namespace doctest {
template <>
struct StringMaker<std::set<std::string>> {
    static String convert(const std::set<std::string>& names) {
        std::string text;
        for (const std::string& name : names) text += name + " ";
        return text.c_str();
    }
};
}  // namespace doctest

namespace {

using Names = std::set<std::string>;

const Node& document() {
    static const Node root = [] {
        auto parsed = kv::json::parse(kvd::web::openapi_json());
        REQUIRE_MESSAGE(parsed, "openapi.json is no JSON");
        return *std::move(parsed);
    }();
    return root;
}

const Node& at(const Node& object, std::string_view name) {
    const Node* found = object.find(name);
    REQUIRE_MESSAGE(found, "no member " << name);
    return *found;
}

// Follows "$ref": "#/components/schemas/Entry".
const Node& resolve(const Node& node) {
    const Node* reference = node.find("$ref");
    if (!reference) return node;
    std::string_view path = reference->text;
    REQUIRE(path.starts_with("#/"));
    path.remove_prefix(2);
    const Node* target = &document();
    while (!path.empty()) {
        std::size_t end = std::min(path.find('/'), path.size());
        target = &at(*target, path.substr(0, end));
        path.remove_prefix(std::min(end + 1, path.size()));
    }
    return *target;
}

const Node& schema(std::string_view name) { return at(at(at(document(), "components"), "schemas"), name); }

std::string lower(std::string text) {
    for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return text;
}

const Node* operation_of(const kvd::Route& route) {
    const Node* path = at(document(), "paths").find(route.pattern);
    return path ? path->find(lower(route.method)) : nullptr;
}

Names texts(const Node& array) {
    Names names;
    for (const Node& item : array.items) names.insert(item.text);
    return names;
}

Names parameters(const Node& operation, std::string_view where) {
    Names names;
    const Node* list = operation.find("parameters");
    if (!list) return names;
    for (const Node& item : list->items) {
        const Node& parameter = resolve(item);
        if (at(parameter, "in").text == where) names.insert(at(parameter, "name").text);
    }
    return names;
}

Names words(std::string_view text) {
    Names names;
    while (!text.empty()) {
        std::size_t end = std::min(text.find(' '), text.size());
        names.insert(std::string(text.substr(0, end)));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return names;
}

Names braces(std::string_view pattern) {
    Names names;
    for (std::size_t open = pattern.find('{'); open != pattern.npos; open = pattern.find('{', open + 1)) {
        names.insert(std::string(pattern.substr(open + 1, pattern.find('}', open) - open - 1)));
    }
    return names;
}

Names error_statuses(const Node& operation) {
    Names statuses;
    for (const std::string& status : at(operation, "responses").names) {
        if (status >= "400") statuses.insert(status);
    }
    return statuses;
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> list) {
    return std::find(list.begin(), list.end(), text) != list.end();
}

// The operation, asked with a malformed header, names it: so it reads it.
bool reads_header(const kvd::Route& route, std::string kvd::HttpRequest::*header, std::string_view name) {
    if (!route.parse) return false;
    // A body that every operation with one can read as far as its header fields.
    static const std::map<std::string, std::string> bodies = {
        {"namespace.create", R"({"name":"n"})"}, {"namespace.update", "{}"},
        {"entry.put", R"({"value":1})"},         {"entry.patch", "{}"},
        {"entry.rotate", R"({"value":1})"},      {"bulk.get", R"({"keys":[]})"},
        {"bulk.set", R"({"entries":[]})"},       {"bulk.delete", R"({"keys":[]})"},
        {"token.create", "{}"}};
    kvd::HttpRequest request;
    auto body = bodies.find(route.operation);
    if (body != bodies.end()) request.body = body->second;
    request.*header = "malformed";
    kvd::RouteMatch match;
    match.route = &route;
    match.ns = "0190a3c0-1111-7222-8333-444455556666";
    match.key = "a";
    auto parsed = route.parse(match, request);
    if (parsed) return false;
    CHECK(parsed.error().field == name);
    return true;
}

// What HTTP.md lets an operation answer, as far as the table can tell.
Names expected_error_statuses(const kvd::Route& route) {
    std::string_view operation = route.operation;
    Names statuses = {"400", "408", "414", "417", "429", "431", "500", "503"};
    if (route.needs_credential) statuses.insert({"401", "403"});
    bool names_something = !braces(route.pattern).empty();
    if (names_something || is_one_of(operation, {"audit.list", "document.viewer"})) statuses.insert("404");
    if (route.has_body) statuses.insert({"413", "415"});
    if (route.needs_body) statuses.insert("411");
    bool changes = route.action != kv::AuditAction::read;
    if (changes) statuses.insert({"504", "507"});
    if (changes && route.listener == kvd::ListenerKind::api && !operation.starts_with("token.")) statuses.insert("409");
    if (is_one_of(operation, {"entry.get", "entry.export"})) statuses.insert("409");
    if (operation == "entry.export") statuses.insert("413");
    if (reads_header(route, &kvd::HttpRequest::if_match, "If-Match")) statuses.insert("412");
    return statuses;
}

// ---- a small judge of JSON Schema, for as much of it as the document uses ----

std::string_view type_of(const Node& value) {
    switch (value.kind) {
        case Kind::null: return "null";
        case Kind::boolean: return "boolean";
        case Kind::number: return kv::json::to_integer(value) ? "integer" : "number";
        case Kind::string: return "string";
        case Kind::array: return "array";
        case Kind::object: return "object";
    }
    return "";
}

bool fits_type(const Node& wanted, const Node& value) {
    std::string_view type = type_of(value);
    auto fits = [&](const std::string& name) { return name == type || (name == "number" && type == "integer"); };
    if (wanted.kind == Kind::string) return fits(wanted.text);
    return std::any_of(wanted.items.begin(), wanted.items.end(), [&](const Node& name) { return fits(name.text); });
}

std::string violation(const Node& given, const Node& value, const std::string& path);

std::string object_violation(const Node& rules, const Node& value, const std::string& path) {
    if (const Node* required = rules.find("required")) {
        for (const Node& name : required->items) {
            if (!value.find(name.text)) return path + " lacks " + name.text;
        }
    }
    const Node* properties = rules.find("properties");
    const Node* additional = rules.find("additionalProperties");
    for (std::size_t i = 0; i < value.items.size(); ++i) {
        const Node* rule = properties ? properties->find(value.names[i]) : nullptr;
        if (!rule && additional && additional->text == "false") return path + " has " + value.names[i];
        if (!rule) continue;
        std::string found = violation(*rule, value.items[i], path + "." + value.names[i]);
        if (!found.empty()) return found;
    }
    return {};
}

// Empty, or where `value` breaks the rules.
std::string violation(const Node& given, const Node& value, const std::string& path) {
    const Node& rules = resolve(given);
    if (const Node* type = rules.find("type"); type && !fits_type(*type, value)) return path + " is " + std::string(type_of(value));
    if (const Node* list = rules.find("enum"); list && !texts(*list).contains(value.text)) return path + " is " + value.text;
    if (const Node* any = rules.find("anyOf")) {
        bool fits = std::any_of(any->items.begin(), any->items.end(),
                                [&](const Node& one) { return violation(one, value, path).empty(); });
        if (!fits) return path + " fits none";
    }
    if (value.kind == Kind::object) return object_violation(rules, value, path);
    const Node* items = rules.find("items");
    for (std::size_t i = 0; items && i < value.items.size(); ++i) {
        std::string found = violation(*items, value.items[i], path + "[" + std::to_string(i) + "]");
        if (!found.empty()) return found;
    }
    return {};
}

std::string violation(std::string_view schema_name, std::string_view json) {
    auto value = kv::json::parse(json);
    REQUIRE(value);
    return violation(schema(schema_name), *value, std::string(schema_name));
}

Names properties(std::string_view schema_name) {
    Names names;
    for (const std::string& name : at(schema(schema_name), "properties").names) names.insert(name);
    return names;
}

Names members_of(std::string_view json, std::string_view list = {}) {
    auto value = kv::json::parse(json);
    REQUIRE(value);
    const Node& object = list.empty() ? *value : at(*value, list).items.at(0);
    return Names(object.names.begin(), object.names.end());
}

kv::Entry entry_with_value() {
    kv::Entry entry;
    entry.key_path = "a";
    entry.value = kv::SecretBytes("v");
    return entry;
}

kv::Entry entry_with_error() {
    kv::Entry entry;
    entry.error = kv::Error{Errc::integrity, "damaged"};
    return entry;
}

kvd::Job job(kvd::Job::Status status) {
    kvd::Job job;
    job.id = "7d3f1c4e-52a1-4c0e-9a64-0b8a5f0d1e22";
    job.kind = "verify";
    job.status = status;
    return job;
}

std::string report_with_finding() {
    kv::VerifyReport report;
    report.findings.push_back({"sealed-value", "a value does not open"});
    report.findings_total = 1;
    report.notes.push_back("no key");
    return kvd::write_json(report);
}

kv::Error full_error() {
    kv::Error error{Errc::bulk_failed, "some items failed"};
    error.field = "entries";
    error.key_path = "a";
    error.limit = 1;
    error.current_version = 2;
    return error;
}

// Calls f for each example of a body, of a request or answer, with the schema it is to fit.
template <class F>
void each_example(const Node& content, F f) {
    for (std::size_t i = 0; i < content.items.size(); ++i) {
        const Node& media = content.items[i];
        if (const Node* example = media.find("example")) f(at(media, "schema"), *example);
        if (const Node* examples = media.find("examples")) {
            for (const Node& example : examples->items) f(at(media, "schema"), at(example, "value"));
        }
    }
}

}  // namespace

TEST_CASE("the document lists every route, and no other") {
    std::set<std::string> served = {"GET /healthz", "HEAD /healthz", "GET /readyz", "HEAD /readyz"};
    for (const kvd::Route& route : kvd::route_table()) {
        served.insert(std::string(route.method) + " " + route.pattern);
        if (route.serves_head) served.insert(std::string("HEAD ") + route.pattern);
    }
    std::set<std::string> listed;
    const Node& paths = at(document(), "paths");
    for (std::size_t i = 0; i < paths.items.size(); ++i) {
        for (const std::string& method : paths.items[i].names) {
            std::string upper = method;
            for (char& c : upper) c = static_cast<char>(c - 32);
            listed.insert(upper + " " + paths.names[i]);
        }
    }
    CHECK(listed == served);
}

TEST_CASE("each operation is documented under its name, with its permissions and parameters") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.operation));
        const Node* operation = operation_of(route);
        REQUIRE(operation);
        CHECK(at(*operation, "operationId").text == route.operation);
        Names permissions;
        for (int i = 0; i < kv::permission_count; ++i) {
            auto permission = static_cast<kv::Permission>(i);
            if (route.permissions.contains(permission)) permissions.insert(std::string(kv::to_string(permission)));
        }
        CHECK(texts(at(*operation, "x-permissions")) == permissions);
        CHECK(parameters(*operation, "query") == words(route.query));
        CHECK(parameters(*operation, "path") == braces(route.pattern));
        bool is_open = operation->find("security") && operation->find("security")->items.empty();
        CHECK(is_open == !route.needs_credential);
        const Node* listener = operation->find("x-listener");
        CHECK((listener && listener->text == "admin") == (route.listener == kvd::ListenerKind::admin));
    }
}

TEST_CASE("operation ids are unique") {
    Names ids;
    const Node& paths = at(document(), "paths");
    for (const Node& path : paths.items) {
        for (const Node& operation : path.items) CHECK(ids.insert(at(operation, "operationId").text).second);
    }
}

TEST_CASE("the conditional headers an operation reads are documented, and 304 where a read takes them") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.operation));
        Names read = {"X-Request-Id"};
        if (reads_header(route, &kvd::HttpRequest::if_match, "If-Match")) read.insert("If-Match");
        bool takes_none_match = reads_header(route, &kvd::HttpRequest::if_none_match, "If-None-Match");
        if (takes_none_match) read.insert("If-None-Match");
        if (reads_header(route, &kvd::HttpRequest::last_event_id, "Last-Event-ID")) read.insert("Last-Event-ID");
        CHECK(parameters(*operation_of(route), "header") == read);
        bool has_304 = at(*operation_of(route), "responses").find("304") != nullptr;
        CHECK(has_304 == (takes_none_match && route.action == kv::AuditAction::read));
    }
}

TEST_CASE("each operation lists the errors it can answer, as problems") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.operation));
        const Node& operation = *operation_of(route);
        CHECK(error_statuses(operation) == expected_error_statuses(route));
        const Node& responses = at(operation, "responses");
        for (std::size_t i = 0; i < responses.items.size(); ++i) {
            if (responses.names[i] < "400") continue;
            const Node& content = at(resolve(responses.items[i]), "content");
            CHECK(at(at(at(content, "application/problem+json"), "schema"), "$ref").text == "#/components/schemas/Problem");
        }
    }
}

TEST_CASE("each operation lists the success it answers") {
    for (const kvd::Route& route : kvd::route_table()) {
        CAPTURE(std::string(route.operation));
        std::string_view operation = route.operation;
        Names expected = {"200"};
        if (is_one_of(operation, {"namespace.create", "token.create"})) expected = {"201"};
        if (is_one_of(operation, {"admin.verify", "namespace.rotate-key"})) expected = {"202"};
        if (operation == "entry.put") expected = {"200", "201"};
        if (is_one_of(operation, {"namespace.delete", "entry.delete", "token.revoke"})) expected = {"204"};
        Names listed;
        for (const std::string& status : at(*operation_of(route), "responses").names) {
            if (status < "300") listed.insert(status);
        }
        CHECK(listed == expected);
    }
}

TEST_CASE("the document knows every code, under its status") {
    Names codes;
    for (int number = 1; number < static_cast<int>(Errc::locked); ++number) {
        auto code = static_cast<Errc>(number);
        if (kv::code_name(code) == "internal" && code != Errc::internal) continue;
        codes.insert(std::string(kv::code_name(code)));
    }
    CHECK(texts(at(schema("ErrorCode"), "enum")) == codes);

    const Node& responses = at(at(document(), "components"), "responses");
    for (const Node& response : responses.items) {
        const Node& example = at(at(at(response, "content"), "application/problem+json"), "example");
        Names listed;
        std::string text = at(response, "description").text;
        for (const std::string& code : codes) {
            if (text.find("`" + code + "`") != std::string::npos) listed.insert(code);
        }
        CAPTURE(text);
        Names expected;
        for (int number = 1; number < static_cast<int>(Errc::locked); ++number) {
            auto code = static_cast<Errc>(number);
            if (!codes.contains(std::string(kv::code_name(code)))) continue;
            if (kv::code_name(code) == "internal" && code != Errc::internal) continue;
            if (std::to_string(kvd::http_status(code)) == at(example, "status").text) {
                expected.insert(std::string(kv::code_name(code)));
            }
        }
        CHECK(listed == expected);
    }
}

TEST_CASE("every member that a body may carry is in its schema, and no other") {
    for (const kvd::BodyMembers& body : kvd::body_members()) {
        CAPTURE(std::string(body.schema));
        Names read;
        for (std::string_view name : body.names) read.insert(std::string(name));
        CHECK(properties(body.schema) == read);
        CHECK(at(schema(body.schema), "additionalProperties").text == "false");
    }
}

TEST_CASE("every answer fits its schema") {
    CHECK(violation("Namespace", kvd::write_json(kv::Namespace{})) == "");
    CHECK(violation("Entry", kvd::write_json(entry_with_value())) == "");
    CHECK(violation("Entry", kvd::write_json(entry_with_error())) == "");
    kv::EntryList entries;
    entries.items.push_back(entry_with_value());
    CHECK(violation("EntryList", kvd::write_json(entries, true)) == "");
    CHECK(violation("EntryList", kvd::write_json(entries, false)) == "");
    kv::NamespaceList namespaces;
    namespaces.items.emplace_back();
    CHECK(violation("NamespaceList", kvd::write_json(namespaces)) == "");
    kv::VersionList versions;
    versions.items.emplace_back();
    CHECK(violation("VersionList", kvd::write_json(versions)) == "");
    kv::AuditList audit;
    audit.items.emplace_back();
    audit.next_cursor = "c";
    CHECK(violation("AuditList", kvd::write_json(audit)) == "");
    kv::Event event;
    CHECK(violation("Event", kvd::write_json(event)) == "");
    kv::BulkGetReply got;
    got.entries.push_back(entry_with_error());
    got.missing = {"b"};
    CHECK(violation("BulkGetResult", kvd::write_json(got)) == "");
    kv::BulkSetReply set;
    set.results.push_back({"a", kv::BulkSetResult::Status::failed, 0, full_error()});
    CHECK(violation("BulkSetResult", kvd::write_json(set)) == "");
    kv::BulkDeleteReply removed;
    removed.failed.push_back(full_error());
    CHECK(violation("BulkDeleteResult", kvd::write_json(removed)) == "");
    kv::Error error = full_error();
    error.items.push_back(full_error());
    CHECK(violation("Problem", kvd::write_problem(error, 409, "r")) == "");
    CHECK(violation("VerifyReport", report_with_finding()) == "");
    CHECK(violation("MasterKeyForgotten", kvd::write_forgotten({"4f1d2c3b5a697887"}, 3)) == "");
    CHECK(violation("DataKeyRotated", kvd::write_rotated({})) == "");
}

TEST_CASE("a job fits its schema in every state") {
    kvd::Job queued = job(kvd::Job::Status::queued);
    CHECK(violation("Job", kvd::write_json(queued)) == "");
    kvd::Job running = job(kvd::Job::Status::running);
    running.stage = "entries";
    CHECK(violation("Job", kvd::write_json(running)) == "");
    CHECK(violation("JobProgress", R"({"stage":"entries","done":1})") == "");
    for (const std::string& result : {report_with_finding(), kvd::write_rotated({})}) {
        kvd::Job done = job(kvd::Job::Status::done);
        done.finished_at.emplace();
        done.result = result;
        CHECK(violation("Job", kvd::write_json(done)) == "");
    }
    kvd::Job failed = job(kvd::Job::Status::failed);
    failed.finished_at.emplace();
    failed.error = full_error();
    CHECK(violation("Job", kvd::write_json(failed)) == "");
}

TEST_CASE("every member in an answer's schema is answered") {
    CHECK(properties("Namespace") == members_of(kvd::write_json(kv::Namespace{})));
    Names entry = members_of(kvd::write_json(entry_with_value()));
    entry.insert("error");
    CHECK(properties("Entry") == entry);
    kv::EntryList entries;
    CHECK(properties("EntryList") == members_of(kvd::write_json(entries, true)));
    kv::VersionList versions;
    versions.items.emplace_back().value = kv::SecretBytes("v");
    Names version = members_of(kvd::write_json(versions), "items");
    version.insert("error");
    CHECK(properties("Version") == version);
    kv::AuditList audit;
    audit.items.emplace_back();
    CHECK(properties("AuditRecord") == members_of(kvd::write_json(audit), "items"));
    CHECK(properties("Event") == members_of(kvd::write_json(kv::Event{})));
    CHECK(properties("AuditList") == members_of(kvd::write_json(audit)));
    CHECK(properties("VersionList") == members_of(kvd::write_json(versions)));
    CHECK(properties("NamespaceList") == members_of(kvd::write_json(kv::NamespaceList{})));
    CHECK(properties("BulkGetResult") == members_of(kvd::write_json(kv::BulkGetReply{})));
    CHECK(properties("BulkSetResult") == members_of(kvd::write_json(kv::BulkSetReply{})));
    CHECK(properties("BulkDeleteResult") == members_of(kvd::write_json(kv::BulkDeleteReply{})));
    kv::BulkSetReply set;
    set.results.push_back({"a", kv::BulkSetResult::Status::failed, 0, full_error()});
    CHECK(properties("BulkSetItemResult") == members_of(kvd::write_json(set), "results"));
    kv::Error error = full_error();
    error.items.push_back(full_error());
    CHECK(properties("Problem") == members_of(kvd::write_problem(error, 409, "r")));
    CHECK(properties("ItemError") == members_of(kvd::write_problem(error, 409, "r"), "errors"));
    CHECK(properties("Job") == members_of(kvd::write_json(job(kvd::Job::Status::queued))));
    CHECK(properties("VerifyReport") == members_of(report_with_finding()));
    CHECK(properties("Finding") == members_of(report_with_finding(), "findings"));
    CHECK(properties("MasterKeyForgotten") == members_of(kvd::write_forgotten({"k"}, 0)));
    CHECK(properties("DataKeyRotated") == members_of(kvd::write_rotated({})));
}

TEST_CASE("every example fits its schema") {
    std::size_t seen = 0;
    auto check = [&](const Node& rules, const Node& example) {
        ++seen;
        CHECK(violation(rules, example, "example") == "");
    };
    const Node& components = at(document(), "components");
    for (const Node& rules : at(components, "schemas").items) {
        if (const Node* examples = rules.find("examples")) {
            for (const Node& example : examples->items) check(rules, example);
        }
    }
    for (const Node& response : at(components, "responses").items) each_example(at(response, "content"), check);
    for (const Node& path : at(document(), "paths").items) {
        for (const Node& operation : path.items) {
            if (const Node* body = operation.find("requestBody")) each_example(at(*body, "content"), check);
            for (const Node& response : at(operation, "responses").items) {
                if (const Node* content = response.find("content")) each_example(*content, check);
            }
        }
    }
    CHECK(seen > 50);
}

TEST_CASE("every example of a request body is one that kvd reads") {
    std::string_view source = kvd::web::openapi_json();
    for (const kvd::Route& route : kvd::route_table()) {
        const Node* body = operation_of(route)->find("requestBody");
        bool takes_nothing = is_one_of(route.operation, {"namespace.restore", "namespace.rotate-key", "token.revoke"});
        CHECK((body != nullptr) == (route.has_body && !takes_nothing));
        if (!body) continue;
        CHECK((at(*body, "required").text == "true") == route.needs_body);
        const Node& rules = resolve(at(at(at(*body, "content"), "application/json"), "schema"));
        const Node* examples = rules.find("examples");
        REQUIRE(examples);
        for (const Node& example : examples->items) {
            kvd::HttpRequest request;
            request.body = std::string(example.source(source));
            kvd::RouteMatch match;
            match.route = &route;
            match.ns = "app~ns";
            if (std::string_view(route.operation) == "namespace.create") match.ns.clear();
            CAPTURE(std::string(route.operation));
            if (route.parse) CHECK(route.parse(match, request));
            else CHECK(kvd::parse_admin_request(match, request));
        }
    }
}

TEST_CASE("every reference in the document leads somewhere, and every component is used") {
    std::string_view source = kvd::web::openapi_json();
    const Node& components = at(document(), "components");
    for (std::size_t kind = 0; kind < components.items.size(); ++kind) {
        if (components.names[kind] == "securitySchemes") continue;
        for (const std::string& name : components.items[kind].names) {
            CAPTURE(name);
            std::string reference = "\"#/components/" + components.names[kind] + "/" + name + "\"";
            CHECK(source.find(reference) != std::string_view::npos);
        }
    }
    std::size_t references = 0;
    auto follow = [&](auto&& self, const Node& node) -> void {
        if (node.find("$ref")) {
            resolve(node);
            ++references;
        }
        for (const Node& item : node.items) self(self, item);
    };
    follow(follow, document());
    CHECK(references > 100);
}

TEST_CASE("the document names no other host") {
    CHECK(kvd::web::openapi_json().find("http:") == std::string_view::npos);
    CHECK(kvd::web::openapi_json().find("https:") == std::string_view::npos);
}
