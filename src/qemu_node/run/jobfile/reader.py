"""Reading a job file, whichever form it has and whichever parser is at hand.

Owns the choice: `.json` files are read as Nomad's API form; HCL by the Nomad program where there is
one, since it evaluates all of HCL, else by python-hcl2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qemu_node.errors import JobError
from qemu_node.host.process.command import SAFE_ENV, run_blocking
from qemu_node.run.jobfile.job import Job, job_from_api
from qemu_node.run.jobfile.variables import ENV_PREFIX

_TIMEOUT_S = 60.0


class Parser(StrEnum):
    """Who reads HCL."""

    AUTO = "auto"
    NOMAD = "nomad"
    HCL2 = "hcl2"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSource:
    """A job file and everything that decides how it reads."""

    path: Path
    env: Mapping[str, str]
    variables: Sequence[str] = ()
    """`name=value`, the last wins."""
    var_files: Sequence[Path] = ()
    parser: Parser = Parser.AUTO
    nomad: str | None = None
    """Path of the Nomad program; None: there is none."""


def load_job(source: JobSource) -> Job:
    """Return the job in a file.

    Raises:
        JobError: the file cannot be read, is wrong, or has no VM task.
        MissingPartError: the Nomad program was asked for and cannot be started.
    """
    if not source.path.is_file():
        raise JobError(f"{source.path}: no such file")
    job = job_from_api(_parse(source), str(source.path))
    if not job.groups:
        raise JobError(
            f'{source.path} has no task with driver "vm"',
            hint=f"its other tasks: {', '.join(job.skipped)}" if job.skipped else None,
        )
    return job


def _parse(source: JobSource) -> object:
    if source.path.suffix == ".json":
        return _parse_json(source)
    if source.parser is Parser.NOMAD and source.nomad is None:
        raise JobError("there is no nomad program", hint="give its path with --nomad")
    # Imported here: each parser costs time that the other does not need.
    if source.nomad is not None and source.parser is not Parser.HCL2:
        return parse_with_nomad(
            source.nomad,
            source.path,
            env=source.env,
            var_files=source.var_files,
            variables=source.variables,
        )
    from qemu_node.run.jobfile.builtin import parse_hcl_job

    return parse_hcl_job(
        source.path, env=source.env, var_files=source.var_files, variables=source.variables
    )


def _parse_json(source: JobSource) -> object:
    if source.variables or source.var_files:
        raise JobError(f"{source.path}: a JSON job has no variables")
    try:
        return json.loads(source.path.read_bytes().decode("utf-8-sig"))
    except OSError as exc:
        raise JobError(f"cannot read {source.path}: {exc.strerror}") from exc
    except json.JSONDecodeError as exc:
        raise JobError(f"{source.path}:{exc.lineno}: not JSON: {exc.msg}") from exc
    except (UnicodeDecodeError, RecursionError) as exc:
        raise JobError(f"{source.path} is not a JSON job") from exc


def parse_with_nomad(
    binary: str,
    path: Path,
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path] = (),
    variables: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the job in the file `path` as the Nomad program `binary` reads it.

    Args:
        binary: The program's path.
        path: The job file.
        env: The environment; only `NOMAD_VAR_…` reaches the program.
        var_files: Files of variable values.
        variables: `name=value` of the command line.

    Raises:
        JobError: Nomad refuses the file; the message is Nomad's, on one line.
        MissingPartError: the program cannot be started.
        ProcessError: it did not end.
    """
    argv = [binary, "job", "run", "-output"]
    argv += [f"-var-file={file}" for file in var_files]
    argv += [f"-var={variable}" for variable in variables]
    passed = {key: value for key, value in env.items() if key.startswith(ENV_PREFIX)}
    done = run_blocking(
        [*argv, "--", str(path)], timeout_s=_TIMEOUT_S, env=SAFE_ENV | passed, check=False
    )
    if done.returncode != 0:
        raise JobError(_message(done.stderr.decode(errors="replace"), path))
    try:
        job = json.loads(done.stdout)["Job"]
    except (ValueError, KeyError, TypeError) as exc:
        raise JobError(f"{binary} printed no job for {path}") from exc
    return dict(job)


def _message(stderr: str, path: Path) -> str:
    """Return what Nomad said, less the words that say that it is an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Error getting job struct:")]
    return "; ".join(told) or f"{path}: nomad cannot read it"
