#!/usr/bin/env bash
# Builds everything and runs every test, from a bare Debian 12 and from any directory. A part that fails does not keep
# the others from running. Ends in a summary of all parts; exits with 0 if everything was built and every test passed.
#
#   tests/run.sh                 gcc release build and all tests; clang build under address+undefined sanitizers,
#                                and the fuzz targets of it
#   tests/run.sh --sanitizers    that, and all tests under the address+undefined and the thread sanitizer
#   tests/run.sh --quick         the gcc build and the tests that are not labelled slow
#   tests/run.sh --filter REGEX  the gcc build and the tests whose names match
#
# --quick and --filter go with --sanitizers, and then choose from the tests there, too.
#
# KV_JOBS: how many compilers and how many tests run at once (2).
#
# Under a sanitizer some tests do less (KV_TEST_THIN=1, which the presets asan and tsan set):
#   model_test        10 000 operations instead of 100 000
#   http_rotation     kvd is killed 8 times instead of 50
#   http_crash        every fourth operation is killed at its calls, and a tenth of the kills by strace
#   http_faults       every fault meets two operations instead of some all of them
#   http_cluster_history, http_cluster_race   6 s of load instead of 12, and 100 versions instead of 400
# and these are left out, for there is nothing of ours to be sanitized in them: the layers, the packages (built and used
# outside), and the browser's view of the API document; most of what runs on SQLite and on PostgreSQL runs on the former alone, and
# of the clusters only history, race and away; under the thread sanitizer also allocation_test, for both replace
# operator new; under the address sanitizer http_clock, whose libfaketime does not go with its allocator.
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
selection=()
[[ $quick == no ]] || selection+=(--label-exclude slow)
[[ -z $filter ]] || selection+=(--tests-regex "$filter")

# The sanitizers cannot place their shadow memory where the kernel randomises addresses too widely.
fixed_addresses=()
if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi

summary=() failures=0
all_tests=0 all_failed=0 all_skipped=0

step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

# part NAME COMMAND...: runs the command; if it fails, so does the whole, in the end.
part() {
    local name=$1
    shift
    step "$name"
    "$@" && return 0
    summary+=("$name: failed")
    failures=$((failures + 1))
    return 1
}

build() {
    local preset=$1
    shift
    cmake --preset "$preset" "$@" && cmake --build --preset "$preset" --parallel "$jobs"
}

build_release() {
    build release -DKV_BUILD_KVD=ON -DKV_BUILD_TESTS=ON -DKV_BUILD_EXAMPLES=ON &&
        cmake --build --preset release --parallel "$jobs" --target all_verify_interface_header_sets
}

# count FILE ATTRIBUTE: a number from the head of ctest's report.
count() { sed -n "0,/\b$2=/s/.*\b$2=\"\([0-9]*\)\".*/\1/p" "$1"; }

# run_tests PRESET ARGUMENTS...: ctest, and its counts into the summary.
run_tests() {
    local preset=$1 status=0
    shift
    local report=$PWD/build/$preset/tests.xml
    rm -f "$report"
    "${fixed_addresses[@]}" ctest --preset "$preset" --parallel "$jobs" --output-junit "$report" "$@" || status=$?
    [[ -s $report ]] || return 1  # ctest itself failed
    local tests failed skipped
    tests=$(count "$report" tests) failed=$(count "$report" failures) skipped=$(count "$report" skipped)
    summary+=("$preset: $tests tests, $failed failed, $skipped skipped")
    all_tests=$((all_tests + tests)) all_failed=$((all_failed + failed)) all_skipped=$((all_skipped + skipped))
    return "$status"
}

step "dependencies"
cmake/install-deps.sh --tests

part "layers" .ci/layers.sh || true
if part "release build, gcc" build_release; then
    part "tests, release" run_tests release --no-tests=error --timeout 600 "${selection[@]}" || true
fi
if [[ $sanitizers == yes || ${#selection[@]} -eq 0 ]]; then
    # The one build by a second compiler, so its warnings count too.
    if part "asan build, clang" build asan; then
        if [[ $sanitizers == yes ]]; then
            part "tests, address and undefined sanitizers" run_tests asan --timeout 1200 "${selection[@]}" || true
        else
            part "fuzzing" run_tests asan --timeout 300 --label-regex '^fuzz$' || true
        fi
    fi
fi
if [[ $sanitizers == yes ]] && part "tsan build, clang" build tsan; then
    part "tests, thread sanitizer" run_tests tsan --timeout 1200 "${selection[@]}" || true
fi

step "summary"
printf '%s\n' "${summary[@]}"
printf 'total: %d tests, %d failed, %d skipped\n' "$all_tests" "$all_failed" "$all_skipped"
[[ $failures -eq 0 ]]
