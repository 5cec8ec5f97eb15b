"""The certificates of a single node, made before Nomad's first start.

Owns what is made, and that a power cut leaves nothing that looks complete. Does not own the cluster
with more nodes: its CA is the operator's (docs/cluster.md), and a node without that CA's key makes
nothing. Nomad's own command makes the files (`nomad tls`).
"""

import re
import shutil
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qemu_node.errors import HostError, MissingPartError, NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import open_directory
from qemu_node.host.process.command import run
from qemu_node.nodeos.agent.config import AgentConfig

DAYS = 3650
"""Nobody renews the certificates of a node that made them itself."""

KEPT_SUFFIX = ".replaced"
"""What an earlier file is renamed to."""

_TIMEOUT_S = 60.0
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_IN_DIRECTORY = 'cd "$1" && shift && exec "$@"'


class CertificatesMissingError(NodeError):
    """Nomad's configuration names certificates that are not there and cannot be made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files that the configuration means."""

    ca: Path
    ca_key: Path
    """Beside the CA's certificate, on a node that has made the CA or may make certificates."""
    cert: Path
    key: Path

    @classmethod
    def of(cls, config: AgentConfig) -> "TlsFiles | None":
        """Return them; None if the agent uses no TLS, or its files are not all named."""
        tls = config.tls
        if not tls.is_on or len(tls.files) < 3:
            return None
        ca = Path(tls.ca_file)
        return cls(
            ca=ca,
            ca_key=ca.with_name(f"{ca.stem}-key.pem"),
            cert=Path(tls.cert_file),
            key=Path(tls.key_file),
        )

    def present(self) -> "Present":
        """Return which of them are there."""
        return Present(
            ca=_has_content(self.ca),
            ca_key=_has_content(self.ca_key),
            cert=_has_content(self.cert),
            key=_has_content(self.key),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Which of a node's TLS files are there."""

    ca: bool = False
    ca_key: bool = False
    cert: bool = False
    key: bool = False


class Making(StrEnum):
    """What is to be made."""

    NOTHING = "nothing"
    CERTIFICATE = "certificate"
    CA_AND_CERTIFICATE = "ca-and-certificate"
    IMPOSSIBLE = "impossible"
    """Files are missing that only the operator has."""

    def say(self, config: AgentConfig) -> str:
        """Return what was made, for people."""
        match self:
            case Making.CERTIFICATE:
                return f"made a certificate for this node: {config.tls.cert_file}"
            case Making.CA_AND_CERTIFICATE:
                return f"made a CA and a certificate for this node: {config.tls.cert_file}"
            case Making.NOTHING | Making.IMPOSSIBLE:
                return "nothing to make"


def plan_making(config: AgentConfig, present: Present) -> Making:
    """Return what a node makes for itself: pure.

    A CA only for a server that is a cluster by itself: with one of its own, a node could not join
    any other.
    """
    if present.ca and present.cert and present.key:
        return Making.NOTHING
    if present.ca:
        return Making.CERTIFICATE if present.ca_key else Making.IMPOSSIBLE
    is_alone = config.is_server and config.bootstrap_expect <= 1 and not config.servers
    # A certificate is of some CA that is not here.
    return Making.IMPOSSIBLE if present.cert or not is_alone else Making.CA_AND_CERTIFICATE


def missing_error(files: TlsFiles, present: Present) -> CertificatesMissingError:
    """Return the error that names the files that are not there: pure."""
    paths = {"ca": files.ca, "cert": files.cert, "key": files.key}
    missing = [str(path) for name, path in paths.items() if not getattr(present, name)]
    return CertificatesMissingError(
        f"Nomad's configuration names files that are missing: {', '.join(missing)}",
        hint="copy them from where the cluster's CA is: docs/cluster.md",
    )


async def make_certificates(config: AgentConfig, nomad: str, host_name: str) -> Making:
    """Make what is missing; return what that was. Idempotent.

    Args:
        config: The agent's configuration.
        nomad: Nomad's program.
        host_name: A name by which people reach this node, if it has one.

    Raises:
        CertificatesMissingError: what is missing is the operator's to copy here.
        HostError: a file cannot be written, or Nomad's program failed; what is there is whole.
        MissingPartError: there is no such program.
    """
    files = TlsFiles.of(config)
    if files is None:
        return Making.NOTHING
    present = files.present()
    making = plan_making(config, present)
    if making is Making.IMPOSSIBLE:
        raise missing_error(files, present)
    if making is Making.NOTHING:
        return making
    program = shutil.which(nomad)
    if program is None:
        raise MissingPartError(f"there is no program {nomad}")
    await to_the_end(_make_directories, files)
    # On the same file system, private, and removed whatever happens but a power cut.
    made = Path(await to_the_end(tempfile.mkdtemp, prefix=".new-", dir=files.ca.parent))
    try:
        if making is Making.CA_AND_CERTIFICATE:
            await _run(program, made, *ca_arguments())
            # The key first: a CA without its key would be one of the operator's.
            await to_the_end(_take, made, "*-ca-key.pem", files.ca_key, 0o600)
            await to_the_end(_take, made, "*-ca.pem", files.ca, 0o644)
        await _run(program, made, *certificate_arguments(config, files, host_name))
        await to_the_end(_take, made, "*-nomad-key.pem", files.key, 0o600)
        await to_the_end(_take, made, "*-nomad.pem", files.cert, 0o644)
    finally:
        await to_the_end(shutil.rmtree, made, ignore_errors=True)
    return making


def ca_arguments() -> list[str]:
    """Return the command that makes a CA: pure. A name of its own would need a postal address."""
    return ["tls", "ca", "create", f"-days={DAYS}"]


def certificate_arguments(config: AgentConfig, files: TlsFiles, host_name: str) -> list[str]:
    """Return the command that makes a certificate for the node's role: pure."""
    role = "-server" if config.is_server else "-client"
    arguments = ["tls", "cert", "create", role, f"-region={config.region}", f"-days={DAYS}"]
    arguments += [f"-ca={files.ca}", f"-key={files.ca_key}"]
    if _HOST_NAME.fullmatch(host_name) and host_name != "localhost":
        arguments.append(f"-additional-dnsname={host_name}")
    return arguments


async def _run(nomad: str, directory: Path, *arguments: str) -> None:
    # It writes into its working directory.
    argv = ["/bin/sh", "-c", _IN_DIRECTORY, "sh", str(directory), nomad, *arguments]
    await run(argv, timeout_s=_TIMEOUT_S)


def _make_directories(files: TlsFiles) -> None:
    for directory in {files.ca.parent, files.cert.parent, files.key.parent}:
        open_directory(directory, 0o700)


def _take(directory: Path, pattern: str, target: Path, mode: int) -> None:
    """Put the new file that `pattern` means in its place, so that it survives a power cut.

    What a file of that name holds may be the operator's, such as the only copy of a CA's key: it is
    kept beside.
    """
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise HostError(f"nomad has not made one file {pattern}, but {len(found)}")
    try:
        data = found[0].read_bytes()
    except OSError as exc:
        raise host_error("read", found[0], exc) from exc
    if _has_content(target):
        kept = target.with_name(f"{target.name}{KEPT_SUFFIX}")
        number = 1
        while kept.exists():
            number += 1
            kept = target.with_name(f"{target.name}{KEPT_SUFFIX}{number}")
        try:
            target.replace(kept)
        except OSError as exc:
            raise host_error("keep", target, exc) from exc
    write_atomic(target, data, mode=mode, is_durable=True)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
