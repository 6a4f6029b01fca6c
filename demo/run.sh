#!/bin/sh
# Starts the demo; `make demo` calls this after the package is built. PORT=8090 chooses another port.
set -eu
PATH="$PATH:/usr/sbin"

for program in node npm redis-server haproxy setpriv; do
  if ! command -v "$program" >/dev/null; then
    echo "demo: $program is missing (on Debian: apt-get install nodejs npm redis-server haproxy util-linux)" >&2
    exit 1
  fi
done

exec node "$(dirname "$0")/demo.mjs"
