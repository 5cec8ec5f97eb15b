#!/bin/sh
# Boots the VMs of examples/debian.nomad.hcl from a Debian 13 image built here, and shows them.
#
#   demo.sh [--once] [OPTION...]     --once: stop by itself when every VM is ready
#
# Further options go to `qemu-node run`, for example --logs. Without root, sudo builds the image.
set -eu
cd "$(dirname "$0")/.."

if [ "${1:-}" = --once ]; then
    shift
    set -- --exit-when-ready --ready-timeout 15m "$@"
else
    interactive=yes
fi

image=$(examples/guest-image/build --cached 2>/dev/null) || {
    if [ "$(id -u)" = 0 ]; then
        image=$(examples/guest-image/build)
    else
        echo "demo: sudo builds the guest image, because installing packages into it needs root" >&2
        image=$(sudo env ${XDG_CACHE_HOME:+"XDG_CACHE_HOME=$XDG_CACHE_HOME"} \
            ${MIRROR:+"MIRROR=$MIRROR"} examples/guest-image/build)
    fi
}
echo "demo: starting two Debian 13 VMs under UEFI Secure Boot; without KVM they boot for minutes"
if [ -n "${interactive:-}" ]; then
    cat <<'HELP'
demo: meanwhile, in another terminal in this directory:
    .venv/bin/qemu-node vm list
    .venv/bin/qemu-node vm console VM          # its serial console
    .venv/bin/qemu-node vm exec VM -- uname -a # a command in the guest
    Ctrl-C here stops both VMs cleanly.
demo: the last line will be a link to the web console with both VMs; it lets one browser in.
HELP
fi

# The job names its image by path; the node's settings say that it may.
config=$(mktemp)
trap 'rm -f "$config"' EXIT
cat >"$config" <<TOML
[images]
image_paths = ["$(dirname "$image")"]
TOML
# Ctrl-C is for the VMs: this shell waits until they have stopped.
trap : INT
.venv/bin/qemu-node --config "$config" run examples/debian.nomad.hcl -var "image=$image" "$@"
