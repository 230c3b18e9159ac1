#include "audit_archive.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "json/json.h"
#include "text.h"

namespace kv {
namespace {

constexpr std::uint64_t file_bytes_max = 64ull << 20;
constexpr std::size_t line_bytes_max = 64u << 10;
constexpr std::string_view suffix = ".jsonl";

Error failed(const char* what) {
    const Errc code = errno == ENOSPC || errno == EDQUOT ? Errc::storage_full : Errc::unavailable;
    return Error{code, std::string("the audit archive ") + what + ": " + std::strerror(errno)};
}

std::string padded(std::uint64_t position) {
    const std::string digits = std::to_string(position);
    return std::string(20 - digits.size(), '0') + digits;
}

void sync_folder(const std::string& path) {
    const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    ::fsync(folder);
    ::close(folder);
}

// The position in a complete line of ours; 0 if it is none.
std::uint64_t position_of(std::string_view line) {
    const auto parsed = json::parse(line);
    if (!parsed) return 0;
    const json::Node* position = parsed->find("position");
    const auto number = position != nullptr ? json::to_integer(*position) : std::nullopt;
    return number && *number > 0 ? static_cast<std::uint64_t>(*number) : 0;
}

}  // namespace

std::string audit_line(const AuditRow& row) {
    const AuditRecord& record = row.record;
    json::Writer out;
    out.begin_object();
    out.member("position", row.position);
    out.member("stream", record.stream.to_string());
    out.member("sequence", record.sequence);
    out.member("timestampMicros", static_cast<std::int64_t>(record.timestamp.time_since_epoch().count()));
    out.member("timestamp", format_time(record.timestamp));
    if (record.namespace_id) out.member("namespaceId", record.namespace_id->to_string());
    if (record.entry_id) out.member("entryId", record.entry_id->to_string());
    out.member("keyPath", record.key_path);
    out.member("action", std::string(to_string(record.action)));
    out.member("operation", record.operation);
    out.member("userId", record.user_id);
    out.member("credentialId", record.credential_id);
    out.member("applicationId", record.application_id);
    out.member("peer", record.peer);
    out.member("requestId", record.request_id);
    out.member("success", record.success);
    out.member("reason", record.reason);
    if (record.version) out.member("version", *record.version);
    if (record.revision) out.member("revision", *record.revision);
    out.member("count", record.count);
    out.member("mac", hex_encode({reinterpret_cast<const char*>(row.mac.data()), row.mac.size()}));
    out.end_object();
    return out.take();
}

AuditArchive::AuditArchive(std::string folder, std::string epoch)
    : folder_(std::move(folder)), prefix_("audit-" + std::move(epoch) + "-") {}

AuditArchive::~AuditArchive() { close(); }

void AuditArchive::close() {
    if (file_ >= 0) ::close(file_);
    file_ = -1;
}

// Finds the newest file of this epoch.
Result<void> AuditArchive::open() {
    namespace fs = std::filesystem;
    std::error_code error;
    std::string newest;
    for (fs::directory_iterator at(folder_, error), end; !error && at != end; at.increment(error)) {
        const std::string name = at->path().filename().string();
        if (name.starts_with(prefix_) && name.ends_with(suffix) && name > newest) newest = name;
    }
    if (error) return Error{Errc::unavailable, "the folder of the audit archive cannot be read: " + error.message()};
    if (!newest.empty()) KV_CHECK(open_newest(newest));
    is_known_ = true;
    return {};
}

Result<void> AuditArchive::open_newest(const std::string& name) {
    file_ = ::open((folder_ + "/" + name).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat status {};
    if (file_ < 0 || ::fstat(file_, &status) != 0) return failed("cannot be opened");
    // The last two ends of lines enclose the last complete line.
    const auto size = static_cast<std::uint64_t>(status.st_size);
    std::string tail(static_cast<std::size_t>(std::min<std::uint64_t>(size, 2 * line_bytes_max)), '\0');
    const auto from = static_cast<off_t>(size - tail.size());
    if (::pread(file_, tail.data(), tail.size(), from) != static_cast<ssize_t>(tail.size())) return failed("cannot be read");
    const std::size_t end = tail.rfind('\n');
    const std::size_t complete = end == std::string::npos ? 0 : end + 1;
    bytes_ = static_cast<std::uint64_t>(from) + complete;
    if (::ftruncate(file_, static_cast<off_t>(bytes_)) != 0) return failed("cannot be cut to its last whole line");
    if (complete == 0) return {};
    const std::size_t before = end == 0 ? std::string::npos : tail.rfind('\n', end - 1);
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    last_position_ = position_of(std::string_view(tail).substr(begin, end - begin));
    if (last_position_ == 0) return Error{Errc::integrity, "the audit archive ends in a line that is not ours: " + name};
    return {};
}

Result<void> AuditArchive::create(std::uint64_t position) {
    close();
    const std::string path = folder_ + "/" + prefix_ + padded(position) + std::string(suffix);
    file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file_ < 0) return failed("cannot be created");
    sync_folder(folder_);
    bytes_ = 0;
    return {};
}

Result<void> AuditArchive::append(std::span<const AuditRow> rows) {
    if (!is_known_) {
        auto opened = open();
        if (!opened) {
            close();
            return opened;
        }
    }
    while (!rows.empty() && rows.front().position <= last_position_) rows = rows.subspan(1);
    if (rows.empty()) return {};
    if (file_ < 0 || bytes_ >= file_bytes_max) KV_CHECK(create(rows.front().position));
    std::string text;
    for (const AuditRow& row : rows) text += audit_line(row) + '\n';
    auto written = write(text);
    if (!written) {
        // What was written of it is cut off when the folder is looked at again.
        close();
        is_known_ = false;
        last_position_ = 0;
        return written;
    }
    bytes_ += text.size();
    last_position_ = rows.back().position;
    return {};
}

Result<void> AuditArchive::write(const std::string& text) {
    std::size_t done = 0;
    while (done < text.size()) {
        const ssize_t size = ::pwrite(file_, text.data() + done, text.size() - done, static_cast<off_t>(bytes_ + done));
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return failed("cannot be written");
        done += static_cast<std::size_t>(size);
    }
    if (::fdatasync(file_) != 0) return failed("cannot be written");
    return {};
}

}  // namespace kv
