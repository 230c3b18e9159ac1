#!/usr/bin/env bash
# Installs libkv, moves it elsewhere, and builds and runs projects outside our tree against the copy: one finds it with
# CMake's find_package, one with pkg-config.
#
#   run.sh static|shared BUILD_DIR CXX    BUILD_DIR: a built tree of ours; CXX: the compiler it was built with
set -euo pipefail

kind=$1 build=$(realpath "$2") cxx=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "package test: $*" >&2
    exit 1
}

if [[ $kind == shared ]]; then
    # A tree of its own with the library alone. It stays, so that the next run finds it built.
    cmake -S "$source" -B "$build/package-shared" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=ON -DKV_BUILD_KVD=OFF -DKV_BUILD_TESTS=OFF -DKV_BUILD_EXAMPLES=OFF >"$work/log" ||
        { cat "$work/log"; fail "the shared library does not configure"; }
    build=$build/package-shared
    cmake --build "$build" --parallel 2 >"$work/log" || { cat "$work/log"; fail "the shared library does not build"; }
fi

cmake --install "$build" --prefix "$work/first" >"$work/log" || { cat "$work/log"; fail "cmake --install failed"; }
mkdir "$work/elsewhere"
prefix=$work/elsewhere/moved
mv "$work/first" "$prefix"
for place in "$work/first" "$source" "$build"; do
    ! grep -rIlF "$place" "$prefix" || fail "installed files know the place $place"
done
package_dir=$(dirname "$(find "$prefix" -name libkvConfig.cmake)")
pc_dir=$(dirname "$(find "$prefix" -name libkv.pc)")
lib_dir=$(dirname "$pc_dir")

# Every public header compiles alone, without a warning, and brings nothing but the standard library along.
for header in "$prefix"/include/kv/*.h; do
    "$cxx" -std=c++20 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ -I "$prefix/include" -MD -MF "$work/deps" - \
        <<<"#include <kv/${header##*/}>" || fail "$header does not compile alone"
    ! grep -E '/(boost|soci|sodium|openssl|rapidjson|sqlite3|spdlog|prometheus)' "$work/deps" ||
        fail "$header includes more than the standard library"
done

if [[ $kind == shared ]]; then
    library=$lib_dir/libkv.so
    [[ -e $library ]] || fail "no $library"
    leaked=$(nm --dynamic --defined-only "$library" | awk '{print $3}' |
        grep -vE '^(_ZNK?2kv|_ZT[ISV]N2kv|kv_)' || true)
    [[ -z $leaked ]] || fail "the shared library shows more than its API:"$'\n'"$(c++filt <<<"$leaked")"
    inner=$(nm --dynamic --defined-only --demangle "$library" | grep -E ' kv::(crypto|json|storage|detail)::' || true)
    [[ -z $inner ]] || fail "the shared library shows its insides:"$'\n'"$inner"
    pkg_config_flags=
else
    [[ -e $lib_dir/libkv.a ]] || fail "no $lib_dir/libkv.a"
    [[ ! -e $prefix/bin/kvd ]] || "$prefix/bin/kvd" --version || fail "the installed kvd does not run"
    pkg_config_flags=--static
fi

# find_package
cp -r "$here/outside" "$work/cmake_project"
cmake -S "$work/cmake_project" -B "$work/cmake_build" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$prefix" \
    >"$work/log" || { cat "$work/log"; fail "find_package does not find libkv"; }
grep -qF "libkv_DIR:PATH=$package_dir" "$work/cmake_build/CMakeCache.txt" || fail "find_package found another libkv"
cmake --build "$work/cmake_build" >"$work/log" || { cat "$work/log"; fail "the CMake project does not build"; }
mkdir "$work/data_cmake"
"$work/cmake_build/consumer" "$work/data_cmake"

# pkg-config
cp -r "$here/outside" "$work/make_project"
export PKG_CONFIG_PATH=$pc_dir
[[ $(pkg-config --modversion libkv) == "$(sed -n 's/^#define KV_VERSION "\(.*\)"/\1/p' "$prefix/include/kv/version.h")" ]] ||
    fail "pkg-config and kv/version.h disagree about the version"
make -C "$work/make_project" CXX="$cxx" PKG_CONFIG_FLAGS="$pkg_config_flags" LDFLAGS="-Wl,-rpath,$lib_dir" >"$work/log" ||
    { cat "$work/log"; fail "the pkg-config project does not build"; }
mkdir "$work/data_make"
"$work/make_project/consumer" "$work/data_make"
