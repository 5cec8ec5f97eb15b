"""`GET /metrics`.

Owns sending: a client that does not read is given up, and few are sent to at a time. Does not own
what is sent (`scrape`), nor who may have it (`access.guard`, `scrapers`).
"""

import asyncio
import logging

from aiohttp import web

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.frame.route import Call, Route
from qemu_node.web.http.headers import takes_gzip
from qemu_node.web.http.problems import Problem
from qemu_node.web.metrics.scrape import Exposition, Scraper

log = logging.getLogger(__name__)

PATH = "/metrics"
SEND_S = 10.0
"""Prometheus itself gives up after ten seconds (scrape_timeout)."""
SENDING_MAX = 16


class MetricsRoutes:
    """The handler."""

    def __init__(
        self, scraper: Scraper, *, send_s: float = SEND_S, sending_max: int = SENDING_MAX
    ) -> None:
        self._scraper = scraper
        self._send_s = send_s
        self._sending_max = sending_max
        self._sending = 0

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path=PATH,
                right=Right.METRICS,
                handler=self._show,
                summary="Tell the figures of the node and its VMs, for Prometheus.",
                content_type="text/plain",
            ),
        )

    async def _show(self, call: Call) -> web.StreamResponse:
        if self._sending >= self._sending_max:
            raise Problem(
                503,
                "too-many-scrapes",
                "too many programs collect the figures, or do not read them",
                hint="one Prometheus asks once in 15 s",
            )
        self._sending += 1
        try:
            request = call.request
            exposition = await self._scraper.get(
                request.headers.get("Accept", ""),
                is_gzip=takes_gzip(request.headers.get("Accept-Encoding", "")),
            )
            return await self._send(request, exposition)
        finally:
            self._sending -= 1

    async def _send(self, request: web.Request, exposition: Exposition) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": exposition.content_type,
                "Cache-Control": "no-store",
                "Vary": "Accept, Accept-Encoding",
            }
        )
        if exposition.is_gzip:
            response.headers["Content-Encoding"] = "gzip"
        response.content_length = len(exposition.body)
        try:
            async with asyncio.timeout(self._send_s):
                await response.prepare(request)
                await response.write(exposition.body)
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            log.info("a scrape was given up: its client has gone, or does not read")
            if request.transport is not None:
                request.transport.abort()
        return response
