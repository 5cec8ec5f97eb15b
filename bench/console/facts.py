"""What the console's bench finds: values that travel as JSON. Pure.

Owns their form. Does not own how they are measured (`relay`, `fleets`) nor the goals (`goals`).
"""

import msgspec

OURS, OURS_TLS = "ours", "ours, TLS"
WEBSOCKIFY, WEBSOCKIFY_TLS = "websockify", "websockify, TLS"
ORIGINAL = "the original's"


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What one relay did with a stream as fast as it goes; a sample a round."""

    mb_s: list[float]
    cpu_s_per_gb: list[float]
    """Of all its processes. GB is 10^9 bytes."""
    processes: int
    """With several viewers."""


class RelayRun(msgspec.Struct, frozen=True, kw_only=True):
    """What relays cost."""

    rates: dict[str, Rates]
    """By name: `OURS` …"""
    direct_ms: list[list[float]]
    """Times of there and back without a relay, a list a round."""
    relayed_ms: list[list[float]]
    """The same through ours with TLS, with idle viewers beside."""
    missing: dict[str, str] = {}
    """Relays that could not be measured → why."""


class FleetRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon costs with so many VMs. CPU in percent of one core, a sample a window."""

    vms: int
    daemon_alone_pct: list[float]
    """Nobody looks."""
    daemon_page_pct: list[float]
    """A browser shows the page."""
    qemu_alone_pct: list[float]
    """Of all QEMUs together."""
    qemu_page_pct: list[float]
    pss_mib: float
    """The daemon's, with the page open."""
    pictures: int
    """Answers with a new picture while the windows with the page were measured."""


class PageRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser needs for the page of all VMs; a sample a visit."""

    first_view_kb: list[float]
    """What came over the wire until the pictures in view were there; kB is 1000 bytes."""
    pictures_kb: list[float]
    """Of that, pictures of screens."""
    usable_ms: list[float]
    """From the start of the visit to all cards drawn."""
    usable_cpu_ms: list[float]
    """CPU time of the main thread by then: what does not depend on what else the machine does."""
    update_ms: list[float]
    """CPU time of the main thread, to show new figures on all cards."""


class ConsoleRun(msgspec.Struct, frozen=True, kw_only=True):
    """What `fleets` finds."""

    few: FleetRun
    many: FleetRun
    page: PageRun
