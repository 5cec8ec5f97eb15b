"""The process `qemu-node serve`.

Owns what a service needs: the certificate, systemd's readiness and watchdog, signals, limits, the
order and the time of its end. Does not own what is served (`serving`). VMs need nothing of it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from qemu_node.config.node import NodeConfig
from qemu_node.config.web import WebConfig
from qemu_node.errors import HostError
from qemu_node.host.allocator import keep_one_arena, return_large_buffers
from qemu_node.host.concurrency.loops import repeat
from qemu_node.host.concurrency.looptime import timed_loop
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.limits import raise_open_files_limit
from qemu_node.host.notify import keep_alive, notify
from qemu_node.host.process.users import group_id
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadapi import DEFAULT_ADDRESS, NomadServer
from qemu_node.web.http.listener import selfmade
from qemu_node.web.http.listener.nodenames import own_names
from qemu_node.web.http.listener.port import listen
from qemu_node.web.http.listener.tls import (
    CERT_CREDENTIAL,
    CREDENTIALS_ENV,
    KEY_CREDENTIAL,
    Certificate,
    CertificateFiles,
    given_files,
)
from qemu_node.web.http.origins import parse_allowed
from qemu_node.web.service.serving import SHARED_GROUP, Console, NodeSite, serving

log = logging.getLogger(__name__)

CA_CREDENTIAL = "nomad-ca"
"""Who signs the certificate of Nomad's API, as systemd hands it over."""
PUBLIC_CERTIFICATE = "certificate.pem"
"""In the runtime directory, for everybody to read: what the console shows to browsers."""

_STATUS_S = 60.0
_LOOK_S = 60.0
_END_S = 10.0
"""The unit has half as much again before systemd kills."""


def run_daemon(config: NodeConfig) -> None:
    """Serve until a signal ends it.

    Raises:
        NodeError: it cannot serve; nothing was changed.
    """
    keep_one_arena()
    # Pictures of screens are some megabytes each, and gone a moment later.
    return_large_buffers()
    raise_open_files_limit()
    # What is imported stays: no collection looks at it again.
    gc.freeze()
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(_run(config))


def access_settings(web: WebConfig, *, has_guests_on_loopback: bool = False) -> AccessSettings:
    """Return who is let in: pure but for the names of the node.

    Args:
        web: The settings.
        has_guests_on_loopback: Whether guests in user mode can connect to the node's loopback: what
            comes from there may be a guest.
    """
    site = NodeSite(
        names=frozenset(name.lower().rstrip(".") for name in web.names),
        allowed_origins=parse_allowed(web.allowed_origins),
    )
    return AccessSettings(
        auth="open" if web.auth == "none" else web.auth,
        site=site,
        open_without_acls=web.accept_open_access,
        password_file=Path(web.password_file) if web.password_file else None,
        metrics_token_file=Path(web.metrics_token_file) if web.metrics_token_file else None,
        metrics_on_loopback=web.metrics_on_loopback and not has_guests_on_loopback,
        idle_s=web.session_idle_s,
        age_s=web.session_max_s,
        socket_idle_s=web.socket_idle_s,
    )


def nomad_server(web: WebConfig, env: Mapping[str, str]) -> NomadServer | None:
    """Return where Nomad's API is; None if nobody is let in by it.

    By default it is the agent of this node: with TLS if systemd hands its CA over. Variables of
    Nomad's own command count as well.
    """
    if web.auth != "nomad":
        return None
    ca_file = web.nomad_ca_file or env.get("NOMAD_CACERT")
    ca = Path(ca_file) if ca_file else _credential(env, CA_CREDENTIAL)
    given = web.nomad_address or env.get("NOMAD_ADDR")
    cert, key = _credential(env, CERT_CREDENTIAL), _credential(env, KEY_CREDENTIAL)
    default = DEFAULT_ADDRESS if ca is None else DEFAULT_ADDRESS.replace("http:", "https:")
    return NomadServer(
        address=given or default,
        is_of_this_node=not given,
        server_name=web.nomad_server_name or env.get("NOMAD_TLS_SERVER_NAME") or None,
        ca_file=ca,
        cert_file=cert if key is not None else None,
        key_file=key,
    )


