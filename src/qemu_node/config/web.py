"""`[web]` of node.toml: the console's port, and who is let in.

Owns the names, defaults and checks of these settings. Does not own what follows from them (`web`).
"""

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.units import parse_duration

DEFAULT_PORT = 5800


class WebConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[web]`: the console, `qemu-node serve`."""

    enabled: bool = True
    addresses: tuple[str, ...] = ()
    """Where it listens; empty: all addresses of the node."""
    port: int = DEFAULT_PORT
    cert_file: str = ""
    """Certificate (PEM), the chain behind it; empty: Nomad's, or one that the daemon makes."""
    key_file: str = ""
    """The certificate's key, readable by user `qemu-node`; empty: it is in `cert_file`."""
    names: tuple[str, ...] = ()
    """Names by which people reach the node, beside its host name and its addresses."""
    allowed_origins: tuple[str, ...] = ()
    """Addresses of proxies in front of it, as a browser shows them: `https://host:port`."""
    auth: Literal["nomad", "password", "none"] = "nomad"
    accept_open_access: bool = False
    """Whether everybody may do everything: with `auth = "none"`, or if Nomad has no ACLs."""
    password_file: str = ""
    """For `auth = "password"`: the file with its hash."""
    metrics_token_file: str = ""
    """The file with the token for which `/metrics` is given; empty: a token of Nomad's alone."""
    metrics_on_loopback: bool = True
    """Whether programs on this node get `/metrics` without any token."""
    session_idle: str = "30m"
    session_max: str = "12h"
    socket_idle: str = "1h"
    """How long a screen or serial port stays open on which nothing happens."""
    nomad_address: str = ""
    """Of Nomad's API; empty: the agent of this node."""
    nomad_ca_file: str = ""
    """Who signs the certificate of Nomad's API; empty: what systemd hands over."""
    nomad_server_name: str = ""
    """The name in that certificate, if it is not the host of the address."""

    @property
    def session_idle_s(self) -> float:
        """`session_idle` in seconds."""
        return parse_duration(self.session_idle)

    @property
    def session_max_s(self) -> float:
        """`session_max` in seconds."""
        return parse_duration(self.session_max)

    @property
    def socket_idle_s(self) -> float:
        """`socket_idle` in seconds."""
        return parse_duration(self.socket_idle)


def check_web(web: WebConfig) -> None:
    """Check what the types do not: settings that make no sense.

    Raises:
        ConfigError: a setting makes no sense; the message names it.
    """
    for address in web.addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(
                f"web.addresses: {address!r} is not an IP address",
                hint='write for example ["127.0.0.1", "::1"]; none means all addresses',
            ) from None
    if not 1 <= web.port <= 65535:
        raise ConfigError(f"web.port must be 1 to 65535, not {web.port}")
    for name in ("cert_file", "key_file", "password_file", "nomad_ca_file", "metrics_token_file"):
        path = getattr(web, name)
        if path and not path.startswith("/"):
            raise ConfigError(f"web.{name} must be an absolute path, not {path!r}")
    if web.key_file and not web.cert_file:
        raise ConfigError("web.key_file is set and web.cert_file is not", hint="set both")
    for origin in web.allowed_origins:
        _check_url("allowed_origins", origin, "https://console.example.com:8443")
    if web.nomad_address:
        _check_url("nomad_address", web.nomad_address, "https://127.0.0.1:4646")
    if web.auth == "password" and not web.password_file:
        raise ConfigError(
            'web.auth = "password" needs web.password_file',
            hint="`qemu-node serve --make-password` makes what the file must hold",
        )
    if web.auth == "none" and not web.accept_open_access:
        raise ConfigError(
            'web.auth = "none" lets everybody who reaches the port do everything with all VMs',
            hint="if that is what you want, set web.accept_open_access = true as well",
        )
    for name in ("session_idle", "session_max", "socket_idle"):
        if getattr(web, f"{name}_s") < 60:
            raise ConfigError(f"web.{name} must be at least a minute")


def _check_url(name: str, text: str, example: str) -> None:
    """Raise if `text` is more or less than scheme, host and port."""
    hint = f"for example {example}"
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as exc:
        raise ConfigError(f"web.{name}: {text!r}: {exc}", hint=hint) from None
    is_plain = url.path in ("", "/") and not (url.query or url.fragment or "@" in url.netloc)
    if url.scheme not in ("http", "https") or not url.hostname or not is_plain:
        raise ConfigError(f"web.{name}: {text!r} is not scheme, host and port", hint=hint)
