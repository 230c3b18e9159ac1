#include "kvd/tool.h"

#include <algorithm>
#include <cstdio>

namespace kvd {

int fail(ExitCode code, const std::string& message) {
    std::fprintf(stderr, "kvd: %s\n", message.c_str());
    return code;
}

int print(const std::string& text) {
    const bool is_written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    return is_written ? static_cast<int>(exit_ok) : fail(exit_internal, "cannot write to stdout");
}

std::string shown_storage(const std::string& uri) {
    if (uri.starts_with("sqlite:") || uri.starts_with("memory:")) return uri;
    const std::size_t scheme = uri.find(':');
    if (scheme == std::string::npos || uri.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != scheme) return "the storage";
    std::string rest = uri.substr(scheme + 1);
    rest.resize(std::min(rest.find('?'), rest.size()));
    if (const std::size_t user = rest.rfind('@'); user != std::string::npos) rest.replace(0, user + 1, "//");
    return uri.substr(0, scheme + 1) + rest;
}

ExitCode exit_code_of(kv::Errc code) {
    switch (code) {
        case kv::Errc::wrong_key:
        case kv::Errc::invalid_request:
        case kv::Errc::not_found:
        case kv::Errc::locked:
        case kv::Errc::newer_schema:
        case kv::Errc::unsupported: return exit_config;
        default: return exit_internal;
    }
}

}  // namespace kvd
