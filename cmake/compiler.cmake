# What every target of ours is compiled with. Hosts that add libkv as a subdirectory keep their own flags: everything
# goes through the interface target kv_compiler.
set(KV_SANITIZE "" CACHE STRING "Sanitizers to build with, as in -fsanitize=")

find_program(KV_CCACHE ccache)
mark_as_advanced(KV_CCACHE)
if(KV_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${KV_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${KV_CCACHE})
endif()

set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endif()

add_library(kv_compiler INTERFACE)
target_compile_features(kv_compiler INTERFACE cxx_std_20)
target_compile_options(kv_compiler INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough -fvisibility=hidden
    $<$<COMPILE_LANGUAGE:CXX>:-fvisibility-inlines-hidden>
    $<$<BOOL:${KV_WARNINGS_AS_ERRORS}>:-Werror>
    $<$<NOT:$<CONFIG:Debug>>:-fstack-protector-strong>)
if(KV_SANITIZE)
  # Debian's SOCI exports no type information, which the vptr check needs.
  target_compile_options(kv_compiler INTERFACE -fsanitize=${KV_SANITIZE} -fno-sanitize=vptr -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
  target_link_options(kv_compiler INTERFACE -fsanitize=${KV_SANITIZE})
endif()
if(KV_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR NOT KV_SANITIZE MATCHES "address")
    message(FATAL_ERROR "KV_BUILD_FUZZERS needs clang, for libFuzzer, and KV_SANITIZE=address,undefined, to notice what goes wrong")
  endif()
  # Everything tells which way it went; the library that asks, and brings a main(), is linked into the fuzz targets alone.
  target_compile_options(kv_compiler INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=fuzzer-no-link>)
endif()
