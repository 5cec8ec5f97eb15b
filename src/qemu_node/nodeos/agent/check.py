"""What is wrong with a node's Nomad configuration before Nomad starts: pure.

Owns the judgements that Nomad's own validator does not make: certificates, roles, how servers find
each other, and what is left open. Does not own finding the facts (`facts`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from qemu_node.nodeos.agent.certificates import (
    Making,
    Present,
    TlsFiles,
    missing_error,
    plan_making,
)
from qemu_node.nodeos.agent.config import AgentConfig

_SOON = timedelta(days=30)
_PAGE = "docs/cluster.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong, or will be."""

    text: str
    hint: str
    is_error: bool = True
    """Nomad will not do what it is configured for; False: it will, but look at this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate's facts."""

    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    """Its DNS names."""
    chain_problem: str | None = None
    """Why the CA does not vouch for it."""
    key_problem: str | None = None
    """Why the key is not its."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found on the node."""

    now: datetime
    host_name: str
    present: Present
    """TLS files; of use only if the configuration names any."""
    certificate: Certificate | None = None
    certificate_problem: str | None = None
    """Why it cannot be looked at."""
    open_keys: tuple[str, ...] = ()
    """Files with keys that others than root can read."""
    has_plugin_file: bool = True
    has_node_toml: bool = True
    validator_says: str | None = None
    """What Nomad's own validator finds wrong."""
    has_validator: bool = True


def judge(config: AgentConfig, facts: Facts) -> list[Finding]:
    """Return what is wrong, errors first."""
    found = [
        *_nomads_words(facts),
        *_roles(config, facts),
        *_certificates(config, facts),
        *_security(config),
        *_open_keys(facts),
    ]
    return sorted(found, key=lambda finding: not finding.is_error)


def _nomads_words(facts: Facts) -> Iterator[Finding]:
    if facts.validator_says is not None:
        yield Finding(
            text=f"Nomad does not take the configuration: {facts.validator_says}",
            hint="`nomad config validate DIRECTORY` says this",
        )
    if not facts.has_validator:
        yield Finding(
            text="Nomad's own validator was not asked: there is no program nomad",
            hint="install Nomad, or put it into the PATH",
            is_error=False,
        )


def _roles(config: AgentConfig, facts: Facts) -> Iterator[Finding]:
    if config.is_client and not config.is_server and not config.servers:
        yield Finding(
            text="the client knows no server: it names none, and this node is none itself",
            hint='add server_join { retry_join = ["…"] } in client.hcl, or copy server.hcl',
        )
    if config.is_client and "vm" not in config.plugins:
        yield Finding(
            text='the client loads no driver for VMs: a block plugin "vm" {} is missing',
            hint="it is in /usr/share/nomad/client.hcl on the node's own system",
        )
    elif config.is_client and not facts.has_plugin_file:
        yield Finding(
            text=f"there is no executable file vm in plugin_dir ({config.plugin_dir or 'not set'})",
            hint='plugin_dir = "/usr/lib/nomad/plugins", where the package qemu-node has it',
        )
    if config.is_client and not facts.has_node_toml:
        yield Finding(
            text="there is no node.toml here: the driver's defaults apply",
            hint="a sample is beside the other samples; `qemu-node config show` lists what applies",
            is_error=False,
        )
    if not config.is_server:
        return
    if config.bootstrap_expect > 1 and not config.servers:
        yield Finding(
            text=f"{config.bootstrap_expect} servers are expected, and none is named to join",
            hint='add server_join { retry_join = ["…"] } in server.hcl',
        )
    if config.bootstrap_expect > 1 and config.bootstrap_expect % 2 == 0:
        yield Finding(
            text=f"{config.bootstrap_expect} servers survive the loss of no more than "
            f"{config.bootstrap_expect - 1} would",
            hint="use 1, 3 or 5",
            is_error=False,
        )
    if config.servers and facts.host_name == "localhost" and not config.name:
        yield Finding(
            text="this server is called localhost: servers of a cluster need different names",
            hint='set name = "…" in global.hcl, or give the node a host name',
        )


def _certificates(config: AgentConfig, facts: Facts) -> Iterator[Finding]:
    tls = config.tls
    if not tls.is_on:
        return
    unset = [name for name in ("ca_file", "cert_file", "key_file") if name not in tls.files]
    if unset:
        yield Finding(text=f"TLS is on, and {', '.join(unset)} not set", hint=_PAGE)
        return
    match plan_making(config, facts.present):
        case Making.IMPOSSIBLE:
            files = TlsFiles.of(config)
            assert files is not None  # all three are set
            error = missing_error(files, facts.present)
            yield Finding(text=str(error), hint=error.hint or _PAGE)
        case Making.NOTHING:
            yield from _certificate(config, facts)
        case Making.CERTIFICATE | Making.CA_AND_CERTIFICATE:
            yield Finding(
                text="certificates are missing that this node can make by itself",
                hint="it does so before Nomad starts; at once: `qemu-node os certificates`",
                is_error=False,
            )


def _open_keys(facts: Facts) -> Iterator[Finding]:
    for path in facts.open_keys:
        yield Finding(
            text=f"others than root can read the key in {path}",
            hint=f"chmod 600 {path}",
            is_error=False,
        )


def _certificate(config: AgentConfig, facts: Facts) -> Iterator[Finding]:
    certificate, path = facts.certificate, config.tls.cert_file
    if certificate is None:
        if facts.certificate_problem is not None:
            yield Finding(text=f"{path}: {facts.certificate_problem}", hint=_PAGE)
        return
    if facts.now > certificate.not_after:
        yield Finding(
            text=f"{path} has expired on {certificate.not_after:%Y-%m-%d}",
            hint=f"make a new one: {_PAGE}",
        )
    elif facts.now < certificate.not_before:
        yield Finding(
            text=f"{path} is valid from {certificate.not_before:%Y-%m-%d %H:%M} UTC only",
            hint="is the node's clock right?",
        )
    elif facts.now + _SOON > certificate.not_after:
        yield Finding(
            text=f"{path} expires on {certificate.not_after:%Y-%m-%d}",
            hint=f"make a new one: {_PAGE}",
            is_error=False,
        )
    for problem in (certificate.chain_problem, certificate.key_problem):
        if problem is not None:
            yield Finding(text=f"{path}: {problem}", hint=_PAGE)
    wanted = f"server.{config.region}.nomad"
    if config.is_server and config.tls.verifies_server_name and wanted not in certificate.names:
        yield Finding(
            text=f"{path} is not for {wanted}, which the others expect of a server",
            hint=f"`nomad tls cert create -server -region {config.region}`: {_PAGE}",
        )


def _security(config: AgentConfig) -> Iterator[Finding]:
    if not config.has_acl:
        yield Finding(
            text="ACLs are off: whoever reaches port 4646 may run anything on the cluster's nodes",
            hint="security.hcl has TLS and ACLs",
            is_error=False,
        )
    elif not config.tls.is_http:
        yield Finding(
            text="ACLs are on without TLS: tokens cross the network for everybody to read",
            hint="security.hcl has both",
            is_error=False,
        )
    if config.is_server and config.servers and config.tls.is_on and not config.has_gossip_key:
        yield Finding(
            text="servers tell each other the state of the cluster unencrypted (port 4648)",
            hint=f'server {{ encrypt = "…" }}, the same on each: {_PAGE}',
            is_error=False,
        )
