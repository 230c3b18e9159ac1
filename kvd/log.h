#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "kv/options.h"

namespace kvd {

enum class LogFormat : std::uint8_t { text, json };

// Log writes lines to stderr: a message of ours and named fields, never a header value, a body or a secret. Writing
// happens on a thread of its own, so that a reader of stderr who stalls delays no request: then the oldest lines are
// lost. The destructor writes what is left. Threads: any.
class Log {
public:
    using Field = std::pair<std::string_view, std::string>;
    using Fields = std::initializer_list<Field>;

    Log(kv::LogLevel level, LogFormat format);
    ~Log();
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    bool writes(kv::LogLevel level) const noexcept { return level >= level_; }
    void write(kv::LogLevel level, std::string_view message, Fields fields = {});
    void info(std::string_view message, Fields fields = {}) { write(kv::LogLevel::info, message, fields); }
    void warning(std::string_view message, Fields fields = {}) { write(kv::LogLevel::warning, message, fields); }
    void error(std::string_view message, Fields fields = {}) { write(kv::LogLevel::error, message, fields); }

private:
    struct Impl;
    kv::LogLevel level_;
    LogFormat format_;
    std::unique_ptr<Impl> impl_;
};

// One line as Log writes it, without its end: for tests.
std::string format_log_line(LogFormat format, std::string_view time, kv::LogLevel level, std::string_view message,
                            Log::Fields fields);

}  // namespace kvd
