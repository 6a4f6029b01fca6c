#!/usr/bin/env bash
# scripts/valgrind.sh <programs>: runs them under valgrind, one seed of those that have seeds.
set -uo pipefail
failed=0
for program in "$@"; do
    # This one runs its scenario once per allocation, which takes valgrind hours; the asan verb has it.
    case "$program" in *test_core_alloc) continue ;; esac
    echo "$program"
    SWARM_SEEDS=5 valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect,possible \
        --errors-for-leak-kinds=definite,indirect,possible "$program" 2>&1 | grep -E '^==|PASSED|FAILED'
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
done
[ $failed = 0 ] && echo 'valgrind: clean'
exit $failed
