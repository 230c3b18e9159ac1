#include "kvd/tool.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

namespace kvd {

namespace {

// HOST:PORT,HOST:PORT/DATABASE, any part of which may be missing. What looks otherwise may be a password in the wrong place.
bool is_place(std::string_view place) {
    if (place.find('@') != std::string_view::npos) return false;
    std::string_view hosts = place.substr(0, place.find('/'));
    while (!hosts.empty()) {
        std::string_view host = hosts.substr(0, hosts.find(','));
        hosts.remove_prefix(std::min(host.size() + 1, hosts.size()));
        if (host.starts_with('[')) host.remove_prefix(std::min(host.find(']'), host.size()));
        const std::size_t colon = host.find(':');
        if (colon != std::string_view::npos && host.find_first_not_of("0123456789", colon + 1) != std::string_view::npos) return false;
    }
    return true;
}

}  // namespace

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
    const std::size_t scheme = uri.find("://");
    if (scheme == std::string::npos || uri.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != scheme) return "the storage";
    // As a database reads it: who connects ends at the first '@' that comes before any '/'.
    std::string place = uri.substr(scheme + 3);
    const std::size_t user = place.find_first_of("@/");
    if (user != std::string::npos && place[user] == '@') place.erase(0, user + 1);
    place.resize(std::min(place.find('?'), place.size()));
    return uri.substr(0, scheme) + ":" + (is_place(place) ? "//" + place : "");
}

bool is_postgres(const std::string& uri) { return uri.starts_with("postgresql://") || uri.starts_with("postgres://"); }

kv::Result<void> must_exist(const std::string& uri) {
    constexpr std::string_view sqlite_scheme = "sqlite:";
    struct stat info {};
    if (!uri.starts_with(sqlite_scheme) || ::lstat(uri.c_str() + sqlite_scheme.size(), &info) == 0) return {};
    return kv::Error{kv::Errc::invalid_request, "there is no database at that path"};
}

std::string with_password(std::string uri, const std::optional<kv::SecretBytes>& password) {
    if (!password || !is_postgres(uri)) return uri;
    const std::size_t start = uri.find("://") + 3;
    const std::size_t user = uri.find_first_of("@/", start);
    const bool has_user = user != std::string::npos && uri[user] == '@';
    const bool has_own = (has_user && uri.find(':', start) < user) || uri.find("password=", start) != std::string::npos;
    if (has_own) return uri;
    uri += uri.find('?') == std::string::npos ? "?password=" : "&password=";
    for (const char c : password->reveal()) {
        constexpr std::string_view digits = "0123456789ABCDEF";
        uri += {'%', digits[static_cast<unsigned char>(c) >> 4], digits[static_cast<unsigned char>(c) & 15]};
    }
    return uri;
}

ExitCode exit_code_of(kv::Errc code) {
    switch (code) {
        case kv::Errc::wrong_key:
        case kv::Errc::invalid_request:
        case kv::Errc::not_found:
        case kv::Errc::locked:
        case kv::Errc::invalid_state:
        case kv::Errc::newer_schema:
        case kv::Errc::unsupported: return exit_config;
        default: return exit_internal;
    }
}

}  // namespace kvd
