"""A VM with Debian 13's kernel, systemd, networkd and cgroup v2, in which tests run as root.

Owns the VM's files and one run of it. Does not own which tests run there.

The root is a squashfs under a tmpfs: every run starts from the same state. The kernel is started
directly. What goes in is a tar on the second disk, what comes out a tar on the third: nothing is
parsed from a console, and no file system is shared. Inside: QEMU 10, OVMF, nftables, a DHCP server,
iperf3, and what uv.lock names for Python 3.13 in /opt/site. Modules for bridges, bonds, TAPs,
vhost-net and nftables load as they are asked for. Its NICs are wired to each other only (`NICS`);
what runs inside can unplug one, by QEMU's monitor at `MONITOR`. Two disks are empty (`DISKS`).
The working directory is /test, results belong into /results.
"""

import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from guests import cache, packages
from guests.emulated import CPU
from guests.initramfs import Initramfs

from qemu_node.host.process.command import SAFE_ENV, ProcessError, run_blocking

_PACKAGES = (
    "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "nftables", "dnsmasq-base", "polkitd",
    "procps", "e2fsprogs", "python3", "qemu-system-x86", "qemu-utils", "ovmf", "iperf3", "ethtool",
)  # fmt: skip
_KERNEL = ("linux-image-cloud-amd64", "busybox-static")
_BOOT_MODULES = ("virtio_blk", "squashfs", "overlay")
# Development tools that no test imports; they would double the root's size.
_UNNEEDED = ("ruff", "mypy", "grpcio-tools", "import-linter", "spdx-tools")
# Each of them delays the boot by a second or more under TCG.
_UNNEEDED_UNITS = (
    "getty@.service", "serial-getty@.service", "systemd-firstboot.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_reap.service",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@fuse.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "systemd-journal-flush.service", "systemd-pstore.service",
    "systemd-user-sessions.service", "systemd-update-utmp.service", "systemd-logind.service",
)  # fmt: skip

NICS = {
    "52:54:00:0a:00:01": 1,
    "52:54:00:0b:00:01": 1,
    "52:54:00:0a:00:02": 2,
    "52:54:00:0b:00:02": 2,
    "52:54:00:0c:00:03": 3,
}
"""The VM's NICs by address, and the wire of each: what one sends, the others on it receive.
QEMU calls the first one nic0."""
_SPEEDS_MBIT = {"52:54:00:0a:00:01": 1000, "52:54:00:0a:00:02": 10000}
"""Their speeds; of the others it is unknown."""

DISKS = ("first", "second")
"""Serial numbers of the VM's empty disks: /dev/disk/by-id/virtio-first."""

MONITOR = Path("/dev/virtio-ports/monitor")
"""In the VM: QEMU's monitor for people, for instance for `set_link nic0 off`."""

_RESULTS_MIB = 256
_DISK_MIB = 64
_MEMORY_MIB = 1536

_INIT = b"""#!/bin/busybox sh
# Root: squashfs below, tmpfs above.
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done </lib/modules.load
/bin/busybox mkdir -p /lower /upper /new
/bin/busybox mount -t squashfs -o ro /dev/vda /lower
/bin/busybox mount -t tmpfs -o size=90% upper /upper
/bin/busybox mkdir /upper/data /upper/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work over /new
exec /bin/busybox switch_root /new /sbin/init
"""
_RUNNER = b"""#!/bin/sh
mkdir -p /test /results
tar -xf /dev/vdb -C /test
cd /test
sh ./command >/results/output.txt 2>&1
echo $? >/results/exit_code
tar -cf /dev/vdc -C /results .
sync
systemctl poweroff --force --force
"""
_UNIT = b"""[Unit]
Description=Tests
After=basic.target

[Service]
Type=exec
ExecStart=/opt/run-tests
Environment=PYTHONPATH=/opt/site:/test/src PYTHONDONTWRITEBYTECODE=1 HOME=/root LANG=C.UTF-8
Environment=QEMU_NODE_TEST_VM=1
Delegate=yes
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended in the VM, and the directory of what it left in /results."""

    exit_code: int
    output: str
    results: Path


