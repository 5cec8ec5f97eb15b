"""A certificate of the node's own, where nobody has given one.

Owns making it, by openssl(1), and renewing it before it ends, or if it does not count yet. Key and
certificate are one file, so that a power cut leaves both or none. Browsers do not know who signed
it: its fingerprint is shown where only the node's administrators look.
"""

import contextlib
import ipaddress
import logging
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.host.process.command import run, run_blocking
from qemu_node.web.http.listener.nodenames import own_addresses

log = logging.getLogger(__name__)

DAYS = 397
"""Browsers accept no certificate that counts for longer (CA/Browser Forum, 6.3.2 until 2026)."""
RENEW_DAYS = 30
FILE_NAME = "certificate.pem"

_NEW = ".new-"
_TIMEOUT_S = 30.0
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62})")


async def ensure(directory: Path, names: Sequence[str]) -> Path:
    """Return the file with key and certificate; make it if it is missing, or its dates are bad.

    Args:
        directory: Of this process alone.
        names: By which people reach the node.

    Raises:
        MissingPartError: openssl is not installed.
        HostError: the certificate cannot be made or written.
    """
    path = directory / FILE_NAME
    if await _is_good(path, RENEW_DAYS, must_count_now=True):
        return path
    try:
        await to_the_end(_make, path, names)
    except NodeError as exc:
        # A full disk, say: the one that is there counts for some days still.
        if not await _is_good(path, 0, must_count_now=False):
            raise
        log.warning("the certificate is not renewed", extra={"path": str(path), "error": str(exc)})
        return path
    log.info("made a certificate", extra={"path": str(path), "days": DAYS})
    return path


async def _is_good(path: Path, days: int, *, must_count_now: bool) -> bool:
    """Tell whether there is a certificate that does not end for so many days.

    One that was made while the clock was ahead does not count yet (`must_count_now`).
    """
    if not await to_the_end(path.exists):
        return False
    # fmt: off
    argv = [
        "openssl", "x509", "-in", str(path), "-noout", "-startdate",
        "-checkend", str(days * 86400),
    ]
    # fmt: on
    try:
        done = await run(argv, timeout_s=_TIMEOUT_S, check=False)
    except MissingPartError:
        # Nothing could make a better one.
        return True
    if done.returncode != 0:
        return False
    return not must_count_now or begins_at(done.stdout.decode(errors="replace")) <= time.time()


def begins_at(said: str) -> float:
    """Return the Unix time in what `openssl x509 -startdate` says: pure.

    0 if it says nothing of the kind: then a new certificate would not be understood, either.
    """
    for line in said.splitlines():
        name, _, value = line.partition("=")
        if name == "notBefore":
            with contextlib.suppress(ValueError):
                return float(ssl.cert_time_to_seconds(value.strip()))
    return 0.0


def _make(path: Path, names: Sequence[str]) -> None:
    """Make key and certificate in a directory beside `path`, and put them there in one step."""
    text = request_config(names, own_addresses())
    try:
        make_directory(path.parent, 0o700)
        for left in path.parent.glob(f"{_NEW}*"):
            # Of a daemon that was killed meanwhile: there may be a key in it.
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_NEW, dir=path.parent) as made:
            key, cert = Path(made) / "key.pem", Path(made) / "cert.pem"
            # fmt: off
            run_blocking([
                "openssl", "req", "-x509", "-config", "/dev/stdin",
                "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", str(DAYS), "-keyout", str(key), "-out", str(cert),
            ], timeout_s=_TIMEOUT_S, stdin=text.encode())
            # fmt: on
            both = key.read_bytes() + cert.read_bytes()
        write_atomic(path, both, mode=0o600, is_durable=True)
    except OSError as exc:
        raise host_error("make a certificate in", path.parent, exc) from exc
    except MissingPartError as exc:
        raise MissingPartError(
            "there is no certificate for https, and openssl is not installed to make one",
            hint="`apt install openssl`, or set web.cert_file in node.toml",
        ) from exc


def request_config(names: Sequence[str], addresses: Sequence[str]) -> str:
    """Return openssl's configuration of the certificate: pure. Names that are none are left out."""
    good = [name for name in dict.fromkeys([*names, "localhost"]) if _NAME.fullmatch(name)]
    loopback = ("127.0.0.1", "::1")
    ips = [str(ipaddress.ip_address(a)) for a in dict.fromkeys([*addresses, *loopback])]
    alternatives = ",".join([f"DNS:{name}" for name in good] + [f"IP:{ip}" for ip in ips])
    return "\n".join([
        "[req]",
        "distinguished_name = dn",
        "x509_extensions = ext",
        "prompt = no",
        "[dn]",
        f"CN = {good[0]}",
        "O = Nomad QEMU node",
        "[ext]",
        f"subjectAltName = {alternatives}",
        "basicConstraints = critical,CA:FALSE",
        "keyUsage = critical,digitalSignature",
        "extendedKeyUsage = serverAuth",
        "",
    ])  # fmt: skip
