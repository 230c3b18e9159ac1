#!/usr/bin/env bash
# Runs fuzz targets, two at a time, over copies of their corpora, and fails if one finds something.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]    SECONDS: of each target (30); TARGET: session, json... (all there are)
#
# KV_FUZZERS: the folder of the targets (build/asan/bin). KV_FUZZ_OUT: where inputs that were found, logs and the grown
# corpora go (build/asan/fuzz). KV_FUZZ_SEED: to begin as an earlier run did. KV_FUZZ_JOBS: targets at a time (2).
#
# An input that was found is run again with: build/asan/bin/fuzz_TARGET FILE
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
fuzzers=${KV_FUZZERS:-$root/build/asan/bin}
out=${KV_FUZZ_OUT:-$root/build/asan/fuzz}

seconds=30
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
targets=("$@")
if [[ $# -eq 0 ]]; then
    for fuzzer in "$fuzzers"/fuzz_*; do
        [[ -x $fuzzer ]] && targets+=("$(basename "$fuzzer" | sed 's/^fuzz_//')")
    done
fi
[[ ${#targets[@]} -gt 0 ]] || { echo "run.sh: no targets in $fuzzers: build with KV_BUILD_FUZZERS=ON" >&2; exit 2; }

# A target without a limit of its own takes inputs of up to 4 KiB.
fuzz() {
    local target=$1 seed=$2 log=$out/$1.log corpus status=0
    corpus=$(mktemp -d)
    cp -r "$here/corpus/$target/." "$corpus/"
    # Leaks are looked for at the end: what stays after one input is mostly a store that grew.
    local options=(-detect_leaks=0 -max_total_time="$seconds" -seed="$seed" -timeout=20 -rss_limit_mb=1024 -max_len=4096 -entropic=0
        -artifact_prefix="$out/$target-" -print_final_stats=1)
    [[ -f $here/$target.dict ]] && options+=(-dict="$here/$target.dict")
    ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
        "$fuzzers/fuzz_$target" "${options[@]}" "$corpus" >"$log" 2>&1 || status=$?
    rm -rf "$out/$target.corpus"
    mv "$corpus" "$out/$target.corpus"
    local runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    if [[ $status -eq 0 ]]; then
        echo "$target: sound, ${runs:-0} inputs in $seconds s, seed $seed"
    else
        echo "$target: FOUND SOMETHING, ${runs:-0} inputs, seed $seed, log $log"
        grep -E 'this does not hold|ERROR:|runtime error:|SUMMARY:|Test unit written' "$log" || tail -n 20 "$log"
        echo "$target" >>"$failures"
    fi
}

mkdir -p "$out"
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
for target in "${targets[@]}"; do
    [[ -x $fuzzers/fuzz_$target ]] || { echo "run.sh: there is no target $target in $fuzzers" >&2; exit 2; }
    [[ -n $(ls -A "$here/corpus/$target" 2>/dev/null) ]] || { echo "run.sh: $target has no corpus" >&2; exit 2; }
done
for target in "${targets[@]}"; do
    while [[ $(jobs -rp | wc -l) -ge ${KV_FUZZ_JOBS:-2} ]]; do wait -n; done
    fuzz "$target" "${KV_FUZZ_SEED:-$((RANDOM * 32768 + RANDOM + 1))}" &
done
wait
[[ ! -s $failures ]]
