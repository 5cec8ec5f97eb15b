"""One boot of a root file system under QEMU, by its own kernel and initrd, without Elemental.

Owns disks, command line and what is asked inside. Does not own what is expected of the answers.

The tree itself is not changed: it is a squashfs, over which the initrd lays a tmpfs, and the unit
that collects the answers is a credential on the kernel's command line
(systemd.system-credentials(7), `systemd.extra-unit.*`). What to run comes as a tar on the second
disk, what it said goes as one to the third.
"""

import base64
import tarfile
from dataclasses import dataclass
from pathlib import Path

from guests.emulated import CPU

from qemu_node.host.process.command import ProcessError, run_blocking

_MEMORY_MIB = 2048
_RESULTS_MIB = 16
_NIC1, _NIC2 = "52:54:00:0e:00:01", "52:54:00:0e:00:02"

_UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=sh -c 'mkdir /run/t;cd /run/t;tar -xf /dev/vdb;sh ./ask'
ExecStopPost=systemctl poweroff -ff
"""
# On a node Elemental's stages make the host key.
_KEY_UNIT = """\
[Unit]
Before=ssh.service
[Service]
Type=oneshot
ExecStart=ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
"""
# Each file below out/ is an answer.
_ASK = """\
mkdir out
ask() { name=$1; shift; "$@" >"out/$name" 2>&1; }
# An emulated machine beside other work may find its disks later than a node waits for them.
udevadm settle --timeout=120
systemctl start data.mount
# Nomad may still be starting: its unit is wanted by that mount.
timeout 120 sh -c 'until systemctl --quiet is-active nomad; do sleep 1; done'
ask failed systemctl list-units --failed --plain --no-legend
ask nomad systemctl is-active nomad
ask nomad_log journalctl --no-pager --unit=nomad
ask uplink networkctl --no-pager status br0
ask address ip -json address show br0
ask mounts findmnt --json --list
ask nft nft list ruleset
ask memory cat /proc/meminfo
ask errors journalctl --no-pager --boot --priority=err
ask release cat /etc/os-release
ask command qemu-node --version
ask listening ss --listening --numeric --tcp --udp
ask passwords passwd --status --all
tar -cf /dev/vdc -C out .
sync
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """What a booted system said about itself, by name."""

    answers: dict[str, str]


def squash(tree: Path, target: Path) -> None:
    """Write the root file system `tree` to the squashfs `target`."""
    run_blocking(
        ["mksquashfs", str(tree), str(target), "-quiet", "-no-progress", "-noappend", "-comp",
         "lz4"],
        timeout_s=900,
    )  # fmt: skip


def boot(tree: Path, root: Path, data: Path, work: Path, *, timeout_s: float) -> Booted:
    """Boot, and return what the system says once everything is up.

    Args:
        tree: The root file system, for kernel and initrd.
        root: Its squashfs.
        data: A directory that becomes the data partition.
        work: An empty directory for disks and logs.
        timeout_s: The VM is killed after so long.

    Raises:
        AssertionError: it did not come up; the message has the console's last lines.
    """
    (work / "ask").write_text(_ASK)
    questions, answers, disk = work / "in.tar", work / "out.tar", work / "data.ext4"
    with tarfile.open(questions, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(work / "ask", "ask")
    with answers.open("wb") as file:
        file.truncate(_RESULTS_MIB << 20)
    run_blocking(["mkfs.ext4", "-q", "-L", "DATA", "-d", str(data), str(disk), "256M"])
    serial = work / "serial.log"
    try:
        run_blocking(_argv(tree, root, questions, answers, disk, serial), timeout_s=timeout_s)
        found = _read(answers)
    except (ProcessError, tarfile.TarError) as exc:
        console = serial.read_text(errors="replace") if serial.exists() else ""
        raise AssertionError(f"the system did not come up: {exc}\n{console[-6000:]}") from exc
    return Booted(answers=found)


def _argv(
    tree: Path, root: Path, questions: Path, answers: Path, data: Path, serial: Path
) -> list[str]:
    units = " ".join(
        f"systemd.set_credential_binary=systemd.extra-unit.{name}.service:"
        f"{base64.b64encode(text.encode()).decode()} systemd.wants={name}.service"
        for name, text in (("ask", _UNIT), ("key", _KEY_UNIT))
    )
    command_line = (
        "root=live:/dev/vda rd.live.overlay.overlayfs=1 console=ttyS0 quiet no_timer_check "
        f"panic=-1 {units}"
    )
    # fmt: off
    argv = [
        "setpriv", "--pdeathsig", "KILL",
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35", "-accel", "tcg,thread=single,tb-size=512",
        "-cpu", CPU, "-smp", "2", "-m", str(_MEMORY_MIB),
        "-kernel", str(tree / "boot/vmlinuz"), "-initrd", str(tree / "boot/initrd"),
        "-append", command_line, "-serial", f"file:{serial}", "-device", "virtio-rng-pci",
        "-netdev", "user,id=n1,hostname=node-7", "-device", f"virtio-net-pci,netdev=n1,mac={_NIC1}",
        "-netdev", "user,id=n2,hostname=node-7", "-device", f"virtio-net-pci,netdev=n2,mac={_NIC2}",
    ]
    for path, is_read_only in ((root, True), (questions, True), (answers, False), (data, False)):
        escaped = str(path).replace(",", ",,")
        mode = "on" if is_read_only else "off"
        argv += ["-drive", f"if=virtio,format=raw,cache=unsafe,readonly={mode},file={escaped}"]
    # fmt: on
    return argv


def _read(answers: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(answers) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                found[member.name.removeprefix("./")] = file.read().decode(errors="replace")
    return found
