#!/bin/sh
# Installs the programs that the tests start, where it can: on Debian and its
# kin, as root. Elsewhere the tests themselves say which program is missing.
# "deps.sh short" leaves out the programs of tests that go test -short leaves
# out; internal/testutil knows these packages by name too.
set -eu

missing=""
need() { # program, Debian package
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need git git
need redis-server redis-server
need docker-registry docker-registry
need skopeo skopeo
need curl curl
need rsync rsync
need nginx nginx-light
need htpasswd apache2-utils
if [ "${1:-all}" != short ]; then
	need gcc "gcc libc6-dev" # for the race detector
	need dockerd docker.io
	need docker docker.io
	need docker-compose docker-compose
	need containerd containerd
	need podman podman
	need buildah buildah
	need runc runc
	need promtool prometheus
	need rpm rpm
	need systemd-analyze systemd
	need redis-cli redis-tools
	need chromium chromium
	[ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || missing="$missing fonts-dejavu-core" # for the browser
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "not installed:$missing (as root on Debian, make deps installs them)" >&2
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The services are for the tests to start, on ports of their own. A policy that
# the machine has already stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
# Another process, such as unattended-upgrades, may hold the lock for a while.
apt="apt-get -o DPkg::Lock::Timeout=300"
$apt update -q || echo "could not refresh the lists of packages" >&2
# shellcheck disable=SC2086 # one package a word
if ! $apt install -y -q --no-install-recommends $missing; then
	echo "could not install:$missing" >&2
fi
