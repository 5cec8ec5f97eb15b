#!/bin/sh
# Builds the Debian package, unless it is built already, and prints its path.
#
#   deb.sh [--again] [--lint] [--output DIR]    --again: build it although it is there
#                                               --lint: fail if lintian finds an error in it
#                                               --output: copy it there, and print that path
#
# DEBIAN  the Debian that it is for: 13 (default) or 12. The Python of that Debian runs it.
#
# The package is kept in the cache directory, under the hash of all that it is made from. It is built
# in a chroot of that Debian without network, by root or in a user namespace. The wheels of uv.lock
# are downloaded before, once, and pip checks their hashes when it installs them.
set -eu
cd "$(dirname "$0")/.."
repo=$PWD
cache=${XDG_CACHE_HOME:+$XDG_CACHE_HOME/qemu-node}
cache=${cache:-$repo/.cache}

say() { echo "deb: $*" >&2; }
fail() { say "$*"; exit 1; }

again= lint= output=
while [ $# -gt 0 ]; do
    case $1 in
        --again) again=yes ;;
        --lint) lint=yes ;;
        --output) [ $# -ge 2 ] || fail "--output needs a directory"; output=$2; shift ;;
        *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    esac
    shift
done
case ${DEBIAN:=13} in
    12) suite=bookworm python=3.11 ;;
    13) suite=trixie python=3.13 ;;
    *) fail "DEBIAN=$DEBIAN: packages are for Debian 12 and 13; set DEBIAN=12 or DEBIAN=13" ;;
esac

# What the package is made from. This script is one of them: it says in which chroot it is built.
sources() {
    find LICENSE README.md CHANGELOG.md uv.lock pyproject.toml debian docs examples alerts dashboards src/qemu_node \
        package-lock.json tools/webmodules.py scripts/deb.sh scripts/debian-sources.sh tools/manpages.py \
        -name __pycache__ -prune -o -type f -print | LC_ALL=C sort
}

# Prints the hash of the sources in the current directory.
key_of_sources() { sources | tr '\n' '\0' | xargs -0 sha256sum | sha256sum | cut -c1-16; }

# They belong to the sources that the key below names.
python3 tools/webmodules.py || fail "cannot fetch the modules of the console's page, see above"

mkdir -p "$cache/deb" && [ -w "$cache/deb" ] ||
    fail "cannot write to $cache/deb; set XDG_CACHE_HOME to a directory of yours"
key=$(key_of_sources)
kept=$cache/deb/$suite-$key

# Prints the path of the built package, if there is one.
built() {
    for package in "$kept"/*.deb; do [ ! -f "$package" ] || echo "$package"; done
}

# Whether nothing is left to do.
is_done() { [ -z "$again" ] && [ -n "$(built)" ] && { [ -z "$lint" ] || [ -e "$kept/linted" ]; }; }

deliver() {
    package=$(built)
    if [ -n "$output" ]; then
        mkdir -p "$output"
        # Another process may do the same at the same time.
        fresh=$(mktemp "$output/.new.XXXXXX")
        cp "$package" "$fresh" && chmod 0644 "$fresh" && mv "$fresh" "$output/${package##*/}" ||
            { rm -f "$fresh"; fail "cannot write the package to $output"; }
        package=$output/${package##*/}
    fi
    echo "$package"
    exit
}

if is_done; then deliver; fi
exec 9>"$cache/deb/lock"
flock --nonblock 9 || { say "waiting for another build"; flock 9; }
# Another process may have built it meanwhile.
if is_done; then deliver; fi

# What an interrupted build has left.
work=$cache/deb/work
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# The chroot: the Debian that the package is for, with the tools that build and check it.
tools='debhelper dpkg-dev python3 python3-pip lintian'
tools_key=$({ echo "$tools"; scripts/debian-sources.sh "$suite"; } | sha256sum | cut -c1-12)
chroot=$cache/deb/chroot-$suite-$tools_key.tar
if [ ! -f "$chroot" ]; then
    say "making a chroot of Debian $DEBIAN with the tools that build packages"
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed; run: make setup"
    rm -f "$cache/deb/chroot-$suite-"*
    mode=root
    [ "$(id -u)" = 0 ] || mode=unshare
    scripts/debian-sources.sh "$suite" |
        mmdebstrap --quiet --mode=$mode --variant=minbase --format=tar \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --include="$(echo $tools | tr ' ' ,)" "$suite" "$chroot.new" - >&2 ||
        fail "mmdebstrap failed, see above; check the network, and as a user: apt install uidmap"
    mv "$chroot.new" "$chroot"
