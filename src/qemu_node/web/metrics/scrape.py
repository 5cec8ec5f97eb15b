"""One scrape: collecting the figures, and the text that is sent.

Owns that scrapes cost little: no VM is asked for one, what takes long runs in a thread, those that
come at the same time get the same text, and one after another within `FRESH_S` as well. Does not
own the metrics (`collect`), nor who gets them (`metricsroutes`).

Nothing is kept of a scrape but its text: a VM that has ended is in none any more.
"""

import asyncio
import gzip
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemu_node.config.node import NodeConfig
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.process.identity import cpu_times
from qemu_node.inventory.state import VMStatus
from qemu_node.version import VERSION
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.livevm import VMFigures
from qemu_node.web.metrics.netdev import NET_DEV, parse_net_dev
from qemu_node.web.metrics.nodefigures import read_figures

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FRESH_S = 1.0
"""Whoever asks again within this time gets the same."""
_GZIP_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposition:
    """What is sent."""

    body: bytes
    content_type: str
    is_gzip: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    exposition: Exposition
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the loop knows; the rest is read in a thread."""

    vms: list[VMFigures]
    others: list[VMStatus]
    troubles: int


class Scraper:
    """Makes the text of `/metrics`."""

    def __init__(self, fleet: Fleet, config: NodeConfig, *, fresh_s: float = FRESH_S) -> None:
        self._fleet = fleet
        self._config = config
        self._fresh_s = fresh_s
        self._lock = asyncio.Lock()
        self._made: dict[tuple[bool, bool], _Made] = {}

    async def get(self, accept: str, *, is_gzip: bool) -> Exposition:
        """Return the figures of now.

        Args:
            accept: The header of that name; it chooses between Prometheus' text and OpenMetrics.
            is_gzip: Whether the client can unpack.
        """
        key = (wants_openmetrics(accept), is_gzip)
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            self._made = {
                other: made
                for other, made in self._made.items()
                if now_s - made.at_s < self._fresh_s
            }
            found = self._made.get(key)
            if found is None:
                exposition = await to_the_end(self._make, self._look(), *key)
                found = self._made[key] = _Made(exposition=exposition, at_s=now_s)
            return found.exposition

    def _look(self) -> _Seen:
        return _Seen(
            vms=self._fleet.collect(),
            others=list(self._fleet.others().values()),
            troubles=len(self._fleet.troubles.lines()),
        )

    def _make(self, seen: _Seen, is_openmetrics: bool, is_gzip: bool) -> Exposition:  # noqa: FBT001 - for a thread
        # Here, not above: the first scrape pays for it, not every start of the daemon. Which format
        # is ours to choose: `choose_encoder` repeats any version of `Accept` in its content type.
        from prometheus_client import exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        families = Families(self._collect(seen))
        if is_openmetrics:
            text: bytes = openmetrics.generate_latest(families)  # type: ignore[no-untyped-call]
            content_type = openmetrics.CONTENT_TYPE_LATEST
        else:
            text = exposition.generate_latest(families)
            content_type = exposition.CONTENT_TYPE_PLAIN_0_0_4
        return Exposition(
            body=gzip.compress(text, _GZIP_LEVEL, mtime=0) if is_gzip else text,
            content_type=content_type,
            is_gzip=is_gzip,
        )

    def _collect(self, seen: _Seen) -> "list[Metric]":
        from prometheus_client import ProcessCollector

        from qemu_node.web.metrics.collect import Collected, families

        collected = Collected(
            node=read_figures(self._config),
            version=VERSION,
            kernel=os.uname().release,
            vms=seen.vms,
            others=seen.others,
            cpu={vm.view.vm_id: cpu_times(vm.process) for vm in seen.vms},
            traffic=parse_net_dev(read_or_empty(NET_DEV)),
            troubles=seen.troubles,
        )
        own = ProcessCollector(registry=None)
        return [*families(collected), *own.collect()]


class Families:
    """What prometheus_client takes for a registry: the metrics of one scrape."""

    def __init__(self, metrics: "list[Metric]") -> None:
        self._metrics = metrics

    def collect(self) -> "list[Metric]":
        """Return them."""
        return self._metrics


def wants_openmetrics(accept: str) -> bool:
    """Tell which of the two formats a client would rather have: pure.

    Prometheus lists what it understands, the best first.
    """
    for part in accept.split(","):
        match part.partition(";")[0].strip().lower():
            case "application/openmetrics-text":
                return True
            case "text/plain":
                return False
            case _:
                pass
    return False
