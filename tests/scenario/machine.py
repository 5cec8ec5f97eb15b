"""A server for the node's system, emulated: firmware with Secure Boot, disks, NICs, a console.

Owns one QEMU process and the files of the machine. Does not own what is installed on it.

Its NICs are wired to QEMU's user network, all of them to the same one, as to one switch: the host
is 10.0.2.2 there, and the machine is given 10.0.2.15 and a name by DHCP (option 12). That its only
way in is a forwarded port keeps it off every other network.
"""

import json
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenario.console import SerialConsole

from qemu_node.host.process import pidfd
from qemu_node.host.process.command import Child, run_blocking, spawn

_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
"""Microsoft's certificates, which Debian's shim is signed with."""

HOST_NAME = "rack1-node7"
"""What DHCP calls the machine."""


def create_disk(path: Path, size: str, *, backing: Path | None = None) -> Path:
    """Return `path`, a new qcow2 disk: empty, or what `backing` holds."""
    behind = [] if backing is None else ["-b", str(backing), "-F", "qcow2"]
    run_blocking(["qemu-img", "create", "-q", "-f", "qcow2", *behind, str(path), size])
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card."""

    mac: str
    speed_mbit: int | None = None
    """What it says of itself; None: nothing, as QEMU's cards do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the machine has."""

    disks: Sequence[Path] = ()
    """qcow2; /dev/vda and so on, with the serial numbers disk0 and so on."""
    iso: Path | None = None
    """In the drive, and booted first."""
    sticks: Sequence[Path] = ()
    """USB sticks, raw."""
    nics: Sequence[Nic] = (Nic(mac="52:54:00:0a:00:01"), Nic(mac="52:54:00:0a:00:02"))
    """In the order of their places."""
    memory_mib: int = 3072


