#include "kvd/tool_verify.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <utility>

#include "json/json.h"
#include "kv/admin.h"
#include "kv/store.h"
#include "kvd/commands.h"
#include "kvd/files.h"
#include "kvd/tool.h"
#include "text.h"

namespace kvd {
namespace {

constexpr std::size_t key_file_bytes_max = 4096;
constexpr std::size_t log_block_bytes = 1u << 20;

// ---- what it is given ----

std::string_view trim(std::string_view text) {
    constexpr std::string_view white = " \t\r\n";
    const std::size_t begin = text.find_first_not_of(white);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(white) - begin + 1);
}

kv::Result<kv::SecretBytes> read_audit_key(const std::string& path) {
    KV_TRY(const kv::SecretBytes text, read_file(path, key_file_bytes_max));
    auto key = kv::base64_decode(trim(text.reveal()));
    if (!key || key->size() != kv::master_key_bytes)
        return kv::Error{kv::Errc::invalid_request, path + ": holds no audit key, which is 32 bytes in base64"};
    return *std::move(key);
}

// A log may be far larger than memory: it is read in blocks of whole lines.
kv::Result<void> read_log(std::istream& log, std::vector<kv::AuditHead>& anchors) {
    std::string block;
    std::string rest;
    while (log) {
        block.resize(log_block_bytes);
        log.read(block.data(), static_cast<std::streamsize>(block.size()));
        block.resize(static_cast<std::size_t>(log.gcount()));
        const std::size_t line_end = log ? block.rfind('\n') : block.size();
        if (line_end == std::string::npos) {
            rest.clear();  // no line of ours is that long
            continue;
        }
        for (const kv::AuditHead& head : kv::parse_anchors(rest + block.substr(0, line_end))) anchors.push_back(head);
        rest = block.substr(std::min(line_end + 1, block.size()));
    }
    if (log.bad()) return kv::Error{kv::Errc::invalid_request, "cannot be read"};
    return {};
}

}  // namespace

kv::Result<std::vector<kv::AuditHead>> read_anchors(const std::vector<std::string>& paths) {
    std::vector<kv::AuditHead> anchors;
    for (const std::string& path : paths) {
        const std::size_t before = anchors.size();
        std::ifstream file;
        if (path != "-") file.open(path, std::ios::binary);
        if (path != "-" && !file) return kv::Error{kv::Errc::invalid_request, path + ": cannot be opened"};
        if (const auto read = read_log(path == "-" ? std::cin : file, anchors); !read)
            return kv::Error{kv::Errc::invalid_request, path + ": " + read.error().message};
        // As the log of a kvd that was killed early.
        if (anchors.size() == before) std::fprintf(stderr, "kvd: %s: holds no line of kvd's about an audit-head\n", path.c_str());
    }
    if (anchors.empty() && !paths.empty())
        return kv::Error{kv::Errc::invalid_request, "there is no audit-head in the logs named by --anchors"};
    return anchors;
}

