"""Reading a job file: by the Nomad program, by an agent, or by the built-in reader.

Owns the choice, and the two ways of asking Nomad, which reads all of HCL. JSON is read as Nomad's
API form. HCL is read by the first of these that there is:

1. the Nomad program: `job run -output` needs no agent;
2. the agent that `NOMAD_ADDR` names: `/v1/jobs/parse`. It reads no files, so a job with `file()`
   goes on to the next, as does any job when the agent does not answer in time; the reason is one
   of the job's notes;
3. the built-in reader (`builtin`).
"""

import asyncio
import dataclasses
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qemu_node.errors import JobError
from qemu_node.host.process.command import SAFE_ENV, run_blocking
from qemu_node.run.jobfile.job import ENV_PREFIX, Job, job_from_api
from qemu_node.text import without_login

STDIN = Path("stdin")
"""The name that Nomad gives a job from standard input."""
_PROGRAM_TIMEOUT_S = 60.0
_AGENT_TIMEOUT_S = 10.0
_AGENT_MAX_BYTES = 8 << 20
_DEFAULT_ADDRESS = "http://127.0.0.1:4646"  # api/api.go DefaultConfig


class Parser(StrEnum):
    """Who reads HCL."""

    AUTO = "auto"
    NOMAD = "nomad"
    """The Nomad program."""
    AGENT = "agent"
    """A running agent; the default address where `NOMAD_ADDR` is not set."""
    HCL2 = "hcl2"
    """The built-in reader."""


class AgentUnusableError(JobError):
    """The agent cannot read this job file; another reader may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSource:
    """A job file and everything that decides how it reads."""

    path: Path
    text: str = ""
    """Its text; empty: it is read from `path`."""
    env: Mapping[str, str]
    variables: Sequence[str] = ()
    """`name=value`, the last wins."""
    var_files: Sequence[Path] = ()
    parser: Parser = Parser.AUTO
    nomad: str | None = None
    """Path of the Nomad program; None if there is no such program."""


def load_job(source: JobSource) -> Job:
    """Return the job in a file.

    Raises:
        JobError: the file cannot be read, is wrong, or has no VM to run.
        MissingPartError: the Nomad program was asked for and cannot be started.
    """
    notes: list[str] = []
    if not source.text:
        source = dataclasses.replace(source, text=_read(source.path))
    is_json = source.path.suffix == ".json" or source.text.lstrip().startswith("{")
    raw = _parse_json(source) if is_json else _parse_hcl(source, notes)
    job = job_from_api(raw, str(source.path))
    if not job.groups:
        raise JobError(
            f'{source.path} has no task with driver "vm"',
            hint=f"its other tasks: {', '.join(job.skipped)}" if job.skipped else None,
        )
    if not any(group.count for group in job.groups):
        raise JobError(f"{source.path}: nothing to run: count = 0")
    text = "" if is_json else source.text
    return dataclasses.replace(job, notes=(*notes, *job.notes), text=text)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise JobError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise JobError(f"{path} is not UTF-8 text") from exc


def _parse_json(source: JobSource) -> object:
    if source.variables or source.var_files:
        raise JobError(f"{source.path}: a JSON job has no variables")
    try:
        return json.loads(source.text)
    except json.JSONDecodeError as exc:
        raise JobError(f"{source.path}:{exc.lineno}: not JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise JobError(f"{source.path} is not a JSON job") from exc


def _parse_hcl(source: JobSource, notes: list[str]) -> object:
    """Return the job in API form; why the agent was not used is added to `notes`."""
    parser = source.parser
    if parser is Parser.NOMAD and source.nomad is None:
        raise JobError("there is no nomad program", hint="give its path with --nomad")
    if source.nomad is not None and parser in (Parser.AUTO, Parser.NOMAD):
        return parse_with_nomad(source.nomad, source)
    if parser is Parser.AGENT:
        return parse_with_agent(source)
    if parser is Parser.AUTO and source.env.get("NOMAD_ADDR"):
        try:
            return parse_with_agent(source)
        except AgentUnusableError as exc:
            notes.append(f"{exc}; the built-in reader reads the job file")
    # Imported here: it costs time that the others do not need.
    from qemu_node.run.jobfile.builtin import parse_hcl_job

    return parse_hcl_job(
        source.path,
        text=source.text,
        env=source.env,
        var_files=source.var_files,
        variables=source.variables,
    )


def parse_with_nomad(binary: str, source: JobSource) -> dict[str, Any]:
    """Return the job as the Nomad program `binary` reads it; of the environment it sees variables.

    Raises:
        JobError: Nomad refuses the file; the message is Nomad's, on one line.
        MissingPartError: the program cannot be started.
        ProcessError: it did not end.
    """
    argv = [binary, "job", "run", "-output"]
    argv += [f"-var-file={file}" for file in source.var_files]
    argv += [f"-var={variable}" for variable in source.variables]
    argv += ["-"] if source.path == STDIN else ["--", str(source.path)]
    passed = {key: value for key, value in source.env.items() if key.startswith(ENV_PREFIX)}
    done = run_blocking(
        argv,
        timeout_s=_PROGRAM_TIMEOUT_S,
        stdin=source.text.encode() if source.path == STDIN else b"",
        env=SAFE_ENV | passed,
        check=False,
    )
    if done.returncode != 0:
        raise JobError(_message(done.stderr.decode(errors="replace"), source.path))
    try:
        job = json.loads(done.stdout)["Job"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise JobError(f"{binary} printed no job for {source.path}") from exc
    return dict(job)


def _message(words: str, path: Path) -> str:
    """Return what Nomad said on one line, without the words that only say that it is an error."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Error getting job struct:")]
    return "; ".join(said) or f"{path}: nomad cannot read it"


