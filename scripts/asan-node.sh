#!/usr/bin/env bash
# scripts/asan-node.sh <addon> <command...>: runs a command whose Node processes load that addon, which was built
# with sanitizers, in place of the usual one.
set -euo pipefail
cd "$(dirname "$0")/.."
addon=$(realpath "$1")
shift
# The sanitizers' library has to be the first one; Node itself was built without it.
LD_PRELOAD="$("${CC:-gcc}" -print-file-name=libasan.so) $("${CC:-gcc}" -print-file-name=libubsan.so)"
export LD_PRELOAD
export AFF_TEST_ADDON=$addon
export NODE_OPTIONS="--require=$PWD/test/support/sanitized-addon.cjs ${NODE_OPTIONS:-}"
# Leaks are looked for by the C tests: a Node process ends without giving its own memory back, and most tests kill theirs.
# A finding ends the process and stands in build/asan-node/report.<pid>, since tests read their servers' output.
rm -f build/asan-node/report.*
options=detect_leaks=0:log_path=$PWD/build/asan-node/report
# Some tests look at the memory of their servers: little of what was freed is kept aside.
export ASAN_OPTIONS=$options:quarantine_size_mb=8 UBSAN_OPTIONS=$options:print_stacktrace=1
# ps and pgrep, which tests and PM2 call, hang with that library in them.
mkdir -p build/asan-node/bin
for tool in ps pgrep; do
    printf '#!/bin/sh\nunset LD_PRELOAD\nexec %s "$@"\n' "$(command -v "$tool")" >"build/asan-node/bin/$tool"
    chmod +x "build/asan-node/bin/$tool"
done
export PATH="$PWD/build/asan-node/bin:$PATH"
status=0
"$@" || status=$?
if compgen -G 'build/asan-node/report.*' >/dev/null; then
    cat build/asan-node/report.*
    status=1
fi
exit $status
