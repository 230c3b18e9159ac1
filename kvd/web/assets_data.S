/* The files a browser gets: NAME_bytes, and how many in NAME_size. Where they come from: CMakeLists.txt. */
#define ASSET(name, file) \
    .global name##_bytes; .hidden name##_bytes; .global name##_size; .hidden name##_size; \
    name##_bytes: .incbin file; name##_end: .balign 4; name##_size: .long name##_end - name##_bytes

    .section .rodata
ASSET(kvd_asset_openapi, "openapi.json")
ASSET(kvd_asset_index, "index.html")
ASSET(kvd_asset_initializer, "initializer.js")
ASSET(kvd_asset_plain_page, "plain.html")
ASSET(kvd_asset_plain_script, "plain.js")
ASSET(kvd_asset_bundle, "swagger-ui-bundle.js")
ASSET(kvd_asset_bundle_gzip, "swagger-ui-bundle.js.gz")
ASSET(kvd_asset_style, "swagger-ui.css")
ASSET(kvd_asset_style_gzip, "swagger-ui.css.gz")
ASSET(kvd_asset_icon, "favicon-32x32.png")
ASSET(kvd_asset_license, "LICENSE")
ASSET(kvd_asset_notice, "NOTICE")

    .section .note.GNU-stack,"",%progbits