class TestVM:
    """The VM's files, ready to be started any number of times."""

    __test__ = False  # no test class, whatever its name

    def __init__(self, files: Path) -> None:
        self._files = files

    @property
    def boot_files(self) -> tuple[Path, Path]:
        """Kernel and initrd, `vmlinuz` and `initrd`, for guests inside the VM."""
        return self._files / "vmlinuz", self._files / "initrd"

    @classmethod
    def prepare(cls, directory: Path, uv: str) -> "TestVM":
        """Return the VM whose files are kept in `directory`, made there unless they are.

        Args:
            directory: The cache.
            uv: The program that fetches the Python packages of uv.lock.

        Raises:
            MissingPartError: mmdebstrap, squashfs-tools or uv is not installed.
            ProcessError: one of them failed.
        """
        here = Path(__file__).parent
        sources = [here / name for name in ("testvm.py", "initramfs.py", "packages.py")]
        digest = cache.fingerprint([*sources, cache.REPO / "uv.lock"])

        def make(target: Path, scratch: Path) -> None:
            _make(target, scratch, uv)

        return cls(cache.cached(directory, "testvm", digest, "", make))

    def run(
        self,
        command: str,
        files: Mapping[str, Path],
        work: Path,
        *,
        timeout_s: float = 600.0,
        threads: Literal["single", "multi"] = "single",
    ) -> Outcome:
        """Boot, run `command` in a shell as root, power off, and return what it left.

        Args:
            command: Shell text; its output is kept, its working directory holds `files`.
            files: What is put there: name in the VM to file or directory here.
            work: An empty directory for disks, logs and results.
            timeout_s: The VM is killed after so long.
            threads: A thread for both CPUs, or one for each. With two, one CPU may run the
                breakpoint by which the kernel patches its code after the other has removed it:
                one boot in some dozens ends in a panic ("int3", Red Hat bug 2216496).

        Raises:
            AssertionError: the VM ended without results; the message has the console's last lines.
        """
        script = work / "command"
        script.write_text(command)
        inputs, outputs = work / "inputs.tar", work / "outputs.tar"
        with tarfile.open(inputs, "w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(script, "command")
            for name, source in files.items():
                archive.add(source, name, filter=_without_caches)
        with outputs.open("wb") as file:
            file.truncate(_RESULTS_MIB << 20)
        disks = [work / f"{name}.img" for name in DISKS]
        for disk in disks:
            with disk.open("wb") as file:
                file.truncate(_DISK_MIB << 20)
        serial = work / "serial.log"
        try:
            # A path that is short enough, and a directory of ours alone: the monitor runs programs.
            with tempfile.TemporaryDirectory(prefix="qn-", dir="/tmp") as directory:
                monitor = Path(directory) / "monitor.sock"
                argv = self._argv(inputs, outputs, serial, threads)
                argv += _disk_options(disks) + _monitor_options(monitor)
                run_blocking(argv, timeout_s=timeout_s)
            results = _unpack(outputs, work / "results")
        except (ProcessError, tarfile.TarError) as exc:
            console = serial.read_text(errors="replace") if serial.exists() else ""
            raise AssertionError(f"the VM gave no results: {exc}\n{console[-4000:]}") from exc
        exit_code = int((results / "exit_code").read_text())
        output = (results / "output.txt").read_text(errors="replace")
        return Outcome(exit_code=exit_code, output=output, results=results)

    def _argv(self, inputs: Path, outputs: Path, serial: Path, threads: str) -> list[str]:
        """Return QEMU's command line."""
        # A panic of the kernel ends the VM.
        # fmt: off
        argv = [
            # It ends with this process, and so if that is killed.
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-machine", "q35", "-accel", f"tcg,thread={threads},tb-size=256",
            "-cpu", CPU, "-smp", "2",
            "-m", str(_MEMORY_MIB), "-kernel", str(self._files / "vmlinuz"),
            "-initrd", str(self._files / "initrd"),
            "-append", "console=ttyS0 quiet no_timer_check panic=-1 systemd.show_status=no",
            "-serial", f"file:{serial}", "-device", "virtio-rng-pci",
        ]
        # fmt: on
        disks = ((self._files / "root.squashfs", "on"), (inputs, "on"), (outputs, "off"))
        for path, read_only in disks:
            escaped = str(path).replace(",", ",,")
            argv += ["-drive", f"if=virtio,format=raw,readonly={read_only},file={escaped}"]
        for number, (mac, wire) in enumerate(NICS.items()):
            argv += ["-netdev", f"hubport,id=nic{number},hubid={wire}"]
            speed = f",speed={_SPEEDS_MBIT[mac]},duplex=full" if mac in _SPEEDS_MBIT else ""
            argv += ["-device", f"virtio-net-pci,netdev=nic{number},mac={mac},romfile={speed}"]
        return argv


def _disk_options(paths: Sequence[Path]) -> list[str]:
    """Return the options of the empty disks."""
    argv = []
    # Places behind those of the other disks, which are called vda to vdc.
    for place, serial, path in zip(("0x10", "0x11"), DISKS, paths, strict=True):
        escaped = str(path).replace(",", ",,")
        argv += ["-drive", f"if=none,id={serial},format=raw,cache=unsafe,file={escaped}"]
        argv += ["-device", f"virtio-blk-pci,drive={serial},serial={serial},addr={place}"]
    return argv


def _monitor_options(path: Path) -> list[str]:
    """Return the options that connect a port of the VM with QEMU's own monitor."""
    # fmt: off
    return [
        "-chardev", f"socket,id=monitor,path={path},server=on,wait=off",
        "-mon", "chardev=monitor,mode=readline",
        "-chardev", f"socket,id=inside,path={path}",
        "-device", "virtio-serial-pci",
        "-device", f"virtserialport,chardev=inside,name={MONITOR.name}",
    ]
    # fmt: on


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what an interpreter or a tool of this machine wrote beside the sources."""
    name = Path(member.name).name
    return None if name == "__pycache__" or name.endswith("_cache") else member


def _unpack(archive: Path, directory: Path) -> Path:
    """Write the regular files of `archive` below `directory` and return it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            destination = directory / member.name
            destination.parent.mkdir(parents=True, exist_ok=True)
            with destination.open("wb") as file:
                shutil.copyfileobj(content, file)
    return directory


def _make(target: Path, scratch: Path, uv: str) -> None:
    """Make the directory `target` with kernel, initrd and root."""
    target.mkdir()
    kernel, root = scratch / "kernel", scratch / "root"
    packages.extract(_KERNEL, kernel)
    packages.install(_PACKAGES, root)
    (image,) = kernel.glob("boot/vmlinuz-*")
    shutil.copyfile(image, target / "vmlinuz")
    shutil.copytree(kernel / "usr/lib/modules", root / "usr/lib/modules", symlinks=True)
    version = image.name.removeprefix("vmlinuz-")
    run_blocking(["chroot", str(root), "depmod", version])

    archive = Initramfs()
    for directory in ("dev", "proc"):
        archive.add_directory(directory)
    archive.add_file("bin/busybox", (kernel / "usr/bin/busybox").read_bytes(), mode=0o755)
    archive.add_modules(kernel, _BOOT_MODULES)
    archive.add_file("init", _INIT, mode=0o755)
    (target / "initrd").write_bytes(archive.to_cpio())

    _install_python_packages(root, scratch, uv)
    _enable_runner(root)
    run_blocking(
        ["mksquashfs", str(root), str(target / "root.squashfs"), "-quiet", "-no-progress",
         "-noappend", "-comp", "lz4"],
        timeout_s=300,
    )  # fmt: skip


def _install_python_packages(root: Path, scratch: Path, uv: str) -> None:
    """Put what uv.lock names into /opt/site, for the root's own Python, compiled by it."""
    requirements = scratch / "requirements.txt"
    pruned = [option for name in _UNNEEDED for option in ("--prune", name)]
    export = [uv, "export", "--quiet", "--locked", "--no-emit-project", *pruned]
    environment = packages.environment()
    run_blocking(
        [*export, "--project", str(cache.REPO), "--output-file", str(requirements)],
        env=environment,
    )
    site = root / "opt/site"
    run_blocking(
        [uv, "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:",
         "--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28",
         "--target", str(site), "--requirement", str(requirements)],
        env=environment, timeout_s=600,
    )  # fmt: skip
    run_blocking(["chroot", str(root), "python3", "-m", "compileall", "-q", "-j0", "/opt/site"],
                 timeout_s=600)  # fmt: skip


def _enable_runner(root: Path) -> None:
    """Let the root start the command at boot, and nothing that a test VM has no use for."""
    runner = root / "opt/run-tests"
    runner.write_bytes(_RUNNER)
    runner.chmod(0o755)
    (root / "etc/systemd/system/run-tests.service").write_bytes(_UNIT)
    systemctl = ["chroot", str(root), "systemctl", "--quiet"]
    run_blocking([*systemctl, "enable", "run-tests.service"], env=SAFE_ENV)
    run_blocking(
        [*systemctl, "mask", *_UNNEEDED_UNITS],
        env=SAFE_ENV,
    )  # fmt: skip
    (root / "etc/hostname").write_text("testvm\n")
    (root / "etc/.updated").touch()
    (root / "var/.updated").touch()
