"""The routes of the page: `/`, its files, and the icon. They are open, for they hold no secret.

Does not own their Content-Security-Policy (`http.headers`).
"""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.web.frame.application import has_version
from qemu_node.web.frame.route import Call, Route
from qemu_node.web.http.headers import takes_gzip
from qemu_node.web.http.problems import Problem
from qemu_node.web.page.pagefiles import ASSETS, PageFile, PageFiles, read_page

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_EACH_TIME = "no-cache"


class PageRoutes:
    """The handlers. The files are read when somebody asks for the first time."""

    def __init__(self, files: PageFiles | None = None) -> None:
        """Serve `files`; by default those of this package."""
        self._files = files
        self._reading = asyncio.Lock()

    async def _page(self) -> PageFiles:
        async with self._reading:
            if self._files is None:
                self._files = await to_the_end(read_page)
            return self._files

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/",
                right=None,
                handler=self._index,
                summary="The page.",
                content_type="text/html",
            ),
            Route(
                method="GET",
                path=f"{ASSETS}/{{version}}/{{path:.+}}",
                right=None,
                handler=self._asset,
                summary="A file of the page.",
                content_type="text/javascript",
            ),
            Route(
                method="GET",
                path="/favicon.ico",
                right=None,
                handler=self._icon,
                summary="The page's icon.",
                content_type="image/svg+xml",
            ),
        )

    async def _index(self, call: Call) -> web.Response:
        return _answer(call.request, (await self._page()).index, _ASK_EACH_TIME)

    async def _icon(self, call: Call) -> web.Response:
        return _answer(call.request, (await self._page()).icon, _ASK_EACH_TIME)

    async def _asset(self, call: Call) -> web.Response:
        page, asked = await self._page(), call.request.match_info
        found = page.assets.get(asked["path"]) if asked["version"] == page.version else None
        if found is None:
            raise Problem(
                404,
                "no-such-file",
                "the page has no such file",
                hint="after an upgrade of the console: load the page again",
            )
        return _answer(call.request, found, _FOR_EVER)


def _answer(request: web.Request, file: PageFile, cache_control: str) -> web.Response:
    headers = {
        "Cache-Control": cache_control,
        "ETag": f'"{file.etag}"',
        "Vary": "Accept-Encoding",
    }
    if has_version(request, file.etag):
        # With its type: a browser takes the headers of this answer, of which one is the policy that
        # depends on it.
        return web.Response(status=304, content_type=file.content_type, headers=headers)
    if takes_gzip(request.headers.get("Accept-Encoding", "")):
        headers["Content-Encoding"] = "gzip"
        body = file.packed
    else:
        body = file.data
    return web.Response(body=body, content_type=file.content_type, charset="utf-8", headers=headers)
