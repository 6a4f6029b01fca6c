#!/usr/bin/env bash
# What `make lint` checks. Every check runs; the first words of a complaint say which one it is.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=0
complain() { # complain <check> <text>: fails the check when there is text
    [ -n "$2" ] || return 0
    printf 'lint: %s:\n%s\n' "$1" "$(sed 's/^/    /' <<<"$2")" >&2
    failed=1
}
must() { # must <check> <command...>: fails the check, with the command's output, when it fails
    local name=$1 output
    shift
    output=$("$@" 2>&1) || complain "$name" "${output:-failed: $*}"
}

# --- format
must format clang-format --dry-run -Werror $(ls {core,runtime,binding,ctl,sim,fuzz,bench,test/c,test/musl}/*.[ch] 2>/dev/null)

# --- layers: core <- runtime <- binding, no include upward or sideways
quoted_outside() { # quoted_outside <folder> <allowed folders...>: quoted includes of headers that lie nowhere there
    local from=$1 file header folder found
    shift
    grep -HoE '^ *# *include *"[^"]+"' "$from"/*.[ch] 2>/dev/null | sed -E 's/:.*"(.*)"/ \1/' |
        while read -r file header; do
            found=
            for folder in "$@"; do [ ! -f "$folder/$header" ] || found=1; done
            [ -n "$found" ] || echo "$file includes \"$header\""
        done
}
complain 'core includes only core' "$(quoted_outside core core)"
complain 'runtime includes only core and runtime' "$(quoted_outside runtime core runtime)"
complain 'binding includes only core, runtime and binding' "$(quoted_outside binding core runtime binding)"
complain 'ctl includes only core, runtime and ctl' "$(quoted_outside ctl core runtime ctl)"
complain 'sim includes only core and sim' "$(quoted_outside sim core sim)"
libc='assert|ctype|errno|float|inttypes|limits|math|setjmp|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string'
complain 'core includes libc headers only' \
    "$(grep -nE '^ *# *include *<' core/*.[ch] | grep -vE "<($libc)\.h>")"
complain 'runtime knows nothing of Node' "$(grep -nE '^ *# *include *[<"](node|js_native|v8)' runtime/*.[ch])"
may_import=$(node -p 'const { dependencies, peerDependencies } = require("./package.json"); Object.keys({ ...dependencies, ...peerDependencies }).join("|")')
complain 'the facade imports node:*, its dependencies and its own files only' \
    "$(grep -nE "^ *(import|export) .*from |import\(" js/src/*.ts |
        grep -vE "['\"](node:[a-z_/]+|\./[^'\"]*|\.\./addon\.cjs|$may_import)['\"]")"

# core is a step function: no clock, no I/O, no threads, no randomness of its own
complain 'core calls no clock, I/O, thread or random function' \
    "$(nm -A -u build/obj/core/*.o | grep -E ' U (clock|clock_gettime|time|gettimeofday|nanosleep|fopen|fwrite|printf|puts|open|read|write|send|recv|socket|getenv|rand|random|getrandom|pthread_[a-z_]+|uv_[a-z_]+)$')"

# --- the other compiler, same warnings (gcc's build of everything is `make build c-tests`)
must 'warnings of gcc' make -s c-tests
if command -v clang >/dev/null; then
    must 'warnings of clang' make -s CC=clang B=build/clang native ctl c-tests
else
    complain 'warnings of clang' 'clang is not installed (make setup installs it)'
fi

# --- types
must 'types of js/src' node_modules/.bin/tsc --noEmit
must 'types of js/src as CommonJS' node_modules/.bin/tsc -p tsconfig.cjs.json --noEmit

packed=$(mktemp -d)
must 'npm pack' npm pack --silent --ignore-scripts --pack-destination "$packed"
must "the package's types (arethetypeswrong)" test/types/node_modules/.bin/attw --no-emoji --no-definitely-typed "$packed"/*.tgz
rm -r "$packed"

# --- the addon's imported symbols: an older glibc must do, and Node must have the rest
for binary in $(ls build/affinity.node prebuilds/*/affinity.node 2>/dev/null); do must binaries scripts/check-binary.sh "$binary"; done

# --- documentation
must 'samples of README and docs' node scripts/readme-samples.mjs
must 'manual page' mandoc -Tlint -W warning docs/affinityctl.1
must 'generated pages' node scripts/docs/generate.mjs --check

# --- nothing of this machine, no download address, in what is or will be tracked
files=$(git ls-files -co --exclude-standard 2>/dev/null | while read -r file; do [ ! -f "$file" ] || echo "$file"; done)
here=$(dirname "$PWD")
# A checkout in a folder that every machine has (/tmp, /) says nothing.
case "$here" in / | /tmp | /var/tmp | /home | /root | /srv | /opt) here=/nonexistent ;; esac
complain 'paths of this machine' "$(grep -nIF -e "$here/" -e "${HOME:-/nonexistent}/" $files /dev/null | cut -c1-160)"
complain 'download addresses' "$(grep -nIE '"resolved": *"http|https?://(registry|deb|security)[.]' $files /dev/null | cut -c1-160)"

[ $failed = 0 ] && echo 'lint: clean'
exit $failed
