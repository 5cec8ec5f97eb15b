"""How people get in, as node.toml says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qemu_node.web.http.middleware import Site

Auth = Literal["nomad", "password", "link", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who is let in and for how long."""

    auth: Auth = "nomad"
    """`nomad`: with a token; `password`: with the one of `password_file`; `link`: with a link that
    `qemu-node run` prints; `open`: everybody who reaches the port may do everything."""
    site: Site = field(default_factory=Site)
    open_without_acls: bool = False
    """`nomad`, and Nomad has no ACLs: whether others than this node itself are let in."""
    password_file: Path | None = None
    metrics_token_file: Path | None = None
    metrics_on_loopback: bool = False
    """Whether programs on this node get `/metrics` without any token."""
    idle_s: float = 1800.0
    """A session without request, stream or socket ends."""
    age_s: float = 43_200.0
    """Every session ends."""
    socket_idle_s: float = 3600.0
    """A screen or serial port on which nothing happens is closed."""
