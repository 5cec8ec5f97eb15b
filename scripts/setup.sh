#!/bin/sh
# Installs what the demo and the tests need; says so first, and does nothing that is done already.
#
#   setup.sh            Debian packages (as root or through sudo) and the Python environment
#   setup.sh --python   the Python environment only: .tools/ (uv) and .venv/, no root needed
#
# For Debian 12 and 13, and what is close to them.
set -eu
cd "$(dirname "$0")/.."

uv_version=0.13.9
packages='python3 python3-venv ca-certificates procps
    qemu-system-x86 qemu-utils ovmf
    mmdebstrap debian-archive-keyring busybox-static mtools fdisk e2fsprogs squashfs-tools
    xorriso genisoimage nftables iproute2 curl iperf3'

say() { echo "setup: $*" >&2; }

# Prints which of $packages are not installed.
missing_packages() {
    for package in $packages; do
        status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
        [ "$status" = 'install ok installed' ] || printf '%s ' "$package"
    done
    # The keyring of an early Debian 12 does not know Debian 13's keys.
    [ -e /usr/share/keyrings/debian-archive-trixie-automatic.gpg ] ||
        [ -e /usr/share/keyrings/debian-archive-trixie-automatic.pgp ] ||
        printf 'debian-archive-keyring '
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        say "this is no Debian; please install what matches: $(echo $packages)"
        return
    fi
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    say "installing Debian packages: $missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "that needs root; run as root: apt-get install --no-install-recommends $missing"
            exit 1
        fi
        as_root=sudo
    fi
    $as_root apt-get -qq update
    # Word splitting is meant: one argument per package. Without recommended packages QEMU comes
    # without its windows and sound.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install \
        --no-install-recommends $missing >&2
}

install_python() {
    # The certificates that this machine trusts, as apt and pip do; uv brings its own otherwise.
    export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
    uv=.tools/bin/uv
    case $("$uv" --version 2>/dev/null || true) in
        "uv $uv_version"*) ;;
        *)
            say "installing uv $uv_version into .tools"
            rm -rf .tools
            python3 -m venv .tools
            .tools/bin/pip --quiet --disable-pip-version-check install "uv==$uv_version"
            ;;
    esac
    [ -d .venv ] || say "installing the Python packages of uv.lock into .venv"
    "$uv" sync --quiet --locked
}

case ${1:-} in
    '') install_packages; install_python ;;
    --python) install_python ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
