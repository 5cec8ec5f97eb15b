#!/bin/sh
# Prints apt source lines for a Debian suite, from the mirrors that this machine's apt uses.
#
#   debian-sources.sh [SUITE]        SUITE: trixie by default
#
# Environment: MIRROR names another mirror; then only its main archive is used, without updates.
set -eu

suite=${1:-trixie}
options='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'

# Prints the first repository that apt knows under a label ("Debian", "Debian-Security").
configured() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$1|//p" | head -n 1
}

if [ -n "${MIRROR:-}" ]; then
    echo "deb $options $MIRROR $suite main"
    exit
fi
main=$(configured Debian)
security=$(configured Debian-Security)
main=${main:-http://deb.debian.org/debian}
echo "deb $options $main $suite main"
echo "deb $options $main $suite-updates main"
if [ -n "$security" ]; then
    echo "deb $options $security $suite-security main"
fi
