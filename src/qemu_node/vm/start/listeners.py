"""A VM's listening sockets, made by us and inherited by QEMU.

So there is no moment at which a socket is not there yet, and its mode and group are ours to choose.
"""

import os
from pathlib import Path

from qemu_node.host import sockets
from qemu_node.qemu.spec import SocketFds
from qemu_node.vm.record.directory import VMDirectory


class Listeners:
    """The sockets, ours until QEMU has inherited them."""

    def __init__(self, directory: VMDirectory, shared_gid: int | None) -> None:
        """Listen on the sockets of `directory`, for the members of group `shared_gid` too.

        But for QMP: it serves one client, and whoever holds it keeps the driver from its VM.

        Raises:
            HostError: one of them cannot be made; none is left.
        """
        self.all_fds: list[int] = []
        paths = directory.socket_paths()
        owner = None if shared_gid is None else (os.geteuid(), shared_gid)
        try:
            self.all_fds.append(sockets.listen_unix(Path(paths.qmp), mode=0o600))
            for path in (paths.monitor, paths.qga, paths.serial):
                self.all_fds.append(sockets.listen_unix(Path(path), mode=0o660, owner=owner))
        except BaseException:
            self.close()
            raise
        qmp, monitor, qga, serial = self.all_fds
        self.fds = SocketFds(qmp=qmp, monitor=monitor, qga=qga, serial=serial)

    def close(self) -> None:
        """Close our copies; harmless when done twice."""
        while self.all_fds:
            os.close(self.all_fds.pop())
