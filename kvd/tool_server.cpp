#include "kvd/tool_server.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "json/json.h"
#include "kv/admin.h"
#include "kvd/files.h"
#include "kvd/http_client.h"
#include "kvd/tool_verify.h"
#include "kvd/tool.h"
#include "text.h"

namespace kvd {
namespace {

using kv::Errc;
using kv::Error;
using kv::Result;
using kv::json::Kind;
using kv::json::Node;

constexpr const char* admin_path = "/api/v1/kv/admin";
// Each question is a row in the audit log.
constexpr std::chrono::milliseconds poll_first(100);
constexpr std::chrono::milliseconds poll_last(5000);

int finish(ExitCode code) { return std::fflush(stdout) == 0 ? code : fail(exit_internal, "cannot write to stdout"); }

// What went wrong on the way, and what to exit with.
struct Failure {
    ExitCode code;
    std::string message;
};
template <class T>
using Outcome = std::variant<T, Failure>;

Failure failure_of(const Error& error) {
    return {error.code == Errc::invalid_request ? exit_config : exit_internal, error.message};
}

int fail(const Failure& failure) { return fail(failure.code, failure.message); }

Outcome<std::unique_ptr<HttpClient>> connect(const Command& command, SecretVariables& secrets) {
    auto server = HttpClient::parse_url(command.server);
    if (!server) return Failure{exit_usage, "--server: " + server.error().message};
    if (!secrets.token) return Failure{exit_config, "KVD_TOKEN must hold a token that may do kv-admin"};
    return std::make_unique<HttpClient>(*std::move(server), *std::move(secrets.token));
}

std::string text_of(const Node& object, std::string_view name) {
    const Node* member = object.find(name);
    return member != nullptr && member->kind != Kind::null ? member->text : std::string();
}

bool is_number(const Node& object, std::string_view name) {
    const Node* member = object.find(name);
    return member != nullptr && member->kind == Kind::number;
}

std::uint64_t number_of(const Node& object, std::string_view name) {
    const auto number = is_number(object, name) ? kv::json::to_integer(*object.find(name)) : std::nullopt;
    return static_cast<std::uint64_t>(number.value_or(0));
}

Failure failure_of(const HttpClient::Answer& answer) {
    ExitCode code = exit_internal;
    if (answer.status == 401 || answer.status == 403) code = exit_config;
    if (answer.status == 400 || answer.status == 404) code = exit_usage;
    const auto problem = kv::json::parse(answer.body);
    if (!problem || problem->kind != Kind::object)
        return {code, "the server answered " + std::to_string(answer.status)};
    return {code, text_of(*problem, "code") + ": " + text_of(*problem, "detail")};
}

// An answer of the wanted status, as JSON.
Outcome<Node> ask(HttpClient& client, unsigned wanted, std::string_view method, const std::string& target,
                  const std::string* body = nullptr) {
    auto answer = client.request(method, target, body);
    if (!answer) return failure_of(answer.error());
    if (answer->status != wanted) return failure_of(*answer);
    auto parsed = kv::json::parse(answer->body);
    if (!parsed || parsed->kind != Kind::object)
        return Failure{exit_internal, "the server's answer is not what a kvd says"};
    return *std::move(parsed);
}

void show_progress(const Node& job, std::string& shown) {
    const Node* progress = job.find("progress");
    if (progress == nullptr || progress->kind != Kind::object) return;
    const std::string line = text_of(*progress, "stage") + " " + std::to_string(number_of(*progress, "done"));
    if (line == std::exchange(shown, line)) return;
    std::fprintf(stderr, "kvd: %s\n", line.c_str());
}

// Asks for the job until it ends: gives it, done.
Outcome<Node> await(HttpClient& client, const Node& started) {
    const std::string target = std::string(admin_path) + "/jobs/" + text_of(started, "id");
    std::string shown;
    for (std::chrono::milliseconds pause = poll_first;; pause = std::min(pause * 2, poll_last)) {
        Outcome<Node> job = ask(client, 200, "GET", target);
        if (std::holds_alternative<Failure>(job)) return job;
        const Node& state = std::get<Node>(job);
        const std::string status = text_of(state, "status");
        if (status == "done") return job;
        if (status == "failed") {
            const Node* problem = state.find("error");
            return Failure{exit_internal, problem != nullptr && problem->kind == Kind::object
                                              ? text_of(*problem, "code") + ": " + text_of(*problem, "detail")
                                              : "the job failed"};
        }
        show_progress(state, shown);
        std::this_thread::sleep_for(pause);
    }
}

// ---- verify ----

Outcome<std::string> verify_body(const std::vector<std::string>& logs) {
    const auto anchors = read_anchors(logs);
    if (!anchors) return Failure{exit_config, anchors.error().message};
    kv::json::Writer out;
    out.begin_object();
    if (!anchors->empty()) {
        out.key("anchors");
        out.begin_array();
        for (const kv::AuditHead& head : *anchors) {
            out.begin_object();
            out.member("stream", head.stream.to_string());
            out.member("sequence", head.sequence);
            out.member("mac", kv::hex_encode({reinterpret_cast<const char*>(head.mac.data()), head.mac.size()}));
            out.end_object();
        }
        out.end_array();
    }
    out.end_object();
    return out.take();
}

kv::VerifyReport report_of(const Node& result) {
    kv::VerifyReport report;
    report.findings_total = number_of(result, "findingsTotal");
    report.keys = number_of(result, "keys");
    report.namespaces = number_of(result, "namespaces");
    report.streams = number_of(result, "streams");
    report.audit_rows = number_of(result, "auditRows");
    report.entries = number_of(result, "entries");
    report.versions = number_of(result, "versions");
    report.values_opened = number_of(result, "valuesOpened");
    if (const Node* findings = result.find("findings"))
        for (const Node& item : findings->items) {
            kv::Finding& finding = report.findings.emplace_back();
            finding.kind = text_of(item, "kind");
            finding.message = text_of(item, "message");
            finding.ns = kv::Uuid::parse(text_of(item, "namespaceId"));
            finding.key_path = text_of(item, "keyPath");
            if (is_number(item, "version")) finding.version = number_of(item, "version");
            finding.stream = kv::Uuid::parse(text_of(item, "stream"));
            if (is_number(item, "sequence")) finding.sequence = number_of(item, "sequence");
        }
    if (const Node* notes = result.find("notes"))
        for (const Node& note : notes->items) report.notes.push_back(note.text);
    return report;
}

// ---- backup ----

// A namespace as one segment of a path.
std::string encode_segment(std::string_view text) {
    std::string out;
    for (const char letter : text) {
        const bool is_plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                              (letter >= '0' && letter <= '9') || std::strchr("-._~", letter) != nullptr;
        if (is_plain && letter != '\0') {
            out += letter;
        } else {
            out += "%" + kv::hex_encode({&letter, 1});
        }
    }
    return out;
}

}  // namespace

int run_server_verify(const Command& command, SecretVariables secrets) {
    auto client = connect(command, secrets);
    if (const auto* failure = std::get_if<Failure>(&client)) return fail(*failure);
    HttpClient& http = *std::get<0>(client);
    const auto body = verify_body(command.anchors);
    if (const auto* failure = std::get_if<Failure>(&body)) return fail(*failure);
    const auto started = ask(http, 202, "POST", std::string(admin_path) + "/verify", &std::get<std::string>(body));
    if (const auto* failure = std::get_if<Failure>(&started)) return fail(*failure);
    const auto job = await(http, std::get<Node>(started));
    if (const auto* failure = std::get_if<Failure>(&job)) return fail(*failure);
    const Node* result = std::get<Node>(job).find("result");
    if (result == nullptr || result->kind != Kind::object) return fail(exit_internal, "the job has no result");
    return print_report(report_of(*result), command.json);
}

int run_server_backup(const Command& command, SecretVariables secrets) {
    if (command.file == "-") return fail(exit_usage, "--to -: with --server a backup goes to a file, which is named when it is whole");
    auto client = connect(command, secrets);
    if (const auto* failure = std::get_if<Failure>(&client)) return fail(*failure);
    auto file = NewFile::create(command.file);
    if (!file) return fail(failure_of(file.error()));
    std::uint64_t size = 0;
    const auto answer = std::get<0>(client)->download(std::string(admin_path) + "/backup",
                                                      [&](std::string_view piece) {
                                                          size += piece.size();
                                                          return file->write(piece);
                                                      });
    if (!answer) return fail(failure_of(answer.error()));
    if (answer->status != 200) return fail(failure_of(*answer));
    if (const auto finished = file->finish(); !finished) return fail(failure_of(finished.error()));
    std::printf("%s: %llu bytes\n", command.file.c_str(), static_cast<unsigned long long>(size));
    return finish(exit_ok);
}

int run_server_rotate_data_key(const Command& command, SecretVariables secrets) {
    auto client = connect(command, secrets);
    if (const auto* failure = std::get_if<Failure>(&client)) return fail(*failure);
    HttpClient& http = *std::get<0>(client);
    const std::string body = "{}";
    const auto started =
        ask(http, 202, "POST", std::string(admin_path) + "/rotate-data-key/" + encode_segment(command.ns), &body);
    if (const auto* failure = std::get_if<Failure>(&started)) return fail(*failure);
    if (!command.waits) {
        std::printf("%s has a new data key; its values are being sealed anew\n", command.ns.c_str());
        return finish(exit_ok);
    }
    const auto job = await(http, std::get<Node>(started));
    if (const auto* failure = std::get_if<Failure>(&job)) return fail(*failure);
    std::printf("%s has a new data key, and its values are sealed by it\n", command.ns.c_str());
    return finish(exit_ok);
}

int run_server_forget_master_key(const Command& command, SecretVariables secrets) {
    auto client = connect(command, secrets);
    if (const auto* failure = std::get_if<Failure>(&client)) return fail(*failure);
    kv::json::Writer body;
    body.begin_object();
    body.member("keyId", command.key_id);
    body.end_object();
    const std::string text = body.take();
    const auto answer = ask(*std::get<0>(client), 200, "POST", std::string(admin_path) + "/forget-master-key", &text);
    if (const auto* failure = std::get_if<Failure>(&answer)) return fail(*failure);
    std::printf("master key %s opens nothing any more: %llu wraps dropped\n", command.key_id.c_str(),
                static_cast<unsigned long long>(number_of(std::get<Node>(answer), "wrapsDropped")));
    return finish(exit_ok);
}

}  // namespace kvd
