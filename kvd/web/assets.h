#pragma once
#include <optional>
#include <string_view>

namespace kvd::web {

// A file compiled into kvd.
struct Asset {
    std::string_view content_type;
    std::string_view bytes;
    bool gzip = false;  // bytes are gzip-compressed
};

std::string_view openapi_json();
// "" or "index.html" is the viewer's page.
std::optional<Asset> viewer_asset(std::string_view name, bool accepts_gzip);
// The viewer was found at build time; otherwise the page is plain and shows the document.
bool has_viewer();

}  // namespace kvd::web