def _credential(env: Mapping[str, str], name: str) -> Path | None:
    """Return a file that systemd hands over; None if it is missing or a placeholder."""
    directory = env.get(CREDENTIALS_ENV)
    if not directory:
        return None
    path = Path(directory) / name
    try:
        return path if b"-----BEGIN" in path.read_bytes() else None
    except OSError:
        return None


def check_identity() -> list[str]:
    """Return what is wrong with the user that this runs as, in words."""
    gid = group_id(SHARED_GROUP)
    if os.geteuid() == 0:
        return ["runs as root, and needs no right of root's: `systemctl start qemu-node`"]
    if gid is None:
        return [f"there is no group {SHARED_GROUP}: only VMs of this user can be used"]
    if gid not in (os.getegid(), *os.getgroups()):
        return [f"this user is not in group {SHARED_GROUP}: only VMs of this user can be used"]
    return []


async def _run(config: NodeConfig) -> None:
    web = config.web
    for problem in check_identity():
        log.warning(problem)
    stop = asyncio.Event()
    _stop_by_signals(stop)
    sockets = listen(web.addresses, web.port)
    with contextlib.ExitStack() as undo:
        for sock in sockets:
            undo.callback(sock.close)
        certificate = await open_certificate(web, os.environ, _state_directory(config))
        undo.pop_all()
    public = _runtime_directory(config)
    _publish(certificate, public)

    async def look() -> None:
        if await certificate.look():
            await to_the_end(_publish, certificate, public)

    async with TaskOwner("daemon") as tasks:
        _ = tasks.start(keep_alive(), name="watchdog")
        async with contextlib.AsyncExitStack() as stack:
            console = await stack.enter_async_context(
                serving(
                    config,
                    settings=access_settings(web, has_guests_on_loopback=config.network.allow_host),
                    nomad=nomad_server(web, os.environ),
                    sockets=sockets,
                    tls=certificate.context,
                    share_dir=config.paths.web_run_dir,
                )
            )
            _ = tasks.start(_tell_status(console, web), name="status")
            looking = repeat(
                look,
                name="reading the certificate",
                interval_s=_LOOK_S,
                first_s=_LOOK_S,
                troubles=console.fleet.troubles,
            )
            _ = tasks.start(looking, name="certificate")
            notify(READY=1)
            log.info(
                "serves the console",
                extra={"port": web.port, "fingerprint": certificate.fingerprint},
            )
            await stop.wait()
            notify(STOPPING=1, STATUS="ends")
            log.info("ends; VMs go on")
            try:
                async with asyncio.timeout(_END_S):
                    await stack.aclose()
            except TimeoutError:
                log.warning("did not end in time; what is left ends with the process")


def _stop_by_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def open_certificate(web: WebConfig, env: Mapping[str, str], directory: Path) -> Certificate:
    """Return the certificate of the port; make one in `directory` if nobody gives one.

    Raises:
        NodeError: it cannot be used or made.
    """
    given = given_files(web, env)
    if given is not None:
        return Certificate(given)
    names = [*own_names(), *web.names]
    path = await selfmade.ensure(directory, names)
    return Certificate(
        CertificateFiles(cert=path, key=None, is_own=True),
        renew=lambda: selfmade.ensure(directory, names),
    )


def _state_directory(config: NodeConfig) -> Path:
    return Path(os.environ.get("STATE_DIRECTORY") or Path(config.paths.data) / "web")


def _runtime_directory(config: NodeConfig) -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY") or config.paths.run_dir / "web")


def _publish(certificate: Certificate, directory: Path) -> None:
    """Let others on this node see the certificate, such as the text of its console."""
    with contextlib.suppress(HostError, OSError):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(directory / PUBLIC_CERTIFICATE, certificate.pem.encode())


async def _tell_status(console: Console, web: WebConfig) -> None:
    while True:
        notify(STATUS=f"https on port {web.port}, {len(console.fleet.all())} VMs")
        await asyncio.sleep(_STATUS_S)
