#!/usr/bin/env bash
# scripts/check-binary.sh <addon> [<musl's libc.so>]: what an addon asks of the machine that loads it. glibc 2.31 must do (Debian
# 11, Ubuntu 20.04), or musl, where the file lies in a folder with that name; and Node must have all the rest.
set -uo pipefail
file=$1 libc=${2:-}
newest=2.31
failed=0
complain() { # complain <what> <names>
    [ -n "$2" ] || return 0
    printf '%s: %s:\n%s\n' "$file" "$1" "$2" >&2
    failed=1
}
symbols() { # symbols <file> <awk condition>: names as `name`, `name@VERSION`
    readelf --dyn-syms -W "$1" | awk '$1 ~ /^[0-9]+:$/ && $4 != "SECTION" && $8 != "" && ('"$2"') { print $8 }' | sed 's/@@/@/' | sort -u
}

imports=$(symbols "$file" '$7 == "UND"')
[ -n "$imports" ] || complain 'has no imported symbols' 'readelf says nothing of them'
node='^(napi_|node_api_|uv_|SSL_|SSL_CTX_|BIO_|ERR_|PEM_|X509_|OPENSSL_|TLS_|EVP_|OSSL_|RAND_|CRYPTO_|_ITM_|__gmon_start__|__cxa_finalize)'
others=$(grep -vE "$node" <<<"$imports")
case $file in
*-musl/*)
    complain 'symbols of glibc' "$(grep '@GLIBC_' <<<"$imports")"
    if [ -n "$libc" ]; then
        complain 'imported symbols of neither musl, Node-API, libuv nor OpenSSL' \
            "$(comm -23 <(sort <<<"$others") <(symbols "$libc" '$7 != "UND"'))"
    fi
    ;;
*)
    complain "symbols newer than glibc $newest" "$(grep -oE '^.+@GLIBC_[0-9.]+' <<<"$imports" | while IFS=@ read -r name version; do
        [ "$(printf '%s\n' "${version#GLIBC_}" "$newest" | sort -V | tail -1)" = "$newest" ] || echo "$name@$version"
    done)"
    complain 'imported symbols of neither libc, Node-API, libuv nor OpenSSL' "$(grep -v '@GLIBC_' <<<"$others")"
    ;;
esac
complain 'exported symbols other than those that Node calls' \
    "$(symbols "$file" '$7 != "UND"' | grep -vE '^(napi_register_module_v1|node_api_module_get_api_version_v1)$')"
complain 'libraries other than libc' \
    "$(readelf -d -W "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libc\.so(\.6)?|libpthread\.so\.0|ld-linux-.*)$')"
exit $failed
