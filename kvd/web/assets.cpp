#include "kvd/web/assets.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

// Defined in assets_data.S.
#define ASSET(name)                        \
    extern "C" const char name##_bytes[]; \
    extern "C" const std::uint32_t name##_size
ASSET(kvd_asset_openapi);
ASSET(kvd_asset_index);
ASSET(kvd_asset_initializer);
ASSET(kvd_asset_plain_page);
ASSET(kvd_asset_plain_script);
ASSET(kvd_asset_bundle);
ASSET(kvd_asset_bundle_gzip);
ASSET(kvd_asset_style);
ASSET(kvd_asset_style_gzip);
ASSET(kvd_asset_icon);
ASSET(kvd_asset_license);
ASSET(kvd_asset_notice);
#undef ASSET

namespace kvd::web {
namespace {

#define BYTES(name) std::string_view(name##_bytes, name##_size)

struct File {
    std::string_view name;
    std::string_view content_type;
    std::string_view plain;
    std::string_view gzip;
};

constexpr std::string_view html = "text/html; charset=utf-8";
constexpr std::string_view javascript = "text/javascript; charset=utf-8";
constexpr std::string_view text = "text/plain; charset=utf-8";

const File viewer_files[] = {
    {"index.html", html, BYTES(kvd_asset_index), {}},
    {"initializer.js", javascript, BYTES(kvd_asset_initializer), {}},
    {"swagger-ui-bundle.js", javascript, BYTES(kvd_asset_bundle), BYTES(kvd_asset_bundle_gzip)},
    {"swagger-ui.css", "text/css; charset=utf-8", BYTES(kvd_asset_style), BYTES(kvd_asset_style_gzip)},
    {"favicon-32x32.png", "image/png", BYTES(kvd_asset_icon), {}},
    {"LICENSE", text, BYTES(kvd_asset_license), {}},
    {"NOTICE", text, BYTES(kvd_asset_notice), {}},
};
const File plain_files[] = {
    {"index.html", html, BYTES(kvd_asset_plain_page), {}},
    {"plain.js", javascript, BYTES(kvd_asset_plain_script), {}},
};

template <std::size_t N>
const File* find(const File (&files)[N], std::string_view name) {
    const File* found = std::find_if(std::begin(files), std::end(files), [&](const File& file) { return file.name == name; });
    return found == std::end(files) ? nullptr : found;
}

}  // namespace

std::string_view openapi_json() { return BYTES(kvd_asset_openapi); }

bool has_viewer() { return kvd_asset_bundle_size != 0; }

std::optional<Asset> viewer_asset(std::string_view name, bool accepts_gzip) {
    if (name.empty()) name = "index.html";
    const File* file = has_viewer() ? find(viewer_files, name) : find(plain_files, name);
    if (!file) return std::nullopt;
    if (accepts_gzip && !file->gzip.empty()) return Asset{file->content_type, file->gzip, true};
    return Asset{file->content_type, file->plain, false};
}

}  // namespace kvd::web
