"""Upgrades of an installed node: good ones, bad ones, and what a power cut leaves."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenario.conftest import Built
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import Machine
from scenario.ocilayout import Layout, LayoutRegistry
from scenario.remote import Remote

from qemu_node.host.process.command import ProcessError

pytestmark = pytest.mark.timeout(4000)

UPGRADE_TIMEOUT_S = 1800
FALL_BACK_TIMEOUT_S = 3000

_STATE = "/run/initramfs/elemental-state"
_CHECK = "usr/libexec/elemental-checker/60-test"
_FAILS = '#!/bin/sh\n[ "$1" = check ] || exit 0\nexit 1\n'
_HANGS = '#!/bin/sh\n[ "$1" = check ] || exit 0\ntrap "" TERM\nwhile :; do sleep 60; done\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgradable:
    """A running node and the registry of its upgrades."""

    machine: Machine
    remote: Remote
    registry: LayoutRegistry
    base: Layout
    work: Path

    def publish(self, tag: str, files: Mapping[str, tuple[int, str]] | None = None) -> str:
        """Push a variant of the image under test with another tag; return its reference."""
        release = self.remote.run("cat /usr/lib/os-release")
        text = re.sub(r"(?m)^IMAGE_TAG=.*$", f"IMAGE_TAG={tag}", release)
        variant = self.base.derive(
            self.work / tag, {"usr/lib/os-release": (0o644, text)} | dict(files or {})
        )
        return f"oci:{self.registry.repository}@{self.registry.push(variant, tag)}"

    def upgrade(self, reference: str, *options: str) -> str:
        """Upgrade, and return what the command said; the machine is not restarted."""
        command = " ".join(["elemental upgrade --system", reference, *options])
        return self.remote.run(command, timeout_s=UPGRADE_TIMEOUT_S)

    def restart(self) -> None:
        """Restart the node and wait until it is up again."""
        self.remote.call("systemctl reboot || true")
        self.wait_for_another_boot(BOOT_TIMEOUT_S)

    def wait_for_another_boot(self, timeout_s: float) -> None:
        """Return when a kernel was started after the last one, and lets us in."""
        self.machine.console.expect(r"Command line: ", timeout_s=timeout_s)
        self.remote.wait(timeout_s=BOOT_TIMEOUT_S)

    def power_cycle(self) -> None:
        """Cut the power and start again."""
        self.machine.power_cut()
        self.machine.power_on()
        self.remote.wait(timeout_s=BOOT_TIMEOUT_S)

    @property
    def tag(self) -> str:
        return self.remote.run("grep -o '^IMAGE_TAG=.*' /etc/os-release").strip().partition("=")[2]

    @property
    def mode(self) -> str:
        return self.remote.run("cd /run/elemental; echo *_mode").strip()

    def wait_until_settled(self) -> None:
        """Return when the health check has passed and what follows from it is done."""
        self.remote.until(
            "systemctl is-active elemental-boot-assessment && "
            "! grub2-editenv /oem/grubenv list | grep -q boot_assessment_check=yes",
            timeout_s=BOOT_TIMEOUT_S,
        )


@pytest.fixture
def node(
    installation: Installation, built: Built, registry: LayoutRegistry, short_tmp_path: Path
) -> Iterator[Upgradable]:
    """An installed node after its first, confirmed boot."""
    with installation.machine(short_tmp_path) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        machine.console.expect(r"Command line: ", timeout_s=60)
        node = Upgradable(
            machine=machine,
            remote=remote,
            registry=registry,
            base=built.layout,
            work=short_tmp_path,
        )
        node.wait_until_settled()
        yield node


def test_upgrade_keeps_identity_and_settings(node: Upgradable) -> None:
    remote = node.remote
    identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
    before = remote.run(identity)
    old = node.tag
    node.upgrade(node.publish("good"))
    assert node.tag == old, "the running system changed"
    node.restart()
    node.wait_until_settled()
    assert node.tag == "good"
    assert node.mode == "active_mode"
    assert remote.run(identity) == before
    assert remote.run("systemctl --failed --no-legend --plain") == ""
    assert old in remote.run("qemu-node os status")


@pytest.mark.parametrize("check", [_FAILS, _HANGS], ids=["fails", "hangs"])
def test_bad_upgrade_goes_back_by_itself_and_stays_back(node: Upgradable, check: str) -> None:
    old = node.tag
    bad = node.publish("bad", {_CHECK: (0o755, check)})
    node.upgrade(bad)
    node.restart()
    # Of the bad image there may be several boots; the last kernel is the old image's.
    node.machine.console.expect(
        r"Command line: .*elemental\.image=\S*snapshot", timeout_s=FALL_BACK_TIMEOUT_S
    )
    node.remote.until(f"grep -q '^IMAGE_TAG={old}$' /etc/os-release", timeout_s=BOOT_TIMEOUT_S)
    node.wait_until_settled()
    node.restart()
    assert (node.tag, node.mode) == (old, "active_mode")
    with pytest.raises(ProcessError, match="did not pass"):
        node.upgrade(bad)
    node.upgrade(node.publish("better"))
    node.restart()
    node.wait_until_settled()
    assert node.tag == "better"


def _stop_in_hook(node: Upgradable, stage: str) -> None:
    """Let the next upgrade say that it has come to `stage`, and go no further."""
    hook = (
        f"stages:\\n  {stage}:\\n  - commands:\\n"
        "    - echo reached-the-hook >/dev/ttyS0\\n    - sleep 3600\\n"
    )
    node.remote.run(f"printf '{hook}' >/oem/99_stop.yaml; sync")


def _start_upgrade(node: Upgradable, reference: str) -> None:
    node.remote.run(
        f"systemd-run -q -u test-upgrade /usr/local/sbin/elemental upgrade --system {reference}"
    )


def test_power_cuts_leave_a_node_that_boots_and_only_good_targets(node: Upgradable) -> None:
    old = node.tag
    reference = node.publish("cut")
    image = f"{_STATE}/.snapshots/2/snapshot.img"

    _start_upgrade(node, reference)
    node.remote.until(f"test -d {_STATE}/.snapshots/2", timeout_s=300)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut while pulling"

    _start_upgrade(node, reference)
    node.remote.until(f"test -s {image}", timeout_s=UPGRADE_TIMEOUT_S)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut while copying"

    _stop_in_hook(node, "after-upgrade")
    _start_upgrade(node, reference)
    node.machine.console.expect("reached-the-hook", timeout_s=UPGRADE_TIMEOUT_S)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut before the switch"

    _stop_in_hook(node, "post-upgrade")
    _start_upgrade(node, reference)
    node.machine.console.expect("reached-the-hook", timeout_s=UPGRADE_TIMEOUT_S)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == "cut", "cut after the switch"

    node.remote.run("rm -f /oem/99_stop.yaml")
    node.upgrade(node.publish("next"))
    listed = node.remote.run("grub2-editenv /run/elemental/efi/grub_oem_env list")
    targets = re.search(r"(?m)^passive_snaps=(.*)$", listed)
    assert targets is not None, listed
    for number in targets[1].split():
        node.remote.run(
            f"cd {_STATE}/.snapshots/{number} && "
            "test ! -e snapshot.workDir && e2fsck -fn snapshot.img >/dev/null"
        )
    node.restart()
    node.wait_until_settled()
    assert node.tag == "next"


def test_node_boots_whatever_a_power_cut_left_of_grubs_variables(node: Upgradable) -> None:
    old = node.tag
    for name in ("/oem/grubenv", "/run/elemental/efi/grub_oem_env"):
        for content in ("", "garbage"):
            node.remote.run("mount -o remount,rw /run/elemental/efi")
            node.remote.run(f"printf '%s' '{content}' >{name}; sync")
            node.power_cycle()
            assert (node.tag, node.mode) == (old, "active_mode"), f"{name}: {content!r}"


def test_full_state_partition_refuses_an_upgrade_and_changes_nothing(node: Upgradable) -> None:
    node.remote.run(
        f"mount -o remount,rw {_STATE}; "
        f"fallocate -l $(( $(stat -f -c %a {_STATE}) * $(stat -f -c %S {_STATE}) - 1500000000 )) "
        f"{_STATE}/filler"
    )
    look = f"readlink {_STATE}/.snapshots/active; ls {_STATE}/.snapshots; cat /oem/grubenv"
    before = node.remote.run(look)
    with pytest.raises(ProcessError, match="free"):
        node.upgrade(node.publish("large"))
    assert node.remote.run(look) == before


def test_power_cuts_of_a_confirmed_system_do_not_fall_back(node: Upgradable) -> None:
    old = node.tag
    node.upgrade(node.publish("good"))
    node.restart()
    node.wait_until_settled()
    for _ in range(3):
        node.machine.power_cut()
        node.machine.power_on()
        node.machine.console.expect(r"Command line: ", timeout_s=300)
    node.power_cycle()
    assert (node.tag, node.mode) == ("good", "active_mode")
    assert node.tag != old
