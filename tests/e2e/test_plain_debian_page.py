"""docs/plain-debian.md, followed command by command in a fresh Debian until a VM runs.

The commands are the page's own. What a person does between them is here: waiting, a key, and an
image server, since the small guest stands in for Debian's image.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.deb_package import build_package, repack
from e2e.fresh_debian import FreshDebian
from guests import cache
from guests.fixtures import built

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_nomad, pytest.mark.timeout(1200)]

SUITES = os.environ.get("FRESH_DEBIAN", "trixie").split(",")
"""Debian 13; `FRESH_DEBIAN=bookworm,trixie` tries 12 as well."""

IMAGE = "debian-13-genericcloud-amd64.qcow2"
AGENT = "nomad agent -dev"
JOB_RUN = "nomad job run"
JOB_STOP = "nomad job stop"
_FENCE = re.compile(r"^(?P<indent> *)```\n(?P<body>.*?)^ *```$", re.DOTALL | re.MULTILINE)

# What the page calls "a few seconds", and a guest that boots.
_WAIT = """
until {command} 2>&1 | grep --text {words}; do sleep 1; done
"""
# The newer package is there; the VM runs on, under a new driver.
_UPGRADE = """
plugin() {{ echo /run/qemu-node/plugin/*.lock; }}
vms() {{ qemu-node vm list --json | grep -E '"(pid|state)"'; }}
before=$(vms)
driver=$(plugin)
rm qemu-node_*.deb
mv /newer/*.deb .
{install}
until [ -e "$(plugin)" ] && [ "$(plugin)" != "$driver" ]; do sleep 1; done
until [ "$(vms)" = "$before" ]; do sleep 1; done
until {look}; do sleep 1; done
"""
_SERVE_IMAGE = """
cat >>/etc/qemu-node/node.toml <<'EOF'
allow_networks = ["127.0.0.0/8"]
EOF
python3 -m http.server --bind 127.0.0.1 --directory /images 8000 >/tmp/server.log 2>&1 &
mkdir -p ~/.ssh && echo "ssh-ed25519 AAAA test" >~/.ssh/id_ed25519.pub
"""


def page_commands(title: str) -> list[str]:
    """Return the blocks of commands in a section of the page."""
    page = (cache.REPO / "docs" / "plain-debian.md").read_text()
    section = re.split(r"^## ", page.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]
    blocks = [
        re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        for match in _FENCE.finditer(section)
    ]
    assert blocks, f"no commands below {title}"
    return blocks


def trial_of(blocks: list[str], upgrade: list[str]) -> str:
    """Return the page's commands with what a person does between them, and an upgrade."""
    script = _SERVE_IMAGE
    for block in blocks:
        if block.startswith("ssh "):
            continue  # the small guest has no such server
        if block.startswith(AGENT):
            script += f"{block.rstrip()} >/tmp/agent.log 2>&1 &\n"
            script += _WAIT.format(
                command="nomad node status -self -verbose", words="'vm .*Healthy'"
            )
            continue
        if block.startswith(JOB_STOP):
            logs = "nomad alloc logs -job debian-cloud"
            script += _WAIT.format(command=logs, words="'small guest ready'")
            script += _UPGRADE.format(install=upgrade[0], look=upgrade[1].strip())
        script += block.replace(f"{JOB_RUN} ", f"{JOB_RUN} -var mirror=http://127.0.0.1:8000 ")
    return script


@pytest.fixture(params=SUITES)
def debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshDebian]:
    root = tmp_path / "root"
    try:
        yield built(lambda: FreshDebian.make(request.param, root))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_the_page_leads_from_a_fresh_debian_to_a_vm(
    debian: FreshDebian, small_guest_image: Path
) -> None:
    shutil.copy(os.environ["NOMAD"], debian.root / "usr/local/bin/nomad")
    images = debian.root / "images"
    images.mkdir()
    shutil.copy(small_guest_image, images / IMAGE)
    digest = hashlib.sha512(small_guest_image.read_bytes()).hexdigest()
    (images / "SHA512SUMS").write_text(f"{digest}  {IMAGE}\n")

    package = built(lambda: build_package(debian.suite))
    shutil.copy(package, debian.root / "src")
    installed = debian.run("".join(page_commands("Install")), is_alone=False, timeout_s=600)
    said = installed.stdout.decode(errors="replace")
    assert installed.returncode == 0, said + installed.stderr.decode(errors="replace")[-8000:]
    assert "VMs can run here" in said

    newer = debian.root / "newer"
    newer.mkdir()
    repack(package, newer / "qemu-node_9.0~deb13_amd64.deb", "9.0")
    upgrade = page_commands("Upgrade")
    trial = trial_of(page_commands("Five minutes with `nomad agent -dev`"), upgrade)
    tried = debian.run(trial, is_alone=True, timeout_s=600)
    said = tried.stdout.decode(errors="replace")
    assert tried.returncode == 0, said + tried.stderr.decode(errors="replace")[-8000:]
    assert "small guest ready" in said
    assert re.search(r"debian-cloud\S*\s+running", said), said
    assert IMAGE in said
    assert list((debian.root / "var/lib/qemu-node/vm").glob("[!.]*")) == []
