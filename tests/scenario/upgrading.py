"""A node that is upgraded, as its operator does it, and what is looked at afterwards.

Owns one machine for several tests, each of which begins and ends with a node that has settled.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import Machine
from scenario.ocilayout import Layout, LayoutRegistry
from scenario.remote import Remote

from qemu_node.nodeos.release import parse_release

UPGRADE_TIMEOUT_S = 1800

STATE = "/run/initramfs/elemental-state"
SNAPSHOTS = f"{STATE}/.snapshots"
ESP = "/run/elemental/efi"
UNIT = "test-upgrade"
"""Of an upgrade that goes on while the test looks."""

_STOPPED = "reached-the-hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgradable:
    """A running node and the registry of its upgrades."""

    machine: Machine
    remote: Remote
    registry: LayoutRegistry
    base: Layout
    work: Path

    def derive(self, tag: str, files: Mapping[str, tuple[int, str]] | None = None) -> Layout:
        """Return a variant of the image under test: with another tag, and with `files`."""
        release = self.remote.run("cat /usr/lib/os-release")
        text = re.sub(r"(?m)^IMAGE_TAG=.*$", f"IMAGE_TAG={tag}", release)
        return self.base.derive(
            self.work / tag, {"usr/lib/os-release": (0o644, text)} | dict(files or {})
        )

    def publish(self, tag: str, files: Mapping[str, tuple[int, str]] | None = None) -> str:
        """Push such a variant; return its reference."""
        return f"oci:{self.registry.repository}@{self.registry.push(self.derive(tag, files), tag)}"

    def upgrade(self, reference: str, *options: str) -> str:
        """Upgrade, and return what the command said; the machine is not restarted."""
        command = " ".join(["elemental upgrade --system", reference, *options])
        return self.remote.run(command, timeout_s=UPGRADE_TIMEOUT_S)

    def start_upgrade(self, reference: str, *options: str) -> None:
        """Begin to upgrade."""
        command = " ".join(["/usr/local/sbin/elemental upgrade --system", reference, *options])
        self.remote.run(f"systemd-run -q -u {UNIT} {command}")

    def stop_in(self, stage: str) -> None:
        """Have the next upgrade go no further than `stage` of Elemental's hooks."""
        hook = (
            f"stages:\\n  {stage}:\\n  - commands:\\n"
            f"    - echo {_STOPPED} >/dev/ttyS0\\n    - sleep 3600\\n"
        )
        self.remote.run(f"printf '{hook}' >/oem/99_stop.yaml; sync")

    def wait_until_stopped(self) -> None:
        """Return when the upgrade has come to the stage at which it stops."""
        self.machine.console.expect(_STOPPED, timeout_s=UPGRADE_TIMEOUT_S)

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
        self.wait_for_another_boot(BOOT_TIMEOUT_S)

    @property
    def tag(self) -> str:
        return self.remote.run('. /etc/os-release; echo "$IMAGE_TAG"').strip()

    @property
    def mode(self) -> str:
        return self.remote.run("cd /run/elemental; echo *_mode").strip()

    def wait_until_settled(self) -> None:
        """Return when the health check has passed, if there is one, and what follows is done."""
        self.remote.until(
            "{ ! grep -qw elemental.health_check /proc/cmdline || "
            "systemctl is-active elemental-boot-assessment; } && "
            "! grub2-editenv /oem/grubenv list | grep -q boot_assessment_check=yes",
            timeout_s=BOOT_TIMEOUT_S,
        )

    def fall_back_targets(self) -> dict[int, str]:
        """Return what GRUB boots if the active snapshot does not come up: number → tag.

        Raises:
            ProcessError: one of them is not whole.
        """
        listed = self.remote.run(f"grub2-editenv {ESP}/grub_oem_env list")
        found = re.search(r"(?m)^passive_snaps=(.*)$", listed)
        assert found is not None, listed
        return {int(number): self._tag_of(int(number)) for number in found[1].split()}

    def _tag_of(self, number: int) -> str:
        said = self.remote.run(
            f"cd {SNAPSHOTS}/{number} && test ! -e snapshot.workDir && "
            "e2fsck -fn snapshot.img >/dev/null 2>&1 && "
            "debugfs -R 'cat /usr/lib/os-release' snapshot.img 2>/dev/null",
            timeout_s=300,
        )
        return parse_release(said).tag


class Upgrades:
    """One node for the tests of a module; a new one after a test that has failed."""

    def __init__(
        self, installation: Installation, base: Layout, registry: LayoutRegistry, directory: Path
    ) -> None:
        self._installation = installation
        self._base = base
        self._registry = registry
        self._directory = directory
        self._machine: Machine | None = None
        self._count = 0
        self.prepare: Callable[[Remote], None] = lambda _remote: None
        """What is done when a node is new."""

    def node(self) -> Upgradable:
        """Return the running node."""
        is_new = self._machine is None
        work = self._directory / str(self._count)
        machine = self._machine or self._installation.machine(work)
        if is_new:
            machine.power_on()
            self._machine = machine
        node = Upgradable(
            machine=machine,
            remote=Remote(machine, self._installation.key),
            registry=self._registry,
            base=self._base,
            work=work,
        )
        if is_new:
            node.wait_for_another_boot(BOOT_TIMEOUT_S)
            node.wait_until_settled()
            self.prepare(node.remote)
        return node

    def discard(self) -> None:
        """Switch the node off; the next test gets another one."""
        if self._machine is not None:
            self._machine.power_cut()
        self._machine = None
        self._count += 1
