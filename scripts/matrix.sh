#!/usr/bin/env bash
# The Node tests whose servers are processes of their own, with each version of Hocuspocus in test/servers; then what is
# about versions, with all of them and all of test/providers. VERSIONS and FILES choose.
set -uo pipefail
cd "$(dirname "$0")/.."
NODE=${NODE:-node}

versions=${VERSIONS:-$(cd test/servers/node_modules && ls -d server-* | sed 's/^server-//')}
if [ -n "${FILES:-}" ]; then
    files=$FILES
else
    files=$(ls test/node/{callbacks,events,history,hostile,lifetime,link,load,ownership,proxy,redis,secret,wiring,fault-*}.test.mjs)
fi

failed=()
for version in $versions; do
    echo "=== Hocuspocus $version"
    HOCUSPOCUS_VERSION=$version "$NODE" scripts/test.mjs --faults $files || failed+=("$version")
done
if [ -z "${FILES:-}" ]; then
    echo "=== versions"
    # All versions in one file: more than the limit for a file.
    PATIENCE=3 MATRIX=1 "$NODE" scripts/test.mjs --faults test/node/versions.test.mjs test/node/providers.test.mjs || failed+=(versions)
fi

[ ${#failed[@]} = 0 ] && echo "matrix: all passed" && exit
echo "matrix: failed: ${failed[*]}"
exit 1
