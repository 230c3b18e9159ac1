#!/usr/bin/env bash
# Measures kvd and libkv on this machine: prints tables, and writes all figures as JSON. A benchmark, not a test: it ends
# with 0 whatever the figures are, and with 1 if kvd answered with errors.
#
#   tests/bench/run.sh            all of it, about six minutes
#   tests/bench/run.sh --quick    about a minute
#   tests/bench/run.sh --help     parts, comparing two builds of kvd, what the figures mean
#
# Databases go to TMPDIR (/tmp): let that be a disk. Nothing is left there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case " $* " in
    *" --help "* | *" -h "*) exec python3 -B "$root/tests/bench/bench.py" --help ;;
esac
"$root/cmake/install-deps.sh" --bench
(
    cd "$root"
    options=()
    # A tree that is configured already keeps its tests.
    [[ -e build/release/CMakeCache.txt ]] || options=(-DKV_BUILD_TESTS=OFF -DKV_BUILD_EXAMPLES=OFF)
    cmake --preset release -DKV_BUILD_KVD=ON -DKV_BUILD_BENCH=ON "${options[@]}" >/dev/null
    cmake --build --preset release --parallel "${KV_JOBS:-2}" --target kvd kv_bench_fill kv_bench_groups kv_bench_process
)
exec python3 -B "$root/tests/bench/bench.py" "$@"
