"""Good upgrades of a node at work, by one command, and those that are refused before they begin."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from scenario.datanode import configured, wait_until_healthy
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.ocilayout import Layout
from scenario.upgrading import SNAPSHOTS, STATE, UPGRADE_TIMEOUT_S, Upgradable, Upgrades

from osimage.build.artefact.manifest import render, with_names
from qemu_node.host.process.command import run_blocking
from qemu_node.nodeos.upgrade.manifest import MEDIA_TYPE, SIGNATURE_TYPE

pytestmark = [
    pytest.mark.timeout(6000),
    pytest.mark.skipif(shutil.which("minisign") is None, reason="apt install minisign"),
]


@pytest.fixture(scope="module")
def installation(installation: Installation, small_guest_image: Path) -> Installation:
    """A node with a data disk, on which Nomad runs."""
    return configured(installation, small_guest_image)


@pytest.fixture(scope="module", autouse=True)
def nomad_runs(upgrades: Upgrades) -> None:
    upgrades.prepare = wait_until_healthy


def _sign(manifest: str, directory: Path) -> tuple[bytes, Path]:
    """Return the signature of `manifest`, and the public key."""
    content, signature = directory / "manifest", directory / "signature"
    content.write_text(manifest)
    secret, public = directory / "release.key", directory / "release.pub"
    run_blocking(["minisign", "-G", "-W", "-p", str(public), "-s", str(secret)])
    argv = ["minisign", "-S", "-s", str(secret), "-m", str(content), "-x", str(signature)]
    run_blocking(argv)
    return signature.read_bytes(), public


def _manifest_of(layout: Layout, tag: str, *more_tags: str) -> str:
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    document = render(layout.directory, tag=tag, epoch=now, unpacked_bytes=1 << 30)
    return with_names(document.encode(), more_tags, tag).decode()


def test_upgrade_needs_no_argument_and_keeps_identity_settings_and_data(
    node: Upgradable, tmp_path: Path
) -> None:
    remote, old = node.remote, node.tag
    image = node.derive("good")
    node.registry.push(image, "good", "stable")
    manifest = _manifest_of(image, "good", "stable")
    signature, key = _sign(manifest, tmp_path)
    node.registry.push_artifact(
        "stable.manifest", {MEDIA_TYPE: manifest.encode(), SIGNATURE_TYPE: signature}
    )
    remote.put(key, "/data/config/release.pub")
    host = node.registry.repository.partition("/")[0]
    settings = (
        f'\\n[[images.credentials]]\\nhost = "{host}"\\nplain_http = true\\n'
        f'[os]\\nsource = "{node.registry.repository}:stable"\\n'
        'key = "/data/config/release.pub"\\n'
    )
    remote.run(f"printf '{settings}' >>/data/config/node.toml; echo kept >/data/kept")
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /data/nomad/client/client-id"
    before = remote.run(identity)

    assert "good can be installed" in remote.run("elemental upgrade --check")
    remote.run("systemd-run -q -u test-upgrade /usr/local/sbin/elemental upgrade --reboot")
    node.wait_for_another_boot(UPGRADE_TIMEOUT_S)
    node.wait_until_settled()

    assert (node.tag, node.mode) == ("good", "active_mode")
    assert remote.run(identity) == before
    assert remote.run("cat /data/kept") == "kept\n"
    assert remote.run("systemctl --failed --no-legend --plain") == ""
    assert list(node.fall_back_targets().values()) == [old]
    history = remote.run("qemu-node os history --json")
    assert [entry["event"] for entry in json.loads(history)][-1] == "confirmed"
    said = remote.run("journalctl -b -1 -u test-upgrade -o cat --no-pager")
    assert "no other node can take the VMs" in said
    assert "runs already" in remote.run("elemental upgrade")


def test_power_cuts_of_a_confirmed_system_do_not_fall_back(node: Upgradable) -> None:
    tag = node.tag
    for _ in range(3):
        node.machine.power_cut()
        node.machine.power_on()
        node.machine.console.expect(r"Command line: ", timeout_s=BOOT_TIMEOUT_S)
    node.power_cycle()
    assert (node.tag, node.mode) == (tag, "active_mode")
    wait_until_healthy(node.remote)


@pytest.mark.parametrize("program", ["elemental", "/usr/bin/elemental"], ids=["ours", "elemental"])
def test_full_state_partition_refuses_an_upgrade_and_changes_nothing(
    node: Upgradable, program: str, request: pytest.FixtureRequest
) -> None:
    reference = node.publish(f"large-{request.node.callspec.id}")
    node.remote.run(
        f"mount -o remount,rw {STATE}; "
        f"fallocate -l $(( $(stat -f -c %a {STATE}) * $(stat -f -c %S {STATE}) - 1500000000 )) "
        f"{STATE}/filler"
    )
    look = f"readlink {SNAPSHOTS}/active; ls {SNAPSHOTS}; cat /oem/grubenv"
    before = node.remote.run(look)
    try:
        said = node.remote.run(
            f"{program} upgrade --system {reference} 2>&1; echo status $?",
            timeout_s=UPGRADE_TIMEOUT_S,
        )
        assert "free, " in said
        assert "status 0" not in said
        assert node.remote.run(look) == before
    finally:
        node.remote.run(f"rm {STATE}/filler")
