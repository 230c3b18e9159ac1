# What libkv is built with. Found here, in the top directory, so that libkv and its tests see the same targets.
find_package(PkgConfig REQUIRED)
pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium>=1.0.18)
find_package(OpenSSL 3.0 REQUIRED)
if(KV_WITH_POSTGRES)
  find_package(SOCI REQUIRED COMPONENTS postgresql)
  set(kv_storages SOCI::sqlite3 SOCI::postgresql)
else()
  find_package(SOCI REQUIRED)
  set(kv_storages SOCI::sqlite3)
endif()
find_package(Threads REQUIRED)
find_path(RAPIDJSON_INCLUDE_DIR rapidjson/reader.h REQUIRED)

