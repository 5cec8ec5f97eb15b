"""The certificate of the port, read again when it changes.

Owns which files are used: those of node.toml; else what systemd hands over, which is Nomad's
certificate where there is one (`LoadCredential=` of the unit); else one that the daemon makes.
"""

import hashlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.web import WebConfig
from qemu_node.errors import ConfigError, NodeError
from qemu_node.host.concurrency.threads import to_the_end

log = logging.getLogger(__name__)

CREDENTIALS_ENV = "CREDENTIALS_DIRECTORY"
"""Where systemd puts credentials (man 5 systemd.exec)."""
CERT_CREDENTIAL = "tls-cert"
KEY_CREDENTIAL = "tls-key"

_RENEW_S = 3600.0
"""Often: the clock may have been wrong when it was made, and is right now."""
_PEM_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Where certificate and key are."""

    cert: Path
    key: Path | None
    """None: in the file of the certificate."""
    is_own: bool = False
    """Whether the daemon has made it."""


def given_files(web: WebConfig, env: Mapping[str, str]) -> CertificateFiles | None:
    """Return the files that the operator or systemd gives; None if there are none.

    What systemd hands over may be a placeholder: the unit names one for nodes without Nomad's.
    """
    if web.cert_file:
        key = Path(web.key_file) if web.key_file else None
        return CertificateFiles(cert=Path(web.cert_file), key=key)
    directory = env.get(CREDENTIALS_ENV)
    if not directory:
        return None
    cert, key = Path(directory) / CERT_CREDENTIAL, Path(directory) / KEY_CREDENTIAL
    try:
        is_there = b"-----BEGIN" in cert.read_bytes() and b"-----BEGIN" in key.read_bytes()
    except OSError:
        return None
    return CertificateFiles(cert=cert, key=key) if is_there else None


def make_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return a context with the certificate.

    Raises:
        ConfigError: a file cannot be read, or the two do not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError) as exc:
        shown = files.cert if files.key is None else f"{files.cert} with {files.key}"
        words = exc.strerror or str(exc)
        if isinstance(exc, ssl.SSLError):
            words = exc.reason or words
        raise ConfigError(
            f"the certificate {shown} cannot be used: {words}",
            hint="both must be PEM, belong together, and be readable by the daemon's user: "
            "`sudo -u qemu-node cat FILE`",
        ) from exc
    return context


def public_pem(files: CertificateFiles) -> str:
    """Return the certificate without its key and its chain; empty if there is none."""
    try:
        text = files.cert.read_bytes()[:_PEM_MAX_BYTES].decode("ascii", "replace")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
    except (OSError, ValueError):
        return ""
    return f"{text[begin:end]}\n"


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate as browsers show it; empty if it is none: pure."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
    except ValueError:
        return ""
    return hashlib.sha256(der).digest().hex(":").upper()


class Certificate:
    """The certificate of now."""

    def __init__(
        self, files: CertificateFiles, renew: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Read it.

        Args:
            files: Where it is.
            renew: Makes it anew if it ends soon; None: that is the business of others.

        Raises:
            ConfigError: it cannot be used.
        """
        self.files = files
        self._renew = renew
        self._renewed_at = time.monotonic()
        self._seen = _versions(files)
        self._context = make_context(files)
        self.pem = public_pem(files)
        """What browsers are shown."""

    def context(self) -> ssl.SSLContext:
        """Return what a new connection uses."""
        return self._context

    @property
    def fingerprint(self) -> str:
        """Its SHA-256, as browsers show it."""
        return fingerprint(self.pem)

    async def look(self) -> bool:
        """Take a certificate that has changed; tell whether it has.

        One that cannot be used is logged, and not taken.
        """
        try:
            if self._renew is not None and time.monotonic() - self._renewed_at >= _RENEW_S:
                self._renewed_at = time.monotonic()
                await self._renew()
            seen = await to_the_end(_versions, self.files)
            if seen == self._seen:
                return False
            self._context = await to_the_end(make_context, self.files)
            self.pem = await to_the_end(public_pem, self.files)
        except NodeError as exc:
            log.warning("the certificate in use stays", extra={"reason": exc.explain()})
            return False
        self._seen = seen
        log.info("took a new certificate", extra={"fingerprint": self.fingerprint})
        return True


def _versions(files: CertificateFiles) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in (files.cert, files.key or files.cert):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
