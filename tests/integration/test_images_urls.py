"""Hostile text as a URL through every way in: a job, a SUMS file, a redirect, a token service.

No name is resolved and nothing but loopback is connected to.
"""

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

import pytest
from fakes.hostile_urls import hostile_rest, hostile_urls
from fakes.http_peer import HttpPeer, PeerRequest, Reply
from fakes.image_server import ImageServer, Resource
from hypothesis import HealthCheck, example, given, settings

from qemu_node.errors import ImageError, JobError
from qemu_node.images.http.address import AddressPolicy, parse_networks
from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.small import fetch_small, fetch_text
from qemu_node.images.registry.oci import resolve_oci
from qemu_node.images.source.checksum import parse_checksum
from qemu_node.images.source.name import OciSource, UrlSource, parse_source
from qemu_node.images.source.remote import url_file

NOWHERE = AddressPolicy(
    allow=parse_networks(["127.0.0.1"], "test"),
    refuse=parse_networks(["::/0", "0.0.0.0/0"], "test"),
)
LIMITS = FetchLimits(connect_s=5.0, stall_s=5.0, retries=0, redirects=2)
HTTP = HttpSettings(limits=LIMITS, addresses=NOWHERE)
CALM = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HOSTILE_HOSTS = (f"{'a' * 70}/x", "a..b/x", "a\\b/x", "[::1].x/x", "[::1/x", "é\u2100/x")


def with_hosts(prefix: str) -> Callable[[Any], Any]:
    def decorate(test: Any) -> Any:
        return functools.reduce(lambda t, host: example(prefix + host)(t), HOSTILE_HOSTS, test)

    return decorate


@pytest.fixture(autouse=True)
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name means 192.0.2.1, which is refused; what no resolver takes still raises."""

    def getaddrinfo(host: str, port: int, *_args: object, **_kw: object) -> list[Any]:
        host.encode("idna")  # As the real one does.
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def fetched(file: HttpFile) -> None:
    with pytest.raises(ImageError) as error:
        await fetch_text(file, http=HTTP)
    # The library took what we took for a URL.
    assert "not valid HTTP" not in str(error.value)


@CALM
@with_hosts("http://")
@given(hostile_urls)
def test_a_jobs_image_is_fetched_or_refused(text: str) -> None:
    try:
        source = parse_source(text)
    except JobError:
        return
    if isinstance(source, UrlSource):
        asyncio.run(fetched(url_file(source, None)))


@CALM
@with_hosts("http://")
@given(hostile_urls)
def test_a_sums_file_is_fetched_or_refused(text: str) -> None:
    try:
        source = parse_checksum(text)
    except JobError:
        return
    assert isinstance(source, UrlSource)
    asyncio.run(fetched(url_file(source, None)))


@CALM
@with_hosts("//")
@given(hostile_urls)
def test_a_redirect_is_followed_or_refused(location: str) -> None:
    location = "".join(char for char in location if char not in "\r\n\0")

    async def follow() -> None:
        async with ImageServer.running() as server:
            url = server.put("/x", Resource(redirect_to=location))
            try:
                await fetch_text(
                    HttpFile(url=url, shown="x"),
                    http=HTTP,
                )
            except ImageError:
                return
            raise AssertionError("there is nothing to be had")

    asyncio.run(follow())


class Asking(HttpPeer):
    """A registry that names a token service."""

    realm = ""

    def answer(self, request: PeerRequest) -> Reply:
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{self.realm}"'})


@CALM
@with_hosts("http://")
@given(hostile_urls)
def test_a_token_service_is_asked_or_refused(realm: str) -> None:
    async def ask() -> None:
        async with Asking.running() as registry:
            registry.realm = "".join(
                char for char in realm if char not in '\r\n\0"' and not "\ud800" <= char <= "\udfff"
            )
            small = functools.partial(fetch_small, http=HTTP)
            with pytest.raises(ImageError):
                await resolve_oci(OciSource(registry.host, "a", "b"), None, fetch_small=small)

    asyncio.run(ask())


@CALM
@given(hostile_rest)
def test_a_registry_is_asked_or_refused(rest: str) -> None:
    try:
        source = parse_source(f"oci://{rest}")
    except JobError:
        return
    assert isinstance(source, OciSource)
    small = functools.partial(fetch_small, http=HTTP)
    with pytest.raises(ImageError):
        asyncio.run(resolve_oci(source, None, fetch_small=small))
