#!/usr/bin/env bash
# scripts/fuzz.sh <target> <seconds>: fuzzes. What it finds goes to build/fuzz/found/<target>, what breaks
#   something to build/fuzz/<target>-crash-...
# scripts/fuzz.sh --merge <target>: the least of corpus and findings that reaches all that they reach together.
# scripts/fuzz.sh --short <target>: the corpus, then 2,000 runs from a fixed seed.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=long
case "$1" in --merge) mode=merge && shift ;; --short) mode=short && shift ;; esac
target=$1
program=build/fuzz/fuzz_$target
corpus=fuzz/corpus/$target
found=build/fuzz/found/$target
mkdir -p "$corpus" "$found"
# An array that Redis announces with 2^31 elements is refused by malloc, as it may be; that is no finding.
export ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=256
options=(-max_len=4096 -len_control=20 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=2048 "-artifact_prefix=build/fuzz/$target-")

case $mode in
    long) exec "$program" "${options[@]}" -use_value_profile=1 -max_total_time="$2" -print_final_stats=1 "$found" "$corpus" ;;
    short) # the first folder is the one that is written to
        rm -rf "build/fuzz/short/$target" && mkdir -p "build/fuzz/short/$target"
        exec "$program" "${options[@]}" -seed=1 -max_len=512 -runs=2000 -verbosity=0 -print_final_stats=1 "build/fuzz/short/$target" "$corpus"
        ;;
    merge)
        smallest=$(mktemp -d)
        "$program" "${options[@]}" -max_len=512 -set_cover_merge=1 "$smallest" "$corpus" "$found"
        rm -f "$corpus"/*
        mv "$smallest"/* "$corpus"/
        rmdir "$smallest"
        ;;
esac
