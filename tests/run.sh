#!/usr/bin/env bash
# Builds everything and runs every test, from a bare Debian 12 and from any directory. Ends in ctest's summary and exits
# with its status.
#
#   tests/run.sh                 gcc release build, clang debug build, all tests
#   tests/run.sh --quick         the gcc build and the tests that are not labelled slow
#   tests/run.sh --filter REGEX  the gcc build and the tests whose names match
#   tests/run.sh --sanitizers    the doctest programs under address+undefined and thread sanitizers too
#
# KV_JOBS: how many compilers run at once (2).
set -euo pipefail

quick=no sanitizers=no filter=
while [[ $# -gt 0 ]]; do
    case $1 in
        --quick) quick=yes ;;
        --sanitizers) sanitizers=yes ;;
        --filter)
            [[ $# -ge 2 ]] || { echo "run.sh: --filter needs a regular expression" >&2; exit 2; }
            filter=$2
            shift
            ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *)
            echo "run.sh: unknown option $1 (see --help)" >&2
            exit 2
            ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=${KV_JOBS:-2}
step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

step "dependencies"
cmake/install-deps.sh --tests

step "layers"
.ci/layers.sh

step "release build, gcc"
cmake --preset release -DKV_BUILD_KVD=ON -DKV_BUILD_TESTS=ON -DKV_BUILD_EXAMPLES=ON
cmake --build --preset release --parallel "$jobs"
cmake --build --preset release --parallel "$jobs" --target all_verify_interface_header_sets

if [[ $quick == no && -z $filter ]]; then
    # A second compiler for its warnings; what runs was built by the first.
    step "debug build, clang"
    cmake --preset debug -B build/clang -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 \
        -DKV_BUILD_TESTS=OFF -DKV_BUILD_EXAMPLES=OFF -DKV_VIEWER=OFF
    cmake --build build/clang --parallel "$jobs"
fi

if [[ $sanitizers == yes ]]; then
    # The thread sanitizer cannot place its shadow where the kernel randomises addresses too widely.
    fixed_addresses=()
    if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
    for preset in asan tsan; do
        step "$preset build and doctest programs"
        cmake --preset "$preset" -DKV_BUILD_EXAMPLES=OFF
        cmake --build --preset "$preset" --parallel "$jobs"
        "${fixed_addresses[@]}" ctest --preset "$preset" --label-regex doctest --no-tests=error --timeout 900
    done
fi

step "tests"
selection=()
[[ $quick == no ]] || selection+=(--label-exclude slow)
[[ -z $filter ]] || selection+=(--tests-regex "$filter")
ctest --preset release --parallel "$jobs" --no-tests=error --timeout 600 "${selection[@]}"
