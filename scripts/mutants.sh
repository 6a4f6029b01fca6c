#!/usr/bin/env bash
# Builds the engine with each mutation of core/mutate.h, and looks for the first seed of the simulator that
# notices: scripts/mutants.sh [seeds [number...]]. Prints the table of docs/MUTANTS.md; fails where one lives.
set -uo pipefail
cd "$(dirname "$0")/.."
max=${1:-10000}
shift || true
numbers=${*:-$(sed -nE 's/^ \* +([0-9]+)  .*/\1/p' core/mutate.h)}
folder=${B:-build}/mutants
mkdir -p "$folder"
survivors=0
echo '| | what is broken | first seed | what it broke |'
echo '|---|---|---|---|'
for n in $numbers; do
    what=$(sed -nE "s/^ \* +$n  (.*)/\1/p" core/mutate.h)
    ${CC:-cc} -std=c11 -O2 -w -D_GNU_SOURCE -DAFF_CHECK -DAFF_MUTANT="$n" -Icore -Isim -o "$folder/$n" core/*.c sim/*.c || exit 2
    if seed=$("$folder/$n" first "$max"); then
        told=$("$folder/$n" seed "$seed" 2>&1 >/dev/null | grep -oE 'I[0-9]+: [^,]*|invariant broken: .*' | tail -1)
        case $told in invariant*) told="\`aff_check\`: \`$(sed -E 's/invariant broken: (.*) \(.*/\1/' <<<"$told")\`" ;; *) told=${told%%:*} ;; esac
        echo "| $n | $what | $seed | $told |"
    else
        echo "| $n | $what | lives after $max | |"
        survivors=$((survivors + 1))
    fi
done
[ "$survivors" = 0 ]
