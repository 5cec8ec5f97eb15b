"""A job file → Nomad's API form of it, by the Nomad program: `job run -output` needs no agent."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qemu_node.errors import JobError
from qemu_node.host.process.command import SAFE_ENV, run_blocking
from qemu_node.run.jobfile.variables import ENV_PREFIX

_TIMEOUT_S = 60.0


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
