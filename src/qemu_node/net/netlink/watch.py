"""Hearing from the kernel what others do to the network of VMs, as soon as they do it.

Owns the sockets of its multicast groups, and gathering what comes at once. Does not own what a
message means (`notices`) nor what is done about it.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.notices import Judge, Notice, Watched, route_notices, table_notices
from qemu_node.net.netlink.rtnl import RouteSocket

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h, as the next two
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_ROUTE_GROUPS = (1, 33)
"""RTNLGRP_LINK and RTNLGRP_BRVLAN (Linux 5.6): include/uapi/linux/rtnetlink.h."""
_NFT_GROUPS = (7,)
"""NFNLGRP_NFTABLES: include/uapi/linux/netfilter/nfnetlink.h."""
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
"""Hundreds of VMs starting at once; a device's message counts as 4 KiB or so."""
_RECEIVE_BYTES = 1 << 16
_NOTICES_MAX = 10_000
_SETTLE_S = 0.05
"""What happens together, such as the end of a bridge and of its ports, is looked at together."""


class Watch:
    """Hears of changes in this network namespace, from its making on; of one event loop."""

    def __init__(self) -> None:
        """Begin to hear.

        Raises:
            NetworkError: the kernel does not let us.
        """
        self._heard = asyncio.Event()
        self._notices: list[Notice] = []
        self._is_lost = False
        self._sockets: list[socket.socket] = []
        self._loop = asyncio.get_running_loop()
        try:
            self._listen(socket.NETLINK_ROUTE, _ROUTE_GROUPS, route_notices)
            self._listen(_NETLINK_NETFILTER, _NFT_GROUPS, table_notices)
            with RouteSocket() as route:
                self._judge = Judge(route.read_links())
        except OSError as exc:
            self.close()
            raise NetworkError(
                f"the kernel tells nothing of changes: {exc.strerror or exc}"
            ) from exc
        except BaseException:
            self.close()
            raise

    def _listen(
        self, family: int, groups: tuple[int, ...], read: Callable[[bytes], Iterator[Notice]]
    ) -> None:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family
        )
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._loop.add_reader(sock, self._receive, sock, read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hear no more."""
        while self._sockets:
            sock = self._sockets.pop()
            self._loop.remove_reader(sock)
            sock.close()

    async def losses(self, watched: Callable[[], Watched]) -> list[str]:
        """Return, once there is something, what VMs may have lost, in words.

        Args:
            watched: Returns what VMs need; asked when there is something to judge.
        """
        while True:
            await self._heard.wait()
            await asyncio.sleep(_SETTLE_S)
            self._heard.clear()
            notices, self._notices = self._notices, []
            is_lost, self._is_lost = self._is_lost, False
            names = dict(socket.if_nameindex())
            found = self._judge.losses(notices, names, watched())
            if is_lost:
                found.append("unknown: there were more messages than could be heard")
            if found:
                return found

    def _receive(self, sock: socket.socket, read: Callable[[bytes], Iterator[Notice]]) -> None:
        """Take what has come; it is only judged later, when all of it is there."""
        while True:
            try:
                data, (sender, _) = sock.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    log.warning("changes by others not heard of", extra={"error": str(exc)})
                self._is_lost = True
                break
            # Others than the kernel may write to this socket as well.
            if sender == 0:
                self._notices += read(data)
        if len(self._notices) > _NOTICES_MAX:
            self._notices.clear()
            self._is_lost = True
        self._heard.set()
