#!/bin/sh
# Runs the tests in a Debian 13 chroot: its Python, its QEMU, and only what setup.sh installs there.
#
#   debian13.sh [--fresh] [PYTEST-OPTION...]     --fresh: make the chroot anew
#
# The chroot is kept in the cache directory; the sources are copied into it: nothing here changes.
# The guests that the tests boot come from the cache of this machine. Needs root and mmdebstrap.
set -eu
cd "$(dirname "$0")/.."
repo=$PWD
cache=${XDG_CACHE_HOME:+$XDG_CACHE_HOME/qemu-node}
cache=${cache:-$repo/.cache}

if [ "$(id -u)" != 0 ]; then
    echo "debian13: a chroot needs root; run: sudo make test-debian13" >&2
    exit 1
fi
mkdir -p "$cache"
# Namespaces of our own: what is mounted and started below ends with this script.
if [ -z "${IN_NAMESPACE:-}" ]; then
    exec env IN_NAMESPACE=yes unshare --mount --pid --fork --kill-child "$0" "$@"
fi
exec 9>"$cache/debian13.lock"
flock 9

# setup.sh installs the rest, as it does on a fresh machine.
inputs=$(cat "$0" scripts/setup.sh scripts/debian-sources.sh | sha256sum | cut -c1-12)
root=$cache/debian13-$inputs
if [ "${1:-}" = --fresh ]; then
    shift
    rm -rf "$root"
fi
if [ ! -d "$root" ]; then
    echo "debian13: making a Debian 13 chroot" >&2
    rm -rf "$cache"/debian13-*
    scripts/debian-sources.sh trixie |
        mmdebstrap --quiet --mode=root --variant=minbase --include=make,ca-certificates,mount \
            --skip=cleanup/apt/lists trixie "$root.new" -
    mv "$root.new" "$root"
fi

mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs -o size=50% tmp "$root/tmp"
# As the host reaches Debian's mirror and the package index: names, and whom it trusts.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"

# Everything but what belongs to this machine's own environment; that of the chroot stays.
mkdir -p "$root/src/.cache"
find "$root/src" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .tools ! -name .cache \
    -exec rm -rf {} +
tar -c --exclude=./.git --exclude=./.venv --exclude=./.tools --exclude=./.cache --exclude=./out \
    --exclude='./.*_cache' --exclude=__pycache__ . | tar -x --no-same-owner -C "$root/src"
mount --bind "$cache" "$root/src/.cache"
if [ -n "${NOMAD:-}" ]; then
    install -m 0755 "$NOMAD" "$root/usr/local/bin/nomad"
    export NOMAD=/usr/local/bin/nomad
fi

# The Debian VM is the same one that the host's run has started: it is not started a second time.
# The page in a browser is the same on every Debian: those tests and the browser are left out.
# So are those that make a fresh Debian of their own, in which they run.
export NO_BROWSER=yes
unset XDG_CACHE_HOME XDG_RUNTIME_DIR XDG_DATA_HOME TMPDIR
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
exec chroot "$root" make --no-print-directory -C /src setup unit guests \
    SYSTEM_TESTS='tests/e2e tests/integration tests/network' \
    ARGS="--ignore=tests/e2e/test_in_debian_vm.py --ignore=tests/e2e/test_plain_debian_page.py --ignore=tests/e2e/test_deb_package.py --ignore=tests/e2e/test_web_unit.py $*"
