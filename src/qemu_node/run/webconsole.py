"""The web console of a session: the same that the daemon serves, on loopback, with a login link.

Owns when the link is shown: once the console serves, and again when all VMs are ready. Does not own
what is served (`web`). Whatever goes wrong here is a note; VMs and session go on.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable, Collection

from qemu_node.config.node import NodeConfig
from qemu_node.errors import NodeError
from qemu_node.run.runevents import EventKind, RunEvent

log = logging.getLogger(__name__)


class WebConsole:
    """Of one session."""

    def __init__(self, vms: Collection[str], show: Callable[[RunEvent], None]) -> None:
        """Show the link by `show`; the session's VMs are `vms`."""
        self._waiting = set(vms)
        self._show = show
        self._make_link: Callable[[], str] | None = None

    def see(self, event: RunEvent) -> None:
        """Show an event of the session; after the last VM has become ready, the link."""
        self._show(event)
        if event.kind is EventKind.READY and event.vm in self._waiting:
            self._waiting.discard(event.vm)
            if not self._waiting:
                self._announce()

    def _announce(self) -> None:
        if self._make_link is None:
            return
        link = self._make_link()
        self._show(
            RunEvent(
                kind=EventKind.WEB,
                message=f"web console, for one login: {link}",
                details={"url": link},
            )
        )

    async def serve(self, config: NodeConfig) -> None:
        """Serve until cancelled, or until it fails."""
        try:
            await self._serve(config)
        except Exception as exc:  # whatever it is, the session goes on
            log.warning("no web console", exc_info=exc)
            words = exc.explain() if isinstance(exc, NodeError) else f"{type(exc).__name__}: {exc}"
            message = f"there is no web console: {words}"
            self._show(RunEvent(kind=EventKind.NOTE, message=message))
        finally:
            self._make_link = None

    async def _serve(self, config: NodeConfig) -> None:
        # Half a second, for which VMs that start need not wait.
        await asyncio.to_thread(importlib.import_module, "qemu_node.web.service.serving")
        from qemu_node.web.service.serving import serving_by_link

        async with serving_by_link(config) as make_link:
            self._make_link = make_link
            self._announce()
            await asyncio.Event().wait()