class Machine:
    """The running machine. A context: leaving it is a power cut."""

    def __init__(self, directory: Path, hardware: Hardware) -> None:
        """Args:
        directory: Its files; the firmware's variables stay there from one run to the next.
        hardware: What it has.
        """
        self.directory = directory
        self.hardware = hardware
        self._child: Child | None = None
        self._qmp: socket.socket | None = None
        self._console: SerialConsole | None = None
        self.ssh_port = 0
        self.web_port = 0
        self.serial_log = directory / "serial.log"

    @property
    def console(self) -> SerialConsole:
        assert self._console is not None, "the machine is off"
        return self._console

    def __enter__(self) -> "Machine":
        self.power_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()

    def power_on(self) -> None:
        """Switch it on; its console is there at once."""
        assert self._child is None
        self.directory.mkdir(parents=True, exist_ok=True)
        variables = self.directory / "vars.fd"
        if not variables.exists():
            shutil.copyfile(_VARS, variables)
        with (
            socket.create_server(("127.0.0.1", 0)) as ssh,
            socket.create_server(("127.0.0.1", 0)) as web,
        ):
            self.ssh_port, self.web_port = ssh.getsockname()[1], web.getsockname()[1]
        argv = self._argv(variables)
        (self.directory / "argv").write_text("\n".join(argv))
        with (self.directory / "qemu.log").open("ab") as log:
            self._child = spawn(argv, stderr_fd=log.fileno())
        self._qmp = self._connect("qmp.sock")
        self._answer(self._qmp)
        self.qmp("qmp_capabilities")
        self._console = SerialConsole(self.directory / "serial.sock")
        # It waits for the console: nothing that is printed early may be missed.
        self.qmp("cont")

    def power_cut(self) -> None:
        """Switch it off at once; the disks keep what was written to them."""
        if self._child is None:
            return
        pidfd.send_signal(self._child.process, signal.SIGKILL)
        self.wait_until_off(timeout_s=60)

    def wait_until_off(self, *, timeout_s: float) -> None:
        """Return when the machine has switched itself off.

        Raises:
            AssertionError: it is still on; the message has the console's last lines.
        """
        assert self._child is not None
        deadline = time.monotonic() + timeout_s
        while self._child.exit_status() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"the machine is still on:\n{self.console.text[-3000:]}")
            time.sleep(0.2)
        self.console.close()
        if self._qmp is not None:
            self._qmp.close()
        self._child = self._console = self._qmp = None

    def set_cable(self, nic: int, *, is_plugged: bool) -> None:
        """Plug or pull the cable of a NIC."""
        self.qmp("set_link", name=f"nic{nic}", up=is_plugged)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Return QEMU's answer to `command`."""
        assert self._qmp is not None, "the machine is off"
        request = {"execute": command, "arguments": arguments}
        self._qmp.sendall(json.dumps(request).encode())
        while "return" not in (answer := self._answer(self._qmp)):
            assert "error" not in answer, answer
        return answer["return"]

    def _connect(self, name: str) -> socket.socket:
        """Return a connection to one of QEMU's sockets, which it makes when it starts."""
        deadline = time.monotonic() + 60
        while True:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(str(self.directory / name))
            except OSError:
                client.close()
                assert self._child is not None
                log = (self.directory / "qemu.log").read_text(errors="replace")
                assert self._child.exit_status() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.05)
                continue
            client.settimeout(60)
            return client

    @staticmethod
    def _answer(client: socket.socket) -> Any:
        """Return the next message; QEMU ends each with a line break."""
        line = b""
        while not line.endswith(b"\n"):
            chunk = client.recv(1)
            assert chunk, "QEMU has ended"
            line += chunk
        return json.loads(line)

    def _argv(self, variables: Path) -> list[str]:
        """Return QEMU's command line."""
        hardware = self.hardware
        # The flags of the CPU: see guests.testvm. With one CPU none runs what another one patches.
        # fmt: off
        argv = [
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S",
            "-machine", "q35,smm=on", "-accel", "tcg,tb-size=512",
            "-cpu", "max,-cx16,-svm,-vmx,-la57", "-smp", "1", "-m", str(hardware.memory_mib),
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-global", "ICH9-LPC.disable_s3=1",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_CODE}",
            "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
            "-chardev", f"socket,id=serial,path={self.directory}/serial.sock,server=on,wait=off,"
                        f"logfile={self.serial_log},logappend=on",
            "-serial", "chardev:serial",
            "-qmp", f"unix:{self.directory}/qmp.sock,server=on,wait=off",
            "-device", "virtio-rng-pci", "-device", "i6300esb",
            "-device", "virtio-scsi-pci,id=drives", "-device", "qemu-xhci",
            "-netdev", f"user,id=net,hostname={HOST_NAME},"
                       f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,"
                       f"hostfwd=tcp:127.0.0.1:{self.web_port}-:5800",
            "-netdev", "hubport,id=outside,hubid=1,netdev=net",
        ]
        for index, nic in enumerate(hardware.nics):
            speed = "" if nic.speed_mbit is None else f",speed={nic.speed_mbit},duplex=full"
            argv += [
                "-netdev", f"hubport,id=port{index},hubid=1",
                "-device",
                f"virtio-net-pci,id=nic{index},netdev=port{index},mac={nic.mac},romfile={speed}",
            ]
        for index, disk in enumerate(hardware.disks):
            argv += [
                "-drive", f"if=none,id=disk{index},format=qcow2,cache=writeback,file={disk}",
                "-device",
                f"virtio-blk-pci,drive=disk{index},serial=disk{index},bootindex={index + 2}",
            ]
        for index, stick in enumerate(hardware.sticks):
            argv += [
                "-drive", f"if=none,id=stick{index},format=raw,file={stick}",
                "-device", f"usb-storage,drive=stick{index}",
            ]
        if hardware.iso is not None:
            argv += [
                "-drive", f"if=none,id=iso,media=cdrom,readonly=on,file={hardware.iso}",
                "-device", "scsi-cd,bus=drives.0,drive=iso,bootindex=1",
            ]
        # fmt: on
        return argv
