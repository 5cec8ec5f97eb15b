"""HTTP downloads from a server that misbehaves."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from fakes.image_server import ImageServer, Resource

from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.address import AddressPolicy, parse_networks
from qemu_node.images.http.answer import Validators
from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.small import fetch_small, fetch_text
from qemu_node.images.http.transfer import Resume, transfer
from qemu_node.images.source.name import url_source
from qemu_node.images.source.remote import url_file

BODY = bytes(range(256)) * 20_000
LOCAL = AddressPolicy(allow=parse_networks(["127.0.0.0/8"], "test"))
PATIENT = FetchLimits(backoff_s=0.001)
ONCE = FetchLimits(retries=0)
HTTP = HttpSettings(limits=ONCE, addresses=LOCAL)
QUICK = FetchLimits(connect_s=2.0, stall_s=0.5, retries=0)


class Collector:
    """A sink in memory."""

    def __init__(self, content: bytes = b"") -> None:
        self.total: int | None = -1
        self.content = content
        self.begins: list[int] = []

    async def begin(
        self, offset_bytes: int, total_bytes: int | None, validators: Validators
    ) -> None:
        assert offset_bytes in (0, len(self.content))
        self.content = self.content[:offset_bytes]
        self.total = total_bytes
        self.begins.append(offset_bytes)

    async def write(self, *chunks: bytes) -> None:
        self.content += b"".join(chunks)


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


def source(url: str) -> HttpFile:
    return url_file(url_source(url, "image"), None)


async def fetched(
    url: str,
    *,
    known: Validators | None = None,
    max_bytes: int = 1 << 30,
    limits: FetchLimits = ONCE,
    resume: Resume | None = None,
    content: bytes = b"",
) -> tuple[Validators | None, Collector]:
    sink = Collector(content)
    validators = await transfer(
        source(url),
        sink,
        max_bytes=max_bytes,
        known=known,
        resume=resume,
        http=HttpSettings(limits=limits, addresses=LOCAL),
    )
    return validators, sink


async def test_file_arrives_whole_with_its_validators(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"', last_modified="yesterday"))
    validators, sink = await fetched(url)
    assert validators == Validators(etag='"1"', last_modified="yesterday")
    assert sink.content == BODY
    assert sink.total == len(BODY)
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_file_without_a_length_arrives_whole(server: ImageServer) -> None:
    validators, sink = await fetched(server.put("/x", Resource(body=BODY, has_length=False)))
    assert sink.content == BODY
    assert sink.total is None
    assert validators == Validators()


@pytest.mark.parametrize(
    ("known", "header"),
    [
        (Validators(etag='"1"', last_modified="yesterday"), "if-none-match"),
        (Validators(last_modified="yesterday"), "if-modified-since"),
    ],
)
async def test_unchanged_file_is_not_sent_again(
    server: ImageServer, known: Validators, header: str
) -> None:
    url = server.put("/x", Resource(body=BODY, etag=known.etag, last_modified="yesterday"))
    validators, sink = await fetched(url, known=known)
    assert validators is None
    assert sink.total == -1
    assert header in server.requests[0].headers


async def test_answer_not_modified_to_a_plain_request_is_refused(server: ImageServer) -> None:
    with pytest.raises(ImageRefusedError, match="HTTP 304"):
        await fetched(server.put("/x", Resource(status=304)))


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (Resource(body=BODY, break_after=70_000), "broke before the end"),
        (Resource(body=BODY, content_length=len(BODY) + 1), "broke before the end"),
        (Resource(status=500), "HTTP 500"),
        (Resource(status=503), "HTTP 503"),
        (Resource(status=429), "HTTP 429"),
        (Resource(garbage=b""), "broke before the end"),
        (Resource(garbage=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not valid HTTP"),
        (Resource(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), "not valid HTTP"),
    ],
    ids=str,
)
async def test_broken_answer_is_worth_a_retry(
    server: ImageServer, resource: Resource, reason: str
) -> None:
    with pytest.raises(ImageDownloadError, match=reason) as error:
        await fetched(server.put("/x", resource))
    assert error.value.retry


@pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 410])
async def test_refusal_is_not_worth_a_retry(server: ImageServer, status: int) -> None:
    body = b"" if status == 204 else b"a page that nobody should see"
    url = server.put("/x", Resource(status=status, body=body))
    with pytest.raises(ImageRefusedError, match=f"HTTP {status}") as error:
        await fetched(url)
    assert not error.value.retry
    assert "page" not in str(error.value)
    assert error.value.is_denial == (status in (401, 403))


@pytest.mark.parametrize("coding", ["", "aws-chunked", "utf-8", "none"])
async def test_label_that_is_no_coding_is_ignored(server: ImageServer, coding: str) -> None:
    resource = Resource(body=BODY, headers={"Content-Encoding": coding})
    _, sink = await fetched(server.put("/x", resource))
    assert sink.content == BODY


async def test_compressed_file_that_is_labelled_as_such_arrives_as_it_is(
    server: ImageServer,
) -> None:
    resource = Resource(body=b"\x1f\x8b", headers={"Content-Encoding": "x-gzip"})
    url = server.put("/latest", Resource(redirect_to=server.put("/disk.img.gz", resource)))
    _, sink = await fetched(url)
    assert sink.content == b"\x1f\x8b"


async def test_headers_may_be_as_long_as_those_of_a_cdn(server: ImageServer) -> None:
    long = {"Content-Security-Policy": "x" * (64 << 10)}
    many = {f"X-{number}": "y" for number in range(300)}
    _, sink = await fetched(server.put("/x", Resource(body=BODY, headers=long | many)))
    assert sink.content == BODY


async def test_redirect_to_a_name_with_blanks_is_followed(server: ImageServer) -> None:
    server.publish("/my%20images/gr%C3%BCn%201.img", BODY)
    _, sink = await fetched(server.put("/x", Resource(redirect_to="/my images/grün 1.img")))
    assert sink.content == BODY


@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("times", [1, 3])
async def test_redirector_is_asked_again_where_a_mirror_lacks_the_file(
    server: ImageServer, status: int, times: int
) -> None:
    stale = server.put("/stale", Resource(status=status))
    redirect = Resource(redirect_to=server.publish("/good", BODY))
    for _ in range(times):
        redirect = Resource(redirect_to=stale, then=redirect)
    _, sink = await fetched(server.put("/x", redirect))
    assert sink.content == BODY


async def test_mirrors_are_tried_a_few_times(server: ImageServer) -> None:
    redirect = Resource(redirect_to="/gone-0")
    for number in range(1, 9):
        redirect = Resource(redirect_to=f"/gone-{number}", then=redirect)
    with pytest.raises(ImageRefusedError, match="HTTP 404"):
        await fetched(server.put("/x", redirect))
    assert len(server.gets("/x")) == ONCE.mirrors
    with pytest.raises(ImageRefusedError, match="HTTP 404"):
        await fetched(server.put("/y", Resource(redirect_to="/gone")))
    assert len(server.gets("/y")) == ONCE.mirrors


@pytest.mark.parametrize(("status", "has_header"), [(301, True), (400, True), (400, False)])
async def test_bucket_of_another_region_is_named(
    server: ImageServer, status: int, has_header: bool
) -> None:
    headers = {"x-amz-bucket-region": "eu-central-1"} if has_header else {}
    body = b"<Error><Region>eu-central-1</Region></Error>"
    url = server.put("/x", Resource(status=status, body=body, headers=headers))
    with pytest.raises(ImageRefusedError, match="region eu-central-1") as error:
        await fetched(url)
    assert "eu-central-1" in (error.value.hint or "")


async def test_encoded_body_is_refused(server: ImageServer) -> None:
    resource = Resource(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    with pytest.raises(ImageRefusedError, match="encoded"):
        await fetched(server.put("/x", resource))


async def test_bucket_of_another_region_is_named_to_whom_a_redirect_made_a_stranger(
    server: ImageServer,
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Region>eu-central-1</Region></Error>"
    async with ImageServer.running() as other:
        there = other.put("/there", Resource(status=403, body=body))
        with pytest.raises(ImageRefusedError, match="region eu-central-1"):
            await fetched(server.put("/x", Resource(redirect_to=there)))


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_that_is_labelled_as_encoded_and_is_not_is_taken(
    server: ImageServer, coding: str
) -> None:
    headers = {"Content-Encoding": coding}
    resource = Resource(body=BODY, headers=headers, etag='"1"', break_at=[3_000_001])
    _, sink = await fetched(server.put("/x", resource), limits=PATIENT)
    assert sink.content == BODY
    url = server.put("/SUMS", Resource(body=b"aa  x", headers=headers))
    assert await fetch_text(source(url), http=HTTP) == "aa  x"


@pytest.mark.parametrize("has_length", [True, False])
async def test_too_large_a_file_is_given_up(server: ImageServer, has_length: bool) -> None:
    url = server.put("/x", Resource(body=BODY, has_length=has_length))
    with pytest.raises(ImageRefusedError, match="larger than"):
        await fetched(url, max_bytes=len(BODY) - 1)


async def test_silent_source_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, pause_at=100_000))
    with pytest.raises(ImageDownloadError, match=r"too little for 0\.5 s"):
        await fetched(url, limits=QUICK)


async def test_source_that_drips_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, drip_s=0.01))
    with pytest.raises(ImageDownloadError, match=r"too little for 0\.5 s"):
        await fetched(url, limits=QUICK)


async def test_small_file_that_drips_faster_than_a_stall_is_given_up(server: ImageServer) -> None:
    url = server.put("/SUMS", Resource(body=BODY, drip_s=0.01))
    patient = replace(ONCE, small_s=0.5, stall_s=60.0, stall_bytes=1)
    with pytest.raises(ImageDownloadError, match=r"longer than 0\.5 s"):
        await fetch_text(source(url), http=HttpSettings(limits=patient, addresses=LOCAL))


async def test_source_that_sends_no_answer_is_given_up(server: ImageServer) -> None:
    connected = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(ImageDownloadError, match="too little"):
            await fetched(f"http://127.0.0.1:{port}/x", limits=QUICK)
    assert connected.is_set()


async def test_source_that_is_down_is_worth_a_retry(server: ImageServer) -> None:
    url = server.url("/x")
    await server.stop()
    with pytest.raises(ImageDownloadError, match=r"no connection to 127\.0\.0\.1:\d+: ") as error:
        await fetched(url)
    assert error.value.retry


async def test_redirects_are_followed(server: ImageServer) -> None:
    server.publish("/final", BODY)
    server.put("/2", Resource(redirect_to="final"))
    url = server.put("/1", Resource(redirect_to=server.url("/2")))
    _, sink = await fetched(url)
    assert sink.content == BODY


async def test_redirects_end_after_five(server: ImageServer) -> None:
    url = server.put("/x", Resource(redirect_to="/x"))
    with pytest.raises(ImageRefusedError, match="more than 5 times"):
        await fetched(url)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target", ["file:///etc/shadow", "ftp://host/x", "gopher://host/", "http://[::1/"]
)
async def test_redirect_to_something_else_is_refused(server: ImageServer, target: str) -> None:
    with pytest.raises(ImageRefusedError, match="redirects to"):
        await fetched(server.put("/x", Resource(redirect_to=target)))


async def test_credentials_go_to_the_host_that_they_are_for(server: ImageServer) -> None:
    server.put("/x", Resource(body=BODY, password="pw"))
    await fetched(f"http://user:p%40w@127.0.0.1:{server.port}/x")
    sent = server.requests[0].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:p@w"


async def test_credentials_do_not_follow_a_redirect_elsewhere(server: ImageServer) -> None:
    async with ImageServer.running() as other:
        target = other.publish("/x", BODY)
        server.put("/x", Resource(redirect_to=target.replace("http://", "http://eve:1@")))
        await fetched(f"http://user:pw@127.0.0.1:{server.port}/x")
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in other.requests[0].headers


async def test_credentials_do_not_come_back_by_way_of_another_host(server: ImageServer) -> None:
    async with ImageServer.running() as other:
        back = other.put("/x", Resource(redirect_to=server.publish("/private", BODY)))
        server.put("/x", Resource(redirect_to=back))
        await fetched(f"http://user:pw@127.0.0.1:{server.port}/x")
        sent = ["authorization" in request.headers for request in server.requests]
        assert sent == [True, False]


@pytest.mark.parametrize(
    "resource",
    [
        Resource(status=404),
        Resource(status=500),
        Resource(garbage=b"nonsense\r\n\r\n"),
        Resource(body=BODY, break_after=10),
        Resource(redirect_to="/x"),
        Resource(redirect_to="http://user:hunter2@[::1/"),
    ],
    ids=str,
)
async def test_failure_shows_no_secret(server: ImageServer, resource: Resource) -> None:
    server.put("/x?token=hunter2", resource)
    with pytest.raises((ImageDownloadError, ImageRefusedError)) as error:
        await fetched(f"http://user:hunter2@127.0.0.1:{server.port}/x?token=hunter2")
    assert "hunter2" not in error.value.explain()


async def test_text_is_fetched_up_to_its_cap(server: ImageServer) -> None:
    url = server.publish("/SUMS", b"caf\xc3\xa9 \xff")
    assert await fetch_text(source(url), http=HTTP) == "cafÃ© ÿ"
    url = server.publish("/SUMS", bytes((1 << 20) + 1))
    with pytest.raises(ImageRefusedError, match="larger"):
        await fetch_text(source(url), http=HTTP)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
async def test_text_may_be_saved_in_unicode_with_or_without_a_mark(
    server: ImageServer, encoding: str, mark: str
) -> None:
    url = server.publish("/SUMS", f"{mark}aa  ü.img\r\n".encode(encoding))
    assert await fetch_text(source(url), http=HTTP) == "aa  ü.img\r\n"


@pytest.mark.parametrize(("encoding", "mark"), [("utf-32-le", "\ufeff"), ("cp1252", "")])
async def test_text_may_be_saved_in_other_encodings(
    server: ImageServer, encoding: str, mark: str
) -> None:
    url = server.publish("/SUMS", f"{mark}aa  ü.img\r\n".encode(encoding))
    assert await fetch_text(source(url), http=HTTP) == "aa  ü.img\r\n"


async def test_download_goes_on_where_its_connection_broke(server: ImageServer) -> None:
    resource = Resource(body=BODY, etag='"1"', last_modified="monday", break_at=[3_000_001, 70_000])
    validators, sink = await fetched(server.put("/x", resource), limits=PATIENT)
    assert sink.content == BODY
    # What had arrived and not been read yet when the connection broke is sent again.
    assert [begin > 0 for begin in sink.begins] == [False, True, True]
    assert sink.begins[1] <= 3_000_001
    assert validators == Validators(etag='"1"', last_modified="monday")
    second = server.requests[1].headers
    assert (second["range"], second["if-range"]) == (f"bytes={sink.begins[1]}-", '"1"')


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
async def test_download_without_a_strong_validator_starts_over(
    server: ImageServer, etag: str | None
) -> None:
    resource = Resource(body=BODY, etag=etag, last_modified="monday", break_at=[2_000_000])
    _, sink = await fetched(server.put("/x", resource), limits=PATIENT)
    assert sink.content == BODY
    assert sink.begins == [0, 0]
    assert all("range" not in request.headers for request in server.requests)


@pytest.mark.parametrize("ranges", ["honest", "blind", "nameless", "ignored"])
@pytest.mark.parametrize("length", [len(BODY), len(BODY) + 1, 1_500_000, 10])
async def test_download_of_a_file_that_changed_meanwhile_starts_over(
    server: ImageServer, ranges: str, length: int
) -> None:
    new = bytes(reversed(BODY))[:length].ljust(length, b"n")
    changed = Resource(body=new, etag='"2"', ranges=ranges)
    url = server.put("/x", Resource(body=BODY, etag='"1"', break_at=[2_000_000], then=changed))
    validators, sink = await fetched(url, limits=PATIENT)
    assert sink.content == new
    assert validators == Validators(etag='"2"')


@pytest.mark.parametrize("ranges", ["shifted", "unlabelled", "nameless"])
async def test_part_that_was_not_asked_for_is_not_taken(server: ImageServer, ranges: str) -> None:
    resource = Resource(body=BODY, etag='"1"', break_at=[2_000_000], ranges=ranges)
    _, sink = await fetched(server.put("/x", resource), limits=PATIENT)
    assert sink.content == BODY
    assert sink.begins == [0, 0]


async def test_download_of_an_earlier_process_goes_on(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"'))
    resume = Resume(offset_bytes=1_000_000, etag='"1"', total_bytes=len(BODY))
    validators, sink = await fetched(url, resume=resume, content=BODY[:1_000_000])
    assert sink.content == BODY
    assert (sink.begins, sink.total) == ([1_000_000], len(BODY))
    assert validators == Validators(etag='"1"')
    assert len(server.requests) == 1


async def test_download_that_was_complete_already_is_not_made_again(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"'))
    resume = Resume(offset_bytes=len(BODY), etag='"1"', total_bytes=None)
    validators, sink = await fetched(url, resume=resume, content=BODY)
    assert (sink.content, sink.begins) == (BODY, [])
    assert validators == Validators(etag='"1"')


async def test_a_length_alone_does_not_make_a_part_of_another_version_complete(
    server: ImageServer,
) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"2"', ranges="nameless"))
    resume = Resume(offset_bytes=len(BODY), etag='"1"', total_bytes=None)
    _, sink = await fetched(url, resume=resume, content=bytes(len(BODY)), limits=PATIENT)
    assert sink.content == BODY


async def test_more_than_the_file_holds_starts_over(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"', ranges="blind"))
    resume = Resume(offset_bytes=len(BODY) + 5, etag='"1"', total_bytes=None)
    _, sink = await fetched(url, resume=resume, content=BODY + b"extra", limits=PATIENT)
    assert sink.content == BODY


async def test_unchanged_file_is_not_sent_though_a_part_of_another_is_there(
    server: ImageServer,
) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"'))
    resume = Resume(offset_bytes=10, etag='"0"', total_bytes=None)
    validators, _ = await fetched(url, known=Validators(etag='"1"'), resume=resume)
    assert validators is None


async def test_source_that_breaks_off_at_the_same_byte_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, break_after=2_000_000))
    with pytest.raises(ImageDownloadError, match="broke before the end"):
        await fetched(url, limits=PATIENT)
    assert len(server.requests) <= PATIENT.retries + 2


async def test_source_that_gains_each_time_is_asked_as_often_as_it_takes(
    server: ImageServer,
) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"', break_after=400_000))
    _, sink = await fetched(url, limits=PATIENT)
    assert sink.content == BODY
    assert len(server.requests) > PATIENT.retries + 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
async def test_server_that_is_busy_is_asked_again(server: ImageServer, status: int) -> None:
    resource = Resource(body=BODY, refuse_first=2, refuse_status=status)
    _, sink = await fetched(server.put("/x", resource), limits=PATIENT)
    assert sink.content == BODY
    assert len(server.requests) == 3


async def test_server_that_stays_busy_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(status=503))
    with pytest.raises(ImageDownloadError, match="HTTP 503"):
        await fetched(url, limits=PATIENT)
    assert len(server.requests) == PATIENT.retries + 1


async def test_server_is_asked_again_when_it_wants_to_be(server: ImageServer) -> None:
    resource = Resource(body=BODY, refuse_first=1, refuse_headers={"Retry-After": "1"})
    url = server.put("/x", resource)
    began = asyncio.get_running_loop().time()
    await fetched(url, limits=PATIENT)
    assert asyncio.get_running_loop().time() - began >= 1.0


async def test_server_that_wants_us_to_wait_too_long_is_given_up_at_once(
    server: ImageServer,
) -> None:
    resource = Resource(refuse_first=1, refuse_headers={"Retry-After": "3600"})
    with pytest.raises(ImageDownloadError, match="HTTP 503") as error:
        await fetched(server.put("/x", resource), limits=PATIENT)
    assert error.value.retry_after_s == 3600
    assert len(server.requests) == 1


async def test_question_whether_a_file_changed_is_asked_once(server: ImageServer) -> None:
    url = server.put("/x", Resource(status=500))
    with pytest.raises(ImageDownloadError):
        await fetched(url, known=Validators(etag='"1"'), limits=PATIENT)
    assert len(server.requests) == 1


async def test_download_that_takes_too_long_in_all_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, pause_at=2_000_000))
    with pytest.raises(ImageDownloadError, match=r"longer than 0\.5 s") as error:
        await fetched(url, limits=FetchLimits(total_s=0.5))
    assert "download_timeout" in error.value.explain()


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("[::1]", "loopback"),
        ("0.0.0.0", "not the address of a host"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("169.254.169.254", "link-local"),
        ("[fe80::1]", "link-local"),
        ("224.0.0.1", "multicast"),
        ("[fd00:ec2::254]", "metadata"),
    ],
)
async def test_address_that_is_not_for_images_is_not_connected_to(
    server: ImageServer, host: str, why: str
) -> None:
    server.publish("/x", BODY)
    file = source(f"http://{host}:{server.port}/x")
    with pytest.raises(ImageRefusedError, match=why) as error:
        await transfer(
            file,
            Collector(),
            max_bytes=1 << 30,
            http=HttpSettings(limits=ONCE),
        )
    assert not error.value.retry
    assert server.requests == []


async def test_address_is_judged_on_each_hop(server: ImageServer) -> None:
    async with ImageServer.running() as inner:
        inner.publish("/secret", BODY)
        target = f"http://localhost:{inner.port}/secret"
        url = server.put("/x", Resource(redirect_to=target.replace("localhost", "127.0.0.2")))
        policy = AddressPolicy(allow=parse_networks(["127.0.0.1"], "test"))
        with pytest.raises(ImageRefusedError, match=r"127\.0\.0\.2, a loopback address"):
            await transfer(
                source(url),
                Collector(),
                max_bytes=1 << 30,
                http=HttpSettings(limits=ONCE, addresses=policy),
            )
        assert inner.requests == []


@pytest.mark.parametrize("more", [-1, 1])
async def test_file_without_a_length_is_measured_by_what_it_should_have(
    server: ImageServer, more: int
) -> None:
    file = source(server.put("/x", Resource(body=BODY, has_length=False)))
    right = replace(file, size_bytes=len(BODY))
    sink = Collector()
    await transfer(right, sink, max_bytes=1 << 30, http=HTTP)
    assert sink.total == len(BODY)
    wrong = replace(file, size_bytes=len(BODY) + more)
    with pytest.raises(ImageDownloadError):
        await transfer(wrong, Collector(), max_bytes=1 << 30, http=HTTP)


async def test_small_answer_has_its_headers_and_who_gave_it(server: ImageServer) -> None:
    async with ImageServer.running() as other:
        target = other.put("/y", Resource(body=b"{}", headers={"X-A": "1"}))
        url = server.put("/x", Resource(redirect_to=target))
        answer = await fetch_small(source(url), http=HTTP)
    assert (answer.status, answer.body, answer.is_foreign) == (200, b"{}", True)
    assert answer.headers["x-a"] == "1"
    url = server.put("/x", Resource(status=401, headers={"WWW-Authenticate": "Bearer a=1"}))
    answer = await fetch_small(source(url), http=HTTP)
    assert (answer.status, answer.is_foreign) == (401, False)
    assert answer.headers["www-authenticate"] == "Bearer a=1"


async def test_signature_that_has_run_out_is_renewed_once(server: ImageServer) -> None:
    token = "old"
    renewals = 0

    async def renew() -> None:
        nonlocal token, renewals
        token, renewals = "new", renewals + 1

    resource = Resource(body=BODY, refuse_first=1, refuse_status=401)
    file = HttpFile(
        url=server.put("/x", resource),
        shown="x",
        sign=lambda method, _url: {"Authorization": f"{method} {token}"},
        renew=renew,
    )
    await transfer(file, Collector(), max_bytes=1 << 30, http=HTTP)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["GET old", "GET new"]
    resource.refuse_first = 5
    with pytest.raises(ImageRefusedError, match="HTTP 401"):
        await transfer(file, Collector(), max_bytes=1 << 30, http=HTTP)
    assert renewals == 2
