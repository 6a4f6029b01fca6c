#!/usr/bin/env bash
# Installs what is missing, Debian packages and npm packages. Fast and silent when nothing is.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin" # where Debian puts haproxy

missing=()
need_command() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need_library() { pkg-config --exists "$1" 2>/dev/null || missing+=("$2"); }

need_command gcc gcc
need_command clang clang
need_command clang-format clang-format
need_command make make
need_command valgrind valgrind
# clang's sanitizers and libFuzzer lie in a package of their own, which only newer Debians name without its version.
if ! command -v clang >/dev/null 2>&1; then
    missing+=(libclang-rt-dev)
elif [ ! -e "$(clang -print-file-name=libclang_rt.fuzzer-$(uname -m).a)" ] &&
    ! ls "$(clang -print-resource-dir)"/lib/*/libclang_rt.fuzzer*.a >/dev/null 2>&1; then
    major=$(clang -dumpversion | cut -d. -f1)
    missing+=("libclang-rt-$major-dev")
fi
need_command pkg-config pkg-config
need_command redis-server redis-server
need_command openssl openssl
need_command haproxy haproxy
need_command mandoc mandoc
need_command chromium chromium
need_library libuv libuv1-dev
need_library hiredis libhiredis-dev
need_library cmocka libcmocka-dev
need_library openssl libssl-dev
need_library jansson libjansson-dev
# Without libc's headers gcc is of no use, and without recommended packages it comes without them.
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)

install_debian() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || return 1
        sudo=(sudo)
    fi
    # Debian starts a service when it installs one. Ours are private: policy-rc.d forbids it meanwhile.
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod 755 "$policy"
        made_policy=1
    fi
    local status=0
    { "${sudo[@]}" apt-get update -qq &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } || status=1
    [ -z "$made_policy" ] || "${sudo[@]}" rm -f "$policy"
    # Nor shall they start with the machine, where this script is what brought them.
    if command -v systemctl >/dev/null 2>&1; then
        local service
        for service in redis-server haproxy; do
            [[ " ${missing[*]} " != *" $service "* ]] || "${sudo[@]}" systemctl disable --quiet "$service" 2>/dev/null || true
        done
    fi
    return $status
}

if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    if ! command -v apt-get >/dev/null 2>&1 || ! install_debian; then
        echo "setup: please install (names as in Debian): ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    echo "setup: please install Node.js (20 or newer) with npm" >&2
    exit 1
fi

# npm writes node_modules/.package-lock.json last: older than the lock file means outdated or broken off.
# Our own install script is left out: it would build, and `make build` does.
for folder in . test/nodes test/providers test/runners test/servers test/types scripts/docs; do
    if [ ! "$folder/node_modules/.package-lock.json" -nt "$folder/package-lock.json" ]; then
        echo "setup: installing npm packages ($folder)"
        (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
        touch "$folder/node_modules/.package-lock.json"
    fi
done
