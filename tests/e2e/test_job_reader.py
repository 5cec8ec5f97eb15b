"""A job file read by a running agent, `/v1/jobs/parse`, against the other readers."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.nomad_agent import free_ports
from integration.test_run_jobfile import CONVERTED, TRICKY

from qemu_node.errors import JobError
from qemu_node.host.process import command, pidfd
from qemu_node.run.jobfile.job import Job
from qemu_node.run.jobfile.reader import JobSource, Parser, load_job

pytestmark = pytest.mark.needs_nomad

_AGENT = """
data_dir = "{data}"
bind_addr = "127.0.0.1"
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}}
disable_update_check = true
ports {{
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
server {{
  enabled          = true
  bootstrap_expect = 1
}}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an agent that is a server only: reading a job needs no client."""
    directory = tmp_path_factory.mktemp("agent")
    http, rpc, serf = free_ports(3)
    config = directory / "agent.hcl"
    config.write_text(_AGENT.format(data=directory / "data", http=http, rpc=rpc, serf=serf))
    log_fd = os.open(directory / "log", os.O_WRONLY | os.O_CREAT)
    try:
        child = command.spawn(
            [os.environ["NOMAD"], "agent", f"-config={config}"],
            stderr_fd=log_fd,
            env={**command.SAFE_ENV, "HOME": str(directory)},
        )
    finally:
        os.close(log_fd)
    try:
        while not _answers(http):
            assert child.exit_status() is None, (directory / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{http}"
    finally:
        pidfd.send_signal(child.process, signal.SIGKILL)
        asyncio.run(pidfd.wait_gone(child.process))
        child.exit_status()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def read(path: Path, parser: Parser, variables: list[str], agent: str, **env: str) -> Job:
    source = JobSource(
        path=path,
        env={"NOMAD_ADDR": agent} | env,
        variables=variables,
        parser=parser,
        nomad=os.environ["NOMAD"] if parser is Parser.NOMAD else None,
    )
    return load_job(source)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (TRICKY, []),
        (TRICKY, ["n=1", "o={a=5,b=6}", 'ratio={x="2"}']),
        (CONVERTED, ["mem=512"]),
    ],
)
def test_an_agent_reads_a_job_as_the_nomad_program_does(
    tmp_path: Path, agent: str, text: str, variables: list[str]
) -> None:
    path = tmp_path / "web.nomad.hcl"
    path.write_text(text)
    by_program = read(path, Parser.NOMAD, variables, agent)
    assert read(path, Parser.AGENT, variables, agent) == by_program
    assert read(path, Parser.AUTO, variables, agent, NOMAD_VAR_n="7") == read(
        path, Parser.NOMAD, variables, agent, NOMAD_VAR_n="7"
    )


def test_what_an_agent_refuses_is_told_on_one_line_with_file_and_line(
    tmp_path: Path, agent: str
) -> None:
    path = tmp_path / "wrong.nomad.hcl"
    path.write_text('job "x" {\n  nope = 1\n}\n')
    with pytest.raises(JobError, match=r"wrong\.nomad\.hcl:2,3-7: Unsupported argument") as caught:
        read(path, Parser.AUTO, [], agent)
    assert "\n" not in str(caught.value)


def test_a_job_with_files_is_read_without_the_agent_which_may_not(
    tmp_path: Path, agent: str
) -> None:
    path = tmp_path / "web.nomad.hcl"
    (tmp_path / "seed").write_text("seed")
    path.write_text(CONVERTED.replace('cpus  = "2"', 'x = file("seed")'))
    job = read(path, Parser.AUTO, ["mem=512"], agent)
    assert job.groups[0].tasks[0].config["x"] == "seed"
    assert "reads no files" in job.notes[0]