fi

root=$work/root
mkdir "$root"
# Without the device nodes, which only root may make: those of this machine are mounted.
tar -xf "$chroot" -C "$root" --no-same-owner --exclude='./dev/*'
mkdir "$root/build"

# Runs shell text in the chroot, in /build, without network.
in_chroot() {
    as_root=
    [ "$(id -u)" = 0 ] || as_root=--map-root-user
    unshare $as_root --mount --pid --net --fork --kill-child env -i sh -euc '
        mount --make-rprivate /
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        export HOME=/build PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC
        umask 022
        exec chroot "$1" sh -euc "cd /build; $2"' enter "$root" "$1" >&2
}

build() {
    # The wheels, with the package index that this machine's pip uses.
    scripts/setup.sh --tools >&2
    requirements=$work/requirements.txt
    .tools/bin/uv export --quiet --locked --no-dev --no-emit-project --format requirements-txt \
        --no-header --no-annotate >"$requirements" || fail "uv cannot read uv.lock, see above"
    wheels=$cache/deb/wheels-$suite-$(sha256sum "$requirements" | cut -c1-12)
    if [ ! -d "$wheels" ]; then
        say "downloading the Python packages of uv.lock"
        # Every name of "runs with this Debian's libc"; pip does not derive the older ones.
        platforms=
        for tag in manylinux_2_36 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 \
            manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 \
            manylinux_2_5 manylinux1; do
            platforms="$platforms --platform ${tag}_x86_64"
        done
        mkdir "$work/wheels"
        .tools/bin/pip --quiet --disable-pip-version-check download --require-hashes --no-deps \
            --only-binary :all: --python-version "$python" $platforms \
            --dest "$work/wheels" --requirement "$requirements" >&2 ||
            fail "cannot download the Python packages; check the network and https_proxy"
        rm -rf "$cache/deb/wheels-$suite-"*
        mv "$work/wheels" "$wheels"
    fi

    say "building the package for Debian $DEBIAN"
    source=$root/build/qemu-node
    mkdir "$source"
    sources | tar -cT - | tar -x --no-same-owner -C "$source"
    # It would be kept, and given to everybody who asks for the sources as they were.
    [ "$(cd "$source" && key_of_sources)" = "$key" ] ||
        fail "files have changed since this build began; run it again"
    cp -r "$wheels" "$source/debian/wheels"
    cp "$requirements" "$source/debian/requirements.txt"
    # One version for each Debian: an upgrade of the node's Debian brings the newer one's package.
    sed -i "1s/(\(.*\))/(\1~deb$DEBIAN)/" "$source/debian/changelog"
    # As git has them: the umask of whoever checked this out must not reach the package.
    find "$source" -type f -exec chmod u=rwX,go=rX {} +
    # No check of build dependencies: nothing is compiled, so there is no compiler.
    in_chroot 'cd qemu-node
        dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >../log 2>&1 ||
            { cat ../log; exit 1; }' || fail "the package could not be built, see above"
    mkdir "$work/kept"
    mv "$root"/build/*.deb "$work/kept/"
    [ ! -e "$kept" ] || mv "$kept" "$work/old"
    mv "$work/kept" "$kept"
    # The five newest are enough.
    ls -dt "$cache/deb/$suite-"* | tail -n +6 | while read -r old; do rm -rf "$old"; done
}

[ -z "$again" ] && [ -n "$(built)" ] || build
if [ -n "$lint" ] && [ ! -e "$kept/linted" ]; then
    cp "$(built)" "$root/build/"
    in_chroot 'lintian --allow-root --fail-on error --tag-display-limit 0 *.deb' ||
        fail "lintian found errors in $(built), see above"
    touch "$kept/linted"
fi
deliver
