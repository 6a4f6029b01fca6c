#!/usr/bin/env bash
# What `make prebuilds` does: the addon for every platform that Debian's compilers reach, into prebuilds/, and each is tried as
# far as that goes here (scripts/try-prebuilds.mjs).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/cross.sh
cross=$PWD/build/cross

# What becomes part of the binaries is named with its terms.
for file in alloc hiredis net read sds; do cat "$cross/hiredis/$file".[ch]; done | grep -oE 'Copyright \(c\).*' | sed 's/[, ]*$//' |
    cat - <(sed -n '/^Redistribution/,$p' "$cross/hiredis/COPYING") | while read -r line; do
    if [ -n "$line" ] && ! grep -qF -- "$line" THIRD_PARTY_LICENSES; then
        echo "prebuilds: THIRD_PARTY_LICENSES lacks hiredis's: $line" >&2
        exit 1
    fi
done

# These are good for any machine: which one is meant, their macros find out.
headers=$(node -p 'require("node:path").resolve(process.execPath, "../../include/node")')
if [ ! -e "$headers/uv.h" ]; then
    echo "prebuilds: this Node came without its headers ($headers): take one that has them" >&2
    exit 1
fi

# musl's headers in place of glibc's, and no library: libc's functions are there in every process.
musl_cc() { # musl_cc <compiler> <musl's folder> <triplet>
    echo "$1 -nostdinc -isystem $("$1" -print-file-name=include) -isystem $2/usr/include/$3 -nostdlib -U_FORTIFY_SOURCE"
}

build() { # build <platform> <prefix of the tools> <compiler with its flags> [<musl's libc.so>]
    local name=$1 tools=$2 cc=$3 libc=${4:-} folder=build/cross/$1 file objects=()
    echo "prebuilds: $name"
    mkdir -p "$folder/hiredis" "prebuilds/$name"
    for file in alloc hiredis net read sds; do
        [ -e "$cross/hiredis/$file.c" ] || continue
        $cc -std=c99 -O2 -fPIC -fvisibility=hidden -D_GNU_SOURCE -w -c "$cross/hiredis/$file.c" -o "$folder/hiredis/$file.o"
        objects+=("$folder/hiredis/$file.o")
    done
    rm -f "$folder/libhiredis.a"
    "${tools}ar" rcs "$folder/libhiredis.a" "${objects[@]}"
    # libgcc has what the machine's own instructions lack.
    make -s native "B=$folder" "CC=$cc" "HIREDIS_INC=-isystem $cross/include" "NODE_INC=-isystem $headers" \
        "HIREDIS_A=$folder/libhiredis.a -lgcc"
    "${tools}strip" --strip-debug -o "prebuilds/$name/affinity.node" "$folder/affinity.node"
    scripts/check-binary.sh "prebuilds/$name/affinity.node" "$libc"
}

# What makes a program of objects on musl; it is run as an argument of musl's libc.so, which is the loader too.
musl_link() { # musl_link <musl's folder> <triplet>
    echo "-rdynamic -no-pie $1/usr/lib/$2/crt1.o $1/usr/lib/$2/crti.o $1/lib/$2/libc.so $1/usr/lib/$2/crtn.o -lgcc"
}

# An addon on musl: there is no Node for it in Debian or npm, so it is a program of ours that loads it.
try_loading() { # try_loading <platform> <compiler with its flags> <flags and files to link> <loader...>
    local name=$1 cc=$2 link=$3 folder=build/cross/$1
    shift 3
    readelf --dyn-syms -W "prebuilds/$name/affinity.node" | awk '$7 == "UND" { print $8 }' |
        grep -E '^(napi_|uv_|[A-Z0-9]+_)' | sed 's/.*/int &(void) { return 0; }/' >"$folder/stubs.c"
    $cc -w -o "$folder/host" test/musl/host.c "$folder/stubs.c" $link
    "$@" "$folder/host" "$PWD/prebuilds/$name/affinity.node"
    echo "prebuilds: $name: musl loads it"
}

# The engine of another platform, run here: the simulator, whose traces must be the same everywhere.
try_engine() { # try_engine <platform> <compiler with its flags> <flags and files to link> <command to run programs with...>
    local name=$1 cc=$2 link=$3 simulator=build/cross/$1/sim/sim/sim traces=build/cross/$1/traces
    shift 3
    make -s "$simulator" "V=build/cross/$name/sim" "CC=$cc" "LDFLAGS=$link"
    rm -rf "$traces"
    mkdir "$traces"
    "$@" "$simulator" golden "$traces"
    diff -r sim/golden "$traces"
    "$@" "$simulator" swarm 50 1 >/dev/null
    echo "prebuilds: $name: the engine runs as here"
}

x64=$cross/musl-amd64 x64_triplet=x86_64-linux-musl
arm64=$cross/musl-arm64 arm64_triplet=aarch64-linux-musl
x64_cc=$(musl_cc gcc "$x64" $x64_triplet)
# Outline atomics ask libc for what only newer ones of musl have.
arm64_cc="$(musl_cc aarch64-linux-gnu-gcc "$arm64" $arm64_triplet) -mno-outline-atomics"
x64_link=$(musl_link "$x64" $x64_triplet)
arm64_link=$(musl_link "$arm64" $arm64_triplet)
x64_libc=$x64/lib/$x64_triplet/libc.so
arm64_libc=$arm64/lib/$arm64_triplet/libc.so

build linux-x64 '' gcc
build linux-arm64 aarch64-linux-gnu- aarch64-linux-gnu-gcc
build linux-x64-musl '' "$x64_cc" "$x64_libc"
build linux-arm64-musl aarch64-linux-gnu- "$arm64_cc" "$arm64_libc"

try_loading linux-x64-musl "$x64_cc" "$x64_link" "$x64_libc"
try_loading linux-arm64-musl "$arm64_cc" "$arm64_link" qemu-aarch64 "$arm64_libc"
try_engine linux-x64-musl "$x64_cc" "$x64_link" "$x64_libc"
try_engine linux-arm64-musl "$arm64_cc" "$arm64_link" qemu-aarch64 "$arm64_libc"
try_engine linux-arm64 aarch64-linux-gnu-gcc -static qemu-aarch64
node scripts/try-prebuilds.mjs
