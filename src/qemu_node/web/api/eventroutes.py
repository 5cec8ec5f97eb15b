"""What changes, as a stream of server-sent events: `session`, `snapshot`, then `delta`.

Owns the form of the stream. Does not own that it ends with the session (`Guard.stream`). A client
that reads slowly gets the newest state, never a backlog; one that does not read is cut.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from qemu_node.web.access.acl.rights import CAPABILITIES, Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.api.packing import Packer, Plain
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import Delta, VMView, difference
from qemu_node.web.frame.route import Call, Route, StreamGuard
from qemu_node.web.http.headers import takes_gzip

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""A proxy between here and the browser may cut what is silent for a minute."""
_WRITE_TIMEOUT_S = 60.0
_GOODBYE_S = 1.0
_AGE_BEATS = 4
"""Every so many heartbeats the ages of guest agents are told."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"}


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who listens and what he may do; at the end, that it is the end."""

    user: str = ""
    rights: dict[str, list[str]] = {}
    """Namespace → rights, of the namespaces whose VMs he sees; `` → those on the node."""
    is_over: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All VMs that the listener may see."""

    now: float
    """Unix time of this node, by which `created_at` counts."""
    vms: list[VMView]


class EventRoutes:
    """The handler."""

    def __init__(
        self, fleet: Fleet, guard: StreamGuard, *, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._fleet = fleet
        self._guard = guard
        self._heartbeat_s = heartbeat_s
        self._ages_s = _AGE_BEATS * heartbeat_s

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/api/v1/events",
                right=Right.SEE,
                handler=self._stream,
                summary="Follow the VMs: server-sent events session, snapshot and delta.",
                content_type="text/event-stream",
            ),
        )

    async def _stream(self, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        packer = (
            Packer() if takes_gzip(call.request.headers.get("Accept-Encoding", "")) else Plain()
        )
        if isinstance(packer, Packer):
            response.headers["Content-Encoding"] = "gzip"
        is_writing = False
        async with self._guard.stream(call.the_grant):
            await response.prepare(call.request)
            async with contextlib.aclosing(self._messages(call.the_grant)) as messages:
                async for message in messages:
                    is_writing = True
                    try:
                        async with asyncio.timeout(_WRITE_TIMEOUT_S):
                            await response.write(packer.pack(message))
                    except ConnectionError:
                        # The client has gone, as every page does one day.
                        return response
                    except TimeoutError:
                        log.info("stream cut: its client does not read")
                        _cut(call.request)
                        return response
                    is_writing = False
        # The session has ended; the client may be gone.
        if is_writing:
            # It does not read, so there is no goodbye either: where aiohttp's wait for a reader was
            # cancelled, every later one is (3.14.5, BaseProtocol._drain_helper).
            _cut(call.request)
            return response
        try:
            async with asyncio.timeout(_GOODBYE_S):
                goodbye = _message("session", SessionEvent(is_over=True))
                await response.write(packer.pack(goodbye) + packer.end())
                await response.write_eof()
        except ConnectionError:
            pass
        except TimeoutError:
            _cut(call.request)
        return response

    async def _messages(self, grant: Grant) -> AsyncGenerator[bytes]:
        """Yield what is written: at first all, then what has changed, and signs of life."""
        shown: Mapping[str, VMView] | None = None
        rights: dict[str, list[str]] | None = None
        clock = asyncio.get_running_loop().time
        beat_at = ages_at = clock()
        async with contextlib.aclosing(self._fleet.changes(self._heartbeat_s)) as states:
            async for state in states:
                # Each time: his rights may be others by now.
                visible = {vm.vm_id: vm for vm in grant.visible(state.values())}
                messages = []
                if (now := rights_of(grant, visible)) != rights:
                    rights = now
                    messages.append(_message("session", SessionEvent(user=grant.user, rights=now)))
                if shown is None:
                    vms = [self._fleet.aged(vm) for vm in visible.values()]
                    messages.append(_message("snapshot", Snapshot(now=time.time(), vms=vms)))
                else:
                    delta = self._with_ages(difference(shown, visible), visible)
                    if not (delta.changed or delta.gone) and clock() - ages_at > self._ages_s:
                        ages_at = clock()
                        delta = Delta(changed=self._ages(visible))
                    if delta.changed or delta.gone:
                        messages.append(_message("delta", delta))
                shown = visible
                if not messages and clock() - beat_at >= self._heartbeat_s:
                    messages.append(_message("beat", {}))
                if messages:
                    beat_at = clock()
                    yield b"".join(messages)

    def _with_ages(self, delta: Delta, visible: Mapping[str, VMView]) -> Delta:
        """Return `delta` with the ages of VMs that are new or have started again."""
        changed = {
            vm_id: {**members, **_ages_of(self._fleet.aged(visible[vm_id]))}
            if "created_at" in members
            else members
            for vm_id, members in delta.changed.items()
        }
        return msgspec.structs.replace(delta, changed=changed)

    def _ages(self, shown: Mapping[str, VMView]) -> dict[str, dict[str, Any]]:
        ages = {vm_id: self._fleet.aged(vm).agent_age_s for vm_id, vm in shown.items()}
        return {vm_id: {"agent_age_s": age} for vm_id, age in ages.items() if age is not None}


def rights_of(grant: Grant, visible: Mapping[str, VMView]) -> dict[str, list[str]]:
    """Return the rights of somebody in the namespaces of the VMs that he sees: pure."""
    by_namespace = {vm.namespace: vm for vm in visible.values()}
    rights = {
        namespace: [right.value for right in CAPABILITIES if grant.allows(right, vm)]
        for namespace, vm in sorted(by_namespace.items())
    }
    if grant.allows(Right.NODE, None):
        rights[""] = [Right.NODE.value]
    return rights


def _cut(request: web.Request) -> None:
    """Close the connection at once: whatever is written to it still would wait for ever."""
    if request.transport is not None:
        request.transport.abort()


def _ages_of(vm: VMView) -> dict[str, Any]:
    ages = {"uptime_s": vm.uptime_s, "agent_age_s": vm.agent_age_s}
    return {name: value for name, value in ages.items() if value is not None}


def _message(event: str, value: object) -> bytes:
    # JSON of msgspec has no line breaks.
    return b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(value))
