"""The Debian package: its bytes, and its life on a fresh Debian while a VM runs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.deb_package import build_package
from e2e.fresh_debian import FreshDebian
from guests import cache
from guests.fixtures import built

from qemu_node.host.process.command import run_blocking
from qemu_node.version import VERSION

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(1800)]

SUITES = os.environ.get("FRESH_DEBIAN", "trixie").split(",")

_INSTALL = """
apt-get -qq update
apt-get -qq install --no-install-recommends ./qemu-node.deb
getent passwd qemu-node
getent group qemu-node
test "$(qemu-node --version)" = "qemu-node, version $VERSION"
zcat -f /usr/share/man/man1/qemu-node-vm-stop.1* | grep 'SH OPTIONS'
test -s /usr/share/bash-completion/completions/qemu-node
systemctl is-enabled qemu-node-vms.service
# Prometheus reads the rules where they are.
test -s /usr/share/doc/qemu-node/alerts/qemu-node.yml
test -s /usr/share/doc/qemu-node/dashboards/qemu-node.json
test -s /usr/share/doc/qemu-node/examples/prometheus.yml
/usr/lib/qemu-node/venv/bin/python3 -c 'import prometheus_client'
"""

_READ_ONLY = """
lib=/usr/lib/qemu-node
mount --bind -o ro $lib $lib
/usr/lib/nomad/plugins/vm 2>&1 | grep 'plugin of Nomad'
umount $lib
"""

_RUN_A_VM = """
vm_pid() {
    qemu-node vm list --json | python3 -c '
import json, sys
print(*(vm["pid"] for vm in json.load(sys.stdin) if vm["state"] == "running"))'
}
mkdir /images
truncate -s 1M /images/empty.raw
cat >>/etc/qemu-node/node.toml <<'EOF'
[qemu]
accelerator = "tcg"
[images]
image_paths = ["/images"]
EOF
qemu-node config check
examples=/usr/share/doc/qemu-node/examples
qemu-node run $examples/minimal.nomad.hcl -var image=/images/empty.raw >/tmp/run.log 2>&1 &
run=$!
until [ -n "$(vm_pid)" ]; do kill -0 $run || { cat /tmp/run.log; exit 1; }; sleep 1; done
before=$(vm_pid)
"""

_UPGRADE = """
dpkg-deb --raw-extract qemu-node.deb /tmp/new
sed -i 's/^Version: .*/Version: 9.0/' /tmp/new/DEBIAN/control
dpkg-deb --root-owner-group -Znone --build /tmp/new new.deb
apt-get -qq install --no-install-recommends ./new.deb
test "$(dpkg-query -W -f '${Version}' qemu-node)" = 9.0
test "$(vm_pid)" = "$before"
kill -0 $run
grep accelerator /etc/qemu-node/node.toml
"""

_REMOVAL_REFUSED = """
if apt-get -qq remove qemu-node >/tmp/refused 2>&1; then exit 1; fi
cat /tmp/refused
test "$(vm_pid)" = "$before"
kill -INT $run
wait $run || test $? = 130
test -z "$(vm_pid)"
if [ -d /proc/$before ]; then exit 1; fi
"""

_REMOVAL = """
apt-get -qq remove qemu-node
test ! -e /usr/bin/qemu-node
test ! -e /usr/lib/qemu-node
test -e /etc/qemu-node/node.toml
test -d /var/lib/qemu-node
apt-get -qq purge qemu-node
{
    find / -xdev \\( -path /src -o -path /root -o -path /var/cache/apt \\) -prune -o \\
        -name '*qemu-node*' -print
    # What the kernel's locks were on; it goes with the boot.
    find /run -name '*qemu-node*' ! -name qemu-node-users ! -name 'qemu-node-network-*'
} >/tmp/left
if [ -s /tmp/left ]; then cat /tmp/left; exit 1; fi
"""


@pytest.fixture(params=SUITES)
def debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshDebian]:
    root = tmp_path / "root"
    try:
        made = built(lambda: FreshDebian.make(request.param, root))
        shutil.copy(built(lambda: build_package(request.param)), root / "src/qemu-node.deb")
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_vm_lives_through_an_upgrade_and_prevents_a_removal_and_a_purge_leaves_nothing(
    debian: FreshDebian,
) -> None:
    steps = (_INSTALL, _READ_ONLY, _RUN_A_VM, _UPGRADE, _REMOVAL_REFUSED, _REMOVAL)
    script = f"unset TMPDIR; VERSION={VERSION}\n{''.join(steps)}"
    done = debian.run(script, is_alone=False, timeout_s=900)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said + done.stderr.decode(errors="replace")[-8000:]
    assert "VMs are running: vm-" in said
    assert "vm stop --all" in said


def test_lintian_finds_no_error() -> None:
    package = built(lambda: build_package("trixie", "--lint"))
    assert package.name == f"qemu-node_{VERSION}~deb13_amd64.deb"


def test_another_checkout_gives_the_same_bytes(tmp_path: Path) -> None:
    package = built(lambda: build_package("trixie")).read_bytes()
    other = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "out", "tests")
    shutil.copytree(cache.REPO, other, ignore=unwanted, symlinks=True)
    (other / ".tools").symlink_to(cache.REPO / ".tools")
    # As git checks out on another day, for a user whose files nobody else may read.
    run_blocking(["chmod", "-R", "go=", str(other)])
    run_blocking(["find", str(other), "-exec", "touch", "-hd", "2020-02-02", "{}", "+"])
    again = build_package("trixie", "--again", checkout=other, umask="077")
    assert again.read_bytes() == package


def test_the_package_is_of_the_version_of_the_software() -> None:
    first, _, _ = (cache.REPO / "debian/changelog").read_text().partition("\n")
    assert first.startswith(f"qemu-node ({VERSION})")
