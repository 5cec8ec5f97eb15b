"""What strangers may send to the port of a real daemon, byte by byte."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.test_web_daemon_end import VM_IDS, Daemon, log_in, published

_PATHS = [
    # Fault S1: a path in the place of an id.
    "/api/v1/vms/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/api/v1/vms/..%2f..%2fvm%2f{vm}%2fmonitor.sock/screen",
    "/api/v1/vms/%2e%2e/{vm}/screen",
    "/api/v1/vms/%252e%252e%252fmonitor/serial",
    "/api/v1/vms/..%5c..%5cx/log",
    "/api/v1/vms/{vm}%00/log",
    "/api/v1/vms/{vm}/../../../etc/passwd",
    "/api/v1/vms/{vm}/paste/..%2f..%2fx",
    "/assets/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2fetc%2fpasswd",
    "/assets/x/..%2f..%2fservice%2fdaemon.py",
    "/assets/x//etc/passwd",
    "/vnc/..%2f..%2fdata%2fnomad%2falloc%2fx%2fvm%2fqm",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/\\..\\..\\etc",
    "http://evil.example/api/v1/vms",
    "/api/v1/vms?token=secret",
    "/" + "a" * 7000,
]

_GARBAGE = [
    b"\x00" * 64 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA\x00b: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: " + b"a=b; " * 1500 + b"\r\n\r\n",
    b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\n"
    b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nffffffffffffffff\r\n",
    b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\n"
    b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60_000,
    b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 99\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-QN: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"GET /oidc/callback?state=%ff&code=%00&iss=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


@pytest.fixture
async def daemon(short_tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(short_tmp_path)
    async with published(daemon.paths, VM_IDS[:1]):
        daemon.start()
        await daemon.ready()
        yield daemon
        await daemon.end(signal.SIGKILL)


async def said(daemon: Daemon, data: bytes) -> bytes:
    """Return the beginning of what the console answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(daemon.origin.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(data)
        async with asyncio.timeout(60):
            return await reader.read(4096)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_no_stranger_gets_a_file_a_traceback_or_a_long_log(daemon: Daemon) -> None:
    async with await log_in(daemon) as session:
        cookie = "; ".join(f"{morsel.key}={morsel.value}" for morsel in session.cookie_jar).encode()
    before = len(daemon.log())
    for path in _PATHS:
        asked = path.format(vm=VM_IDS[0]).encode()
        head = b"GET " + asked + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        for more in (b"", b"Cookie: " + cookie + b"\r\n"):
            answer = await said(daemon, head + more + b"\r\n")
            status = answer.partition(b" ")[2][:3]
            assert status in (b"400", b"401", b"403", b"404", b"421"), (path, answer)
            assert b"root:" not in answer
    for data in _GARBAGE:
        answer = await said(daemon, data)
        assert b" 500 " not in answer.partition(b"\r\n")[0], (data[:80], answer)
        assert b"Traceback" not in answer
        assert b"aiohttp" not in answer, (data[:80], answer)
        assert b"Python" not in answer, (data[:80], answer)
    log = daemon.log()[before:]
    assert "Traceback" not in log, log
    assert len(log) < 200 * (2 * len(_PATHS) + len(_GARBAGE)), log
    # It serves as before.
    async with await log_in(daemon):
        pass
