"""The kernel's messages about changes to the network of VMs, as they happen.

Owns the sockets of the kernel's multicast groups, and collecting messages that come together. Does
not own what a message means (`notices`) nor what is done about it.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
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
"""For hundreds of VMs that start at once; a message about a device takes about 4 KiB."""
_RECEIVE_BYTES = 1 << 16
_NOTICES_MAX = 10_000
_SETTLE_S = 0.05
"""Changes that belong together, such as the end of a bridge and its ports, are judged together."""


class Watch:
    """Receives the changes in this network namespace from now on, in one event loop."""

    def __init__(self) -> None:
        """Begin to receive.

        Raises:
            NetworkError: the kernel refused.
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
            raise NetworkError(f"cannot watch the network: {exc.strerror or exc}") from exc
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

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving."""
        while self._sockets:
            sock = self._sockets.pop()
            self._loop.remove_reader(sock)
            sock.close()

    async def losses(self, watched: Callable[[], Watched]) -> list[str]:
        """Wait until VMs may have lost something; return what, in words."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(_SETTLE_S)
            self._heard.clear()
            notices, self._notices = self._notices, []
            is_lost, self._is_lost = self._is_lost, False
            names = dict(socket.if_nameindex())
            found = self._judge.losses(notices, names, watched())
            if is_lost:
                found.append("unknown: some of the kernel's messages were lost")
            if found:
                return found

    def _receive(self, sock: socket.socket, read: Callable[[bytes], Iterator[Notice]]) -> None:
        """Take the messages that have come. They are judged later, together."""
        while True:
            try:
                data, (sender, _) = sock.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    log.warning(
                        "cannot receive the kernel's messages about changes",
                        extra={"error": str(exc)},
                    )
                self._is_lost = True
                break
            # Other processes may also send to this socket.
            if sender == 0:
                self._notices += read(data)
        if len(self._notices) > _NOTICES_MAX:
            self._notices.clear()
            self._is_lost = True
        self._heard.set()