def parse_with_agent(source: JobSource) -> dict[str, Any]:
    """Return the job as the agent at `NOMAD_ADDR` reads it; it is given the variables' values.

    Raises:
        AgentUnusableError: the agent did not answer in time, refused the token, or may not read
            the files that the job names.
        JobError: the agent refuses the file; the message is Nomad's, on one line.
    """
    variables = ""
    if source.variables or source.var_files or any(k.startswith(ENV_PREFIX) for k in source.env):
        # Imported here: a job without variables does not need it.
        from qemu_node.run.jobfile.syntax import Source, parse_body
        from qemu_node.run.jobfile.variables import variable_file

        variables = variable_file(
            parse_body(Source(str(source.path), source.text)),
            env=source.env,
            var_files=source.var_files,
            arguments=source.variables,
        )
    address = source.env.get("NOMAD_ADDR") or _DEFAULT_ADDRESS
    request = {"JobHCL": source.text, "Variables": variables, "Canonicalize": False}
    agent = f"the agent at {without_login(address)}"
    try:
        status, body = asyncio.run(_ask_agent(address, request, source.env))
    except TimeoutError as exc:
        raise AgentUnusableError(f"{agent} did not answer within {_AGENT_TIMEOUT_S:g} s") from exc
    except (OSError, ValueError) as exc:  # a certificate that cannot be read, too
        raise AgentUnusableError(f"{agent} cannot be asked: {exc}") from exc
    words = body.decode(errors="replace").replace("input.hcl:", f"{source.path}:")
    if status == 400 and "filesystem function disabled" in words:
        raise AgentUnusableError(f"{agent} reads no files, and the job needs one")
    if status == 400:
        raise JobError(_message(words.removeprefix("Failed to parse job:"), source.path))
    if status != 200:
        raise AgentUnusableError(f"{agent} answered {status}: {' '.join(words.split())[:200]}")
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError, RecursionError) as exc:
        raise AgentUnusableError(f"{agent} answered with no job") from exc


async def _ask_agent(
    address: str, request: Mapping[str, object], env: Mapping[str, str]
) -> tuple[int, bytes]:
    """Return the status and the body of the answer to `/v1/jobs/parse`.

    Raises:
        TimeoutError: it was not whole in time.
        OSError: the connection failed.
        ValueError: the address is wrong, the connection broke, or the answer is too large.
    """
    # Imported here: it takes a fifth of a second.
    import aiohttp

    context = ssl.create_default_context(cafile=env.get("NOMAD_CACERT") or None)
    if env.get("NOMAD_CLIENT_CERT"):
        context.load_cert_chain(env["NOMAD_CLIENT_CERT"], env.get("NOMAD_CLIENT_KEY"))
    headers = {"X-Nomad-Token": env["NOMAD_TOKEN"]} if env.get("NOMAD_TOKEN") else {}
    namespace = env.get("NOMAD_NAMESPACE") or "default"
    body = b""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_AGENT_TIMEOUT_S)) as session,
            session.post(
                f"{address.rstrip('/')}/v1/jobs/parse",
                params={"namespace": namespace},
                json=request,
                headers=headers,
                ssl=context,
                server_hostname=env.get("NOMAD_TLS_SERVER_NAME") or None,
                allow_redirects=False,
            ) as response,
        ):
            async for chunk in response.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > _AGENT_MAX_BYTES:
                    raise ValueError("the answer is too large")
            return response.status, body
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        # Without its cause, which repeats the user's password.
        raise ValueError("its address is not a URL of http or https") from None
    except aiohttp.ClientError as exc:
        # A failed connection prints objects of its library.
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise ValueError(reason) from exc
