"""The web console as its users find it: whether it answers, and whether it reaches its Nomad.

Owns asking the daemon, and the judgement. Nothing is checked where no daemon runs.
"""

import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from qemu_node.cli.doctor.checks import Check, ok, warn
from qemu_node.config.node import NodeConfig
from qemu_node.text import DECODE_ERRORS

_TIMEOUT_S = 20.0
"""The daemon itself waits ten seconds for Nomad."""
_ANSWER_MAX_BYTES = 64 << 10
_PAGE = "docs/console.md, Nomad's API"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleFacts:
    """What the daemon says."""

    address: str
    """Host and port."""
    problem: str | None = None
    """Why it does not answer."""
    ways: tuple[str, ...] = ()
    """How one can log in."""
    why: str = ""
    """What is in the way of a login."""


class _Ways(msgspec.Struct):
    """GET /api/v1/login."""

    ways: tuple[str, ...] = ()
    why: str = ""


def judge_console(facts: ConsoleFacts | None) -> Iterator[Check]:
    """Yield the check of a console; None: no daemon runs."""
    if facts is None:
        return
    if facts.problem is not None:
        yield warn(
            "console",
            f"https://{facts.address} does not answer: {facts.problem}",
            "journalctl -u qemu-node says why",
        )
    elif facts.why:
        yield warn("console", f"nobody can log in: {facts.why}", _PAGE)
    else:
        yield ok("console", f"https://{facts.address}, login by {', '.join(facts.ways)}")


def read_console(config: NodeConfig) -> ConsoleFacts | None:
    """Return what the daemon of `config` says of logins; None if none runs."""
    try:
        certificate = config.paths.console_certificate.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    host = config.web.addresses[0] if config.web.addresses else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    address = f"{shown}:{config.web.port}"
    try:
        ways = _ask(host, config.web.port, certificate)
    except (OSError, http.client.HTTPException, *DECODE_ERRORS) as exc:
        # ssl.SSLError is an OSError.
        return ConsoleFacts(address=address, problem=str(exc) or type(exc).__name__)
    return ConsoleFacts(address=address, ways=ways.ways, why=ways.why)


def _ask(host: str, port: int, certificate: str) -> _Ways:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It shows the certificate that it has published, whoever has signed it and whatever it names.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/api/v1/login")
        response = connection.getresponse()
        data = response.read(_ANSWER_MAX_BYTES)
    finally:
        connection.close()
    if response.status != 200:
        raise http.client.HTTPException(f"status {response.status}")
    return msgspec.json.decode(data, type=_Ways)
