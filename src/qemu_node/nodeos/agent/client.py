"""The API of the node's own agent, asked with the node's own secret.

Owns the connection, its limits and the token. Does not own where the agent listens (`config`) nor
what is asked (the callers). Nomad takes the secret that every client has in its data
directory as a token for what concerns that node (Nomad 2.0.6, `nomad/auth`): it may read and drain
its own node, with ACLs and without. No token of an operator is kept on a node for this.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.nodeos.agent.config import AgentConfig, read_agent_config
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import DECODE_ERRORS, printable

T = TypeVar("T")

_TIMEOUT_S = 10.0
_ANSWER_MAX_BYTES = 64 << 20
_ID_MAX_BYTES = 200
DRIVER_NAME = "vm"
_NO_CLIENT = "`systemctl status nomad` says whether it runs; client.hcl makes a node a client"


class AgentError(NodeError):
    """The node's agent gave no usable answer; ask again later."""

    retry = True


class AgentRefusedError(AgentError):
    """The agent answered with an error."""

    def __init__(self, what: str, status: int, words: str) -> None:
        super().__init__(f"Nomad refused {what}: {status} {printable(words.strip())}")
        self.status = status


class NotAClientError(NodeError):
    """This node has no identity in Nomad: its agent is no client, or has never run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is in Nomad."""

    node_id: str
    secret: str


def read_identity(paths: NodePaths) -> Identity:
    """Return the node's id and secret, which its agent wrote at its first start.

    Raises:
        NotAClientError: there are none.
    """
    try:
        node_id = _first_line(paths.nomad_node_id)
        secret = _first_line(paths.nomad_node_secret)
    except OSError as exc:
        raise NotAClientError(
            f"this node is no client of Nomad: {exc.filename}: {exc.strerror}", hint=_NO_CLIENT
        ) from exc
    if not (node_id and secret):
        raise NotAClientError(
            f"this node is no client of Nomad: {paths.nomad_node_id} is empty", hint=_NO_CLIENT
        )
    return Identity(node_id=node_id, secret=secret)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_ID_MAX_BYTES).decode("ascii", "replace").partition("\n")[0].strip()


class LocalAgent:
    """The API of the agent on this node."""

    def __init__(self, config: AgentConfig, token: str) -> None:
        self._config = config
        self._token = token

    @classmethod
    def of_node(cls, paths: NodePaths, identity: Identity) -> "LocalAgent":
        """Return the agent of the configuration on /data, asked as the node itself.

        Raises:
            ConfigError: its configuration cannot be read.
        """
        return cls(read_agent_config(paths.config), identity.secret)

    async def get(self, path: str, kind: type[T]) -> T:
        """Return the answer to GET `path`, which is of the type `kind`.

        Raises:
            AgentRefusedError: the agent said no.
            AgentError: it does not answer, or not so.
        """
        return await self._ask("GET", path, None, kind)

    async def put(self, path: str, body: Mapping[str, object], kind: type[T]) -> T:
        """Return the answer to PUT `path`.

        Raises:
            AgentRefusedError: the agent said no.
            AgentError: it does not answer, or not so; the request may have been carried out.
        """
        return await self._ask("PUT", path, json.dumps(body).encode(), kind)

    async def _ask(self, method: str, path: str, body: bytes | None, kind: type[T]) -> T:
        answer = await to_the_end(self._exchange, method, path, body)
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except DECODE_ERRORS as exc:
            raise AgentError(f"Nomad's answer to {method} {path} is not understood: {exc}") from exc

    def _exchange(self, method: str, path: str, body: bytes | None) -> bytes:
        """Send one request; return the answer's body."""
        what = f"{method} {path}"
        try:
            connection = self._connect()
            try:
                connection.request(method, path, body, {"X-Nomad-Token": self._token})
                response = connection.getresponse()
                data = response.read(_ANSWER_MAX_BYTES + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as exc:
            where = f"{self._config.http_host}:{self._config.http_port}"
            reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            raise AgentError(
                f"Nomad does not answer on {where}: {reason}",
                hint="`systemctl status nomad` says whether it runs",
            ) from exc
        if len(data) > _ANSWER_MAX_BYTES:
            raise AgentError(f"Nomad's answer to {what} is too long")
        if response.length:
            raise AgentError(f"Nomad's answer to {what} broke off")
        if response.status >= 400:
            raise AgentRefusedError(what, response.status, data[:1000].decode(errors="replace"))
        return data

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._config.http_host, self._config.http_port
        if not self._config.tls.is_http:
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(
            host, port, timeout=_TIMEOUT_S, context=_tls_context(self._config)
        )


def _tls_context(config: AgentConfig) -> ssl.SSLContext:
    """Return a context that trusts the cluster's CA and shows the agent's own certificate.

    The name in the certificate is not compared: a certificate of the cluster's own CA may name
    the node by any address, and to this one a connection of this very node goes.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if config.tls.ca_file:
        context.load_verify_locations(cafile=config.tls.ca_file)
    else:
        context.load_default_certs()
    if config.tls.verifies_https_client and config.tls.cert_file and config.tls.key_file:
        context.load_cert_chain(config.tls.cert_file, config.tls.key_file)
    return context


class DriverInfo(msgspec.Struct, rename="pascal"):
    """A driver of a node."""

    detected: bool = False
    healthy: bool = False
    health_description: str = ""


class LastDrain(msgspec.Struct, rename="pascal"):
    """The drain that a node had last."""

    meta: dict[str, str] | None = None


class NodeInfo(msgspec.Struct, rename="pascal"):
    """GET /v1/node/:id, and an item of GET /v1/nodes (structs.Node, structs.NodeListStub)."""

    id: str = msgspec.field(name="ID", default="")
    node_pool: str = ""
    status: str = ""
    scheduling_eligibility: str = ""
    drain: bool = False
    drain_strategy: dict[str, object] | None = None
    drivers: dict[str, DriverInfo] | None = None
    last_drain: LastDrain | None = None

    @property
    def is_eligible(self) -> bool:
        """Whether Nomad may place work on it."""
        return self.scheduling_eligibility == "eligible"

    @property
    def is_draining(self) -> bool:
        """Whether a drain is in progress."""
        return self.drain or self.drain_strategy is not None

    @property
    def vm_driver(self) -> DriverInfo | None:
        """Its driver for VMs; None if Nomad has not seen one there."""
        return (self.drivers or {}).get(DRIVER_NAME)

    @property
    def runs_vms(self) -> bool:
        """Whether its driver for VMs is healthy."""
        return self.vm_driver is not None and self.vm_driver.healthy


async def read_node(agent: LocalAgent, node_id: str) -> NodeInfo:
    """Return what Nomad knows of a node.

    Raises:
        AgentError: it does not answer.
    """
    return await agent.get(f"/v1/node/{node_id}", NodeInfo)


async def list_nodes(agent: LocalAgent) -> list[NodeInfo]:
    """Return the nodes of the region.

    Raises:
        AgentError: it does not answer.
    """
    return await agent.get("/v1/nodes", list[NodeInfo])
