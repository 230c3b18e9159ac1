# What `cmake --install` lays down: library, headers, CMake package and pkg-config file, all of which find one another
# wherever the prefix is moved to; and the server.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/libkv)
get_target_property(kv_library_type kv TYPE)

install(TARGETS kv EXPORT libkvTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT libkvTargets NAMESPACE libkv:: DESTINATION ${package_dir})

# A shared libkv brings its libraries along; whoever links a static one must find them.
if(kv_library_type STREQUAL "STATIC_LIBRARY")
  set(kv_is_static ON)
  set(pc_requires_private "libsodium >= 1.0.18, libcrypto >= 3.0, sqlite3")
  set(pc_libs_private "-lsoci_sqlite3 -lsoci_core -lstdc++ -pthread")
  set(kv_soci_components "")
  if(KV_WITH_POSTGRES)
    # By itself: asked for through its own .pc file it would bring what a static libpq needs, which Debian does not have.
    string(PREPEND pc_libs_private "-lsoci_postgresql -lpq ")
    set(kv_soci_components "COMPONENTS postgresql")
  endif()
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/FindSOCI.cmake DESTINATION ${package_dir})
else()
  set(kv_is_static OFF)
  set(pc_requires_private "")
  set(pc_libs_private "")
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/libkvConfig.cmake.in
    ${PROJECT_BINARY_DIR}/cmake/libkvConfig.cmake
    INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/libkvConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/libkvConfig.cmake ${PROJECT_BINARY_DIR}/cmake/libkvConfigVersion.cmake
    DESTINATION ${package_dir})

file(RELATIVE_PATH pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")
configure_file(${PROJECT_SOURCE_DIR}/cmake/libkv.pc.in ${PROJECT_BINARY_DIR}/cmake/libkv.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cmake/libkv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(TARGET kvd)
  if(NOT kv_is_static)
    file(RELATIVE_PATH bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
    set_target_properties(kvd PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  endif()
  install(TARGETS kvd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
