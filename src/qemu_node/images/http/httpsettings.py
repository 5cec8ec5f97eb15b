"""How the node speaks HTTP: how long it waits, how often it tries, its proxy, its trusted CAs.

Owns these values. Does not own the judgement of an address (`address`) nor any request
(`httpfile`).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qemu_node.images.errors import ImageDownloadError
from qemu_node.images.http.address import AddressPolicy
from qemu_node.images.http.url import is_loopback

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long to wait, how far to follow, how often to try."""

    connect_s: float = 10.0
    stall_s: float = 60.0
    """A source that sends less than `stall_bytes` in this time counts as failed."""
    stall_bytes: int = 64 << 10
    small_s: float = 60.0
    """The longest time for a SUMS file, a manifest or a token: a start waits for each."""
    total_s: float = 6 * 3600.0
    """The longest time for one download with all its attempts."""
    redirects: int = 5
    mirrors: int = 4
    """How often a redirector is asked for a mirror before we believe that none has the file."""
    retries: int = 4
    """Attempts after one that brought nothing new."""
    backoff_s: float = 1.0
    """The first pause; each further one is twice as long."""
    retry_after_max_s: float = 60.0
    """The longest pause that a server may ask for; if it asks for more, the attempt fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How the node asks any source."""

    limits: FetchLimits = field(default_factory=FetchLimits)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    ca_file: str = ""
    """Certificates (PEM) that are trusted beside the system's; empty: none."""
    proxy: str = ""
    """http://host:port; empty: none."""
    no_proxy: tuple[str, ...] = ()
    """Hosts, or `*.domain`, that are asked directly."""

    def proxy_for(self, host: str) -> str | None:
        """Return the proxy by which `host`, as `HttpUrl.host` has it, is asked. Pure."""
        if not self.proxy or is_loopback(host):
            return None
        return None if any(_covers(entry, host) for entry in self.no_proxy) else self.proxy

    def tls_context(self) -> "ssl.SSLContext | bool":
        """Return what decides which certificates are trusted. Blocks for `ca_file`.

        It is read for each request, so a new file is used at once.

        Raises:
            ImageDownloadError: `ca_file` cannot be read.
        """
        if not self.ca_file:
            return True
        import ssl

        context = ssl.create_default_context()
        context.set_alpn_protocols(("http/1.1",))
        try:
            context.load_verify_locations(self.ca_file)
        except OSError as exc:
            reason = "it holds none" if isinstance(exc, ssl.SSLError) else exc.strerror
            raise ImageDownloadError(
                f"cannot read the certificates in {self.ca_file}: {reason}",
                hint="see images.ca_file in node.toml",
            ) from exc
        return context


def _covers(entry: str, host: str) -> bool:
    """Tell whether an entry of `no_proxy` covers a host."""
    name, host = entry.lower().strip("[]"), host.removesuffix(".").strip("[]")
    return host.endswith(name[1:]) if name.startswith("*.") else host == name
