"""How the node speaks HTTP: how long it waits, how often it tries, where it may connect to.

Owns these values. Does not own the judgement of an address (`address`) nor any request (`request`).
"""

from dataclasses import dataclass, field

from qemu_node.images.http.address import AddressPolicy


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
