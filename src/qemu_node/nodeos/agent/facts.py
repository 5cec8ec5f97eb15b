"""Finding out what `check` judges: certificates, Nomad's validator, files. Changes nothing.

`openssl` reads certificates; Debian's ca-certificates brings it.
"""

import os
import re
import shutil
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

from qemu_node.errors import ConfigError, NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.command import run
from qemu_node.nodeos.agent.certificates import Present, TlsFiles
from qemu_node.nodeos.agent.check import Certificate, Facts
from qemu_node.nodeos.agent.client import DRIVER_NAME
from qemu_node.nodeos.agent.config import AgentConfig, config_files
from qemu_node.text import printable

_TIMEOUT_S = 30.0
_NOISE = re.compile(r"^(WARNING: .*|Configuration is invalid|\s*)$")
_DNS = re.compile(r"DNS:([^,\s]+)")
_GOSSIP_KEY = re.compile(r"""^\s*"?encrypt"?\s*[=:]\s*"[^"]""", re.MULTILINE)
"""In HCL and JSON; a comment, and the empty key of the sample, are none."""
_DATE = "%b %d %H:%M:%S %Y %Z"


async def read_facts(directory: Path, config: AgentConfig, nomad: str) -> Facts:
    """Return what is on this node beside the configuration in `directory`.

    Args:
        directory: The configuration's.
        config: What it says.
        nomad: Nomad's program, in the PATH or a path.
    """
    files = TlsFiles.of(config)
    present = Present() if files is None else files.present()
    certificate, problem = None, None
    if files is not None and present.ca and present.cert and present.key:
        try:
            certificate = await read_certificate(files)
        except NodeError as exc:
            problem = str(exc)
    program = shutil.which(nomad)
    plugin = Path(config.plugins_dir) / DRIVER_NAME
    return Facts(
        now=datetime.now(UTC),
        host_name=os.uname().nodename,
        present=present,
        certificate=certificate,
        certificate_problem=problem,
        open_keys=tuple(open_keys(directory, files)),
        has_plugin_file=os.access(plugin, os.X_OK),
        has_node_toml=(directory / "node.toml").exists(),
        validator_says=None if program is None else await _validate(program, directory),
        has_validator=program is not None,
    )


async def _validate(nomad: str, directory: Path) -> str | None:
    """Return what Nomad's validator finds wrong, on one line."""
    try:
        done = await run(
            [nomad, "config", "validate", str(directory)], timeout_s=_TIMEOUT_S, check=False
        )
    except NodeError as exc:
        return str(exc)
    if done.returncode == 0:
        return None
    lines = (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()
    told = " ".join(line.strip() for line in lines if not _NOISE.match(line))
    return printable(told) or f"exit status {done.returncode}"


async def read_certificate(files: TlsFiles) -> Certificate:
    """Return the facts of the node's certificate.

    Raises:
        NodeError: it cannot be read.
    """
    argv = ["openssl", "x509", "-in", str(files.cert), "-noout", "-dates"]
    shown = await run([*argv, "-ext", "subjectAltName"], timeout_s=_TIMEOUT_S, check=False)
    text = shown.stdout.decode(errors="replace")
    dates = dict(re.findall(r"^(notBefore|notAfter)=(.*)$", text, re.MULTILINE))
    try:
        not_before, not_after = (
            datetime.strptime(dates[name], _DATE).replace(tzinfo=UTC)
            for name in ("notBefore", "notAfter")
        )
    except (KeyError, ValueError) as exc:
        raise ConfigError("this is no certificate in PEM") from exc
    verified = await run(
        # Its dates are judged apart from this.
        ["openssl", "verify", "-no_check_time", "-CAfile", str(files.ca), str(files.cert)],
        timeout_s=_TIMEOUT_S,
        check=False,
    )
    return Certificate(
        not_before=not_before,
        not_after=not_after,
        names=tuple(_DNS.findall(text)),
        chain_problem=None if verified.returncode == 0 else f"{files.ca} has not signed it",
        key_problem=await to_the_end(_key_problem, files),
    )


def _key_problem(files: TlsFiles) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            return f"{files.key} is the key of another certificate"
        return f"{files.key} cannot be used: {exc.reason}"
    except OSError as exc:
        return f"{files.key} cannot be read: {exc.strerror}"
    return None


def open_keys(directory: Path, files: TlsFiles | None) -> list[str]:
    """Return the files with keys that others than root can read: of TLS, and the gossip key."""
    secret = [files.key, files.ca_key] if files is not None else []
    for path in config_files(directory):
        try:
            if _GOSSIP_KEY.search(path.read_text(errors="replace")):
                secret.append(path)
        except OSError:
            continue
    found = []
    for path in secret:
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(str(path))
    return found
