#include "kvd/log.h"

#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <chrono>

#include "json/json.h"
#include "kv/clock.h"
#include "text.h"

namespace kvd {
namespace {

std::string_view name_of(kv::LogLevel level) {
    switch (level) {
        case kv::LogLevel::debug:
            return "debug";
        case kv::LogLevel::info:
            return "info";
        case kv::LogLevel::warning:
            return "warning";
        case kv::LogLevel::error:
            return "error";
    }
    return "error";
}

// Text on one line: what could forge another line, or move a terminal's cursor, is escaped.
void append_escaped(std::string& out, std::string_view text) {
    for (char byte : text) {
        const auto code = static_cast<unsigned char>(byte);
        if (code >= 0x20 && code != 0x7f) {
            out += byte;
        } else {
            out += "\\x";
            out += kv::hex_encode({&byte, 1});
        }
    }
}

std::string text_line(std::string_view time, kv::LogLevel level, std::string_view message, Log::Fields fields) {
    std::string line(time);
    line += ' ';
    line += name_of(level);
    line += ' ';
    append_escaped(line, message);
    for (const auto& [name, value] : fields) {
        line += ' ';
        line += name;
        line += '=';
        append_escaped(line, value);
    }
    return line;
}

// A driver's or a client's text may be anything; a JSON line must be UTF-8.
void member(kv::json::Writer& out, std::string_view name, std::string_view text) {
    if (kv::is_valid_utf8(text)) return out.member(name, text);
    std::string escaped;
    for (char byte : text) {
        if (static_cast<unsigned char>(byte) < 0x80)
            escaped += byte;
        else
            escaped += "\\x" + kv::hex_encode({&byte, 1});
    }
    out.member(name, escaped);
}

std::string json_line(std::string_view time, kv::LogLevel level, std::string_view message, Log::Fields fields) {
    kv::json::Writer out;
    out.begin_object();
    out.member("time", time);
    out.member("level", name_of(level));
    member(out, "message", message);
    for (const auto& [name, value] : fields) member(out, name, value);
    out.end_object();
    return out.take();
}

}  // namespace

std::string format_log_line(LogFormat format, std::string_view time, kv::LogLevel level, std::string_view message,
                            Log::Fields fields) {
    return format == LogFormat::json ? json_line(time, level, message, fields)
                                     : text_line(time, level, message, fields);
}

struct Log::Impl {
    static constexpr std::size_t lines_max = 4096;

    // Borrowed by nobody else; spdlog's own interfaces want shared ones.
    std::shared_ptr<spdlog::details::thread_pool> thread = std::make_shared<spdlog::details::thread_pool>(lines_max, 1);
    std::shared_ptr<spdlog::async_logger> logger =
        std::make_shared<spdlog::async_logger>("kvd", std::make_shared<spdlog::sinks::stderr_sink_mt>(), thread,
                                               spdlog::async_overflow_policy::overrun_oldest);
};

Log::Log(kv::LogLevel level, LogFormat format) : level_(level), format_(format), impl_(std::make_unique<Impl>()) {
    impl_->logger->set_level(spdlog::level::trace);
    impl_->logger->set_pattern("%v");
}

Log::~Log() = default;

void Log::write(kv::LogLevel level, std::string_view message, Fields fields) {
    if (!writes(level)) return;
    const auto now = std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    const std::string line = format_log_line(format_, kv::format_time(now), level, message, fields);
    impl_->logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace kvd