namespace {

// ---- what it tells ----

// On one line of a terminal that is written over.
class ProgressLine {
public:
    ~ProgressLine() {
        if (is_terminal_ && is_shown_) std::fputs("\r\x1b[K", stderr);
    }
    bool show(const kv::VerifyProgress& progress) {
        if (!is_terminal_) return true;
        is_shown_ = true;
        std::fprintf(stderr, "\r\x1b[Kkvd: verifying %.*s: %llu", static_cast<int>(progress.stage.size()), progress.stage.data(),
                     static_cast<unsigned long long>(progress.done));
        return true;
    }

private:
    const bool is_terminal_ = isatty(STDERR_FILENO) == 1;
    bool is_shown_ = false;
};

std::string counted(std::uint64_t count, const char* what) { return std::to_string(count) + " " + what; }

std::string summary_of(const kv::VerifyReport& report) {
    return counted(report.audit_rows, "audit rows in ") + counted(report.streams, "streams, ") + counted(report.keys, "keys, ") +
           counted(report.namespaces, "namespaces, ") + counted(report.entries, "entries, ") + counted(report.versions, "older versions, ") +
           counted(report.values_opened, "sealed values opened");
}

std::string as_text(const kv::VerifyReport& report) {
    std::string out;
    for (const kv::Finding& finding : report.findings) out += finding.kind + ": " + finding.message + "\n";
    if (report.findings_total > report.findings.size())
        out += "and " + std::to_string(report.findings_total - report.findings.size()) + " findings more\n";
    for (const std::string& note : report.notes) out += "note: " + note + "\n";
    out += report.is_sound() ? "sound: " : "NOT SOUND: " + std::to_string(report.findings_total) + " findings in ";
    return out + summary_of(report) + "\n";
}

void write_finding(kv::json::Writer& out, const kv::Finding& finding) {
    out.begin_object();
    out.member("kind", finding.kind);
    out.member("message", finding.message);
    if (finding.ns) out.member("namespaceId", finding.ns->to_string());
    if (!finding.key_path.empty()) out.member("keyPath", finding.key_path);
    if (finding.version) out.member("version", *finding.version);
    if (finding.stream) out.member("stream", finding.stream->to_string());
    if (finding.sequence) out.member("sequence", *finding.sequence);
    out.end_object();
}

std::string as_json(const kv::VerifyReport& report) {
    kv::json::Writer out;
    out.begin_object();
    out.member("sound", report.is_sound());
    out.key("findings");
    out.begin_array();
    for (const kv::Finding& finding : report.findings) write_finding(out, finding);
    out.end_array();
    out.member("findingsTotal", report.findings_total);
    for (const auto& [name, count] : {std::pair("keys", report.keys), {"namespaces", report.namespaces}, {"streams", report.streams},
                                      {"auditRows", report.audit_rows}, {"entries", report.entries}, {"versions", report.versions},
                                      {"valuesOpened", report.values_opened}})
        out.member(name, count);
    out.key("notes");
    out.begin_array();
    for (const std::string& note : report.notes) out.string(note);
    out.end_array();
    out.end_object();
    return out.take() + "\n";
}

// ---- verify ----

kv::Result<kv::VerifyReport> verify(const Command& command, const SecretVariables& variables) {
    kv::VerifyOptions options;
    ProgressLine line;
    options.progress = [&line](const kv::VerifyProgress& progress) { return line.show(progress); };
    KV_TRY(options.anchors, read_anchors(command.anchors));
    const auto clock = kv::make_system_clock();
    const auto open = [&] { return kv::open_storage(command.storage, kv::Access::read_only, *clock); };
    if (!command.audit_key.empty()) {
        KV_TRY(const kv::SecretBytes key, read_audit_key(command.audit_key));
        KV_TRY(const auto storage, open());
        return kv::verify_audit(*storage, key, options);
    }
    KV_TRY(const auto keys, load_master_key(variables));
    KV_TRY(options.previous_keys, load_previous_key(variables));
    KV_TRY(const auto storage, open());
    return kv::verify(*storage, *keys, options);
}

}  // namespace

int print_report(const kv::VerifyReport& report, bool as_json_object) {
    if (const int code = print(as_json_object ? as_json(report) : as_text(report)); code != exit_ok) return code;
    return report.is_sound() ? exit_ok : exit_not_good;
}

int run_verify(const Command& command, const SecretVariables& variables) {
    const auto report = verify(command, variables);
    if (!report) return fail(exit_code_of(report.error().code), shown_storage(command.storage) + ": " + report.error().message);
    return print_report(*report, command.json);
}

int run_audit_key_export(const Command& command, const SecretVariables& variables) {
    const auto keys = load_master_key(variables);
    if (!keys) return fail(exit_config, keys.error().message);
    const auto clock = kv::make_system_clock();
    const auto storage = kv::open_storage(command.storage, kv::Access::read_only, *clock);
    if (!storage) return fail(exit_code_of(storage.error().code), shown_storage(command.storage) + ": " + storage.error().message);
    const auto key = kv::export_audit_key(**storage, **keys);
    if (!key) return fail(exit_code_of(key.error().code), shown_storage(command.storage) + ": " + key.error().message);
    std::string text = kv::base64_encode(key->reveal()) + "\n";
    int code = exit_ok;
    if (command.out.empty()) {
        code = print(text);
    } else if (const auto written = write_secret_file(command.out, text); !written) {
        code = fail(exit_config, written.error().message);
    }
    kv::json::wipe(text);
    return code;
}

namespace {

kv::Result<std::uint64_t> trim(const Command& command, const SecretVariables& variables) {
    KV_TRY(const auto keys, load_master_key(variables));
    KV_CHECK(must_exist(command.storage));
    const auto clock = kv::make_system_clock();
    KV_TRY(const auto storage, kv::open_storage(command.storage, kv::Access::read_write, *clock));
    const kv::Options& settings = command.settings.store;
    return kv::trim_audit(*storage, *keys, {settings.audit_retention, settings.audit_bytes_max, settings.audit_archive});
}

}  // namespace

int run_trim_audit(const Command& command, const SecretVariables& variables) {
    const auto removed = trim(command, variables);
    if (!removed) return fail(exit_code_of(removed.error().code), shown_storage(command.storage) + ": " + removed.error().message);
    return print("audit rows removed: " + std::to_string(*removed) + "\n");
}

}  // namespace kvd
