#!/bin/sh
# Installs what the demo and the tests need; says so first, and does nothing that is done already.
#
#   setup.sh            Debian packages (as root or through sudo) and the Python environment
#   setup.sh --python   the Python environment only: .tools/ (uv) and .venv/, no root needed
#   setup.sh --tools    .tools/ only
#
# For Debian 12 and 13, and what is close to them.
set -eu
cd "$(dirname "$0")/.."

uv_version=0.13.9
# Of free space: .tools and .venv together.
venv_mib=450
packages='python3 python3-venv ca-certificates procps
    qemu-system-x86 qemu-utils ovmf
    mmdebstrap debian-archive-keyring busybox-static mtools fdisk e2fsprogs squashfs-tools
    xorriso genisoimage nftables iproute2 curl iperf3 minisign gpgv openssh-client'
# For the tests of the console's page; NO_BROWSER=yes leaves it out.
[ -n "${NO_BROWSER:-}" ] || packages="$packages chromium"

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

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

# apt-get, in a session of its own: Ctrl-C would otherwise end dpkg between two packages, and leave
# the machine's package database broken. Prints what it said only if it failed, and only what matters:
# without network that would be a line for each package.
apt() {
    words=$(mktemp)
    trap 'stopped=yes; say "Ctrl-C: waits for apt to finish, so that no package is half installed"' INT
    # Dpkg::Use-Pty=0: no progress that only a terminal can show.
    $as_root setsid --wait env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >"$words" 2>&1 &
    while :; do
        status=0
        wait $! || status=$?
        # A signal ends the wait, not apt.
        kill -0 $! 2>/dev/null || break
    done
    trap - INT
    if [ "$status" != 0 ]; then
        grep '^E: Failed to fetch' "$words" >"$words.fetch" && head -n 3 "$words.fetch" >&2 ||
            tail -n 15 "$words" >&2
    fi
    rm -f "$words" "$words.fetch"
    [ -z "${stopped:-}" ] || exit 130
    return $status
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
            fail "that needs root; run as root: apt-get install --no-install-recommends $missing"
        fi
        # Asks for the password here, where the terminal is.
        sudo -v || fail "sudo refused; run as root: apt-get install --no-install-recommends $missing"
        as_root=sudo
    fi
    [ -z "$(dpkg --audit)" ] ||
        fail "an earlier installation was interrupted; run: ${as_root:+sudo }dpkg --configure -a"
    # A source that we do not need may be out of reach. Without network apt would try each package
    # several times: for minutes.
    retries=3
    apt -o APT::Update::Error-Mode=any update || {
        say "apt cannot read all package lists, see above; check the network, http_proxy and" \
            "/etc/apt/sources.list*; going on with those that are there"
        retries=0
    }
    # Word splitting is meant: one argument per package. Without recommended packages QEMU comes
    # without its windows and sound.
    apt -o "Acquire::Retries=$retries" install --no-install-recommends $missing ||
        fail "apt could not install the packages, see above; check the network and http_proxy" \
            "($(free_space /var) free in /var)"
}

# Prints the free space of the file system that holds $1.
free_space() { df -h --output=avail "$1" | tail -n 1 | tr -d ' '; }

install_tools() {
    # The certificates that this machine trusts, as apt and pip do; uv brings its own otherwise.
    export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
    uv=.tools/bin/uv
    [ -w . ] || fail "cannot write to $PWD; the Python environment belongs there: clone into a directory of yours"
    kept=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/uv}
    mkdir -p "$kept" 2>/dev/null && [ -w "$kept" ] ||
        fail "cannot write to $kept, where Python packages are kept; set XDG_CACHE_HOME to a directory of yours"
    online="check the network, https_proxy, and SSL_CERT_FILE if your proxy has a CA of its own"
    case $("$uv" --version 2>/dev/null || true) in
        "uv $uv_version"*) ;;
        *)
            say "installing uv $uv_version into .tools"
            rm -rf .tools
            python3 -m venv .tools >/dev/null || fail "python3 cannot make an environment; apt install python3-venv"
            .tools/bin/pip -qq --disable-pip-version-check install "uv==$uv_version" ||
                fail "cannot install uv from the Python index; $online ($(free_space .) free here)"
            ;;
    esac
}

install_python() {
    if [ ! -d .venv ]; then
        free_mib=$(($(df --output=avail -k . | tail -n 1) / 1024))
        [ "$free_mib" -ge "$venv_mib" ] ||
            fail "the Python environment needs $venv_mib MiB in $PWD, and $free_mib MiB are free; make room"
    fi
    install_tools
    [ -d .venv ] || say "installing the Python packages of uv.lock into .venv"
    # With bytecode, as pip installs a package. Where Python may not write it
    # (PYTHONDONTWRITEBYTECODE), each start of the driver would compile every module anew.
    "$uv" sync --quiet --locked --compile-bytecode ||
        fail "cannot install the Python packages; $online ($(free_space .) free here)"
    .venv/bin/python -m compileall -q src
    .venv/bin/python tools/webmodules.py && .venv/bin/python tools/webmodules.py --tests ||
        fail "cannot fetch the modules of the console's page, see above"
}

# promtool alone, for the tests of the alert rules: the package prometheus would start a server.
install_promtool() {
    [ ! -x .tools/promtool ] && command -v apt-get >/dev/null && ! command -v promtool >/dev/null || return 0
    say "fetching promtool (of Debian's package prometheus, 20 MB) into .tools"
    unpacked=$(mktemp -d)
    if (cd "$unpacked" && apt-get -qq -o APT::Sandbox::User=root download prometheus) >&2 &&
        dpkg-deb --fsys-tarfile "$unpacked"/*.deb | tar -xO ./usr/bin/promtool >"$unpacked/promtool"; then
        chmod 0755 "$unpacked/promtool"
        mv "$unpacked/promtool" .tools/promtool
    else
        say "there is no promtool: the tests of the alert rules are skipped (apt-get update, then again)"
    fi
    rm -rf "$unpacked"
}

case ${1:-} in
    '') install_packages; install_python; install_promtool ;;
    --python) install_python ;;
    --tools) install_tools ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
