"""The readers of a job file: against each other, and agents that answer wrongly."""

import asyncio
import dataclasses
import os
import socket
from pathlib import Path

import pytest
from fakes.http_peer import HttpPeer, PeerRequest, Reply

from qemu_node.errors import JobError
from qemu_node.run.jobfile import reader
from qemu_node.run.jobfile.job import Job
from qemu_node.run.jobfile.reader import STDIN, JobSource, Parser, load_job

EXAMPLES = Path(__file__).parents[2] / "examples"
VARIABLES = {"minimal.nomad.hcl": ["image=/srv/x.qcow2"]}

TRICKY = """
variable "n" { default = 2 }
variable "o" { default = { a = 1 } }
variable "ratio" {
  type    = map(number)
  default = { x = "1.5" }
}
locals {
  both = "${local.one}-${var.n}"
  one  = upper("a")
}
job "with space" {
  datacenters = ["*"]
  meta = { "a.b" = true }
  group "g" {
    count = var.n
    network {
      port "ssh" { to = 22 }
      port "web" {}
    }
    service {
      name = "x"
      port = "ssh"
    }
    task "vm" {
      driver       = "vm"
      kill_timeout = "1m"
      kill_signal  = "SIGQUIT"
      config {
        image   = NOMAD_TASK_DIR
        args    = [local.both, "x${NOMAD_ALLOC_ID}y", "$${z}", "${attr.kernel.name}"]
        a       = { b = { c = 1 } }
        o       = var.o
        list    = [{ x = 1 }, { y = [1, { z = 2 }] }]
        ratio   = var.ratio["x"]
        text    = "${1.5}-${true}-${3}-${var.o.a}"
        cond    = var.n > 1 && var.o.a == 1 ? "yes" : "no"
        math    = (var.n + 1) * 3 - 7 / 2
        nothing = null
        labelled "one" "two" { q = 1 }
        labelled "three" { q = 1.50 }
        network { mode = "user" }
      }
      env = { A = true, B = 1.5 }
      template {
        destination = "local/a"
        perms       = "0600"
        data        = <<-EOT
          #cloud-config
            deeper: {{ env "X" }}

          last: ${var.n} $${kept} ${NOMAD_META_x}
        EOT
      }
      template {
        destination     = "local/b"
        left_delimiter  = "[["
        right_delimiter = "]]"
        data            = <<EOT
  kept "quoted" \\n ${local.one}
EOT
      }
      resources {
        cores      = 1
        memory     = 512
        memory_max = 1024
      }
    }
    task "other" {
      driver = "raw_exec"
      config { command = "/bin/true" }
    }
  }
}
"""


CONVERTED = """
variable "mem" {}
variables {
  cpu   = "500"
  count = "2"
  merge = "true"
}
job "converted" {
  group "g" {
    count = var.count
    network {
      port "web" { to = "8080" }
    }
    task "vm" {
      driver = "vm"
      config {
        image = "${attr.driver.vm.accelerator}.qcow2"
        cpus  = "2"
        merge = var.merge
      }
      env = { PORT = 80 }
      resources {
        cpu    = var.cpu
        memory = var.mem
      }
    }
  }
}
"""


def read(path: Path, variables: list[str], parser: Parser) -> Job:
    nomad = os.environ["NOMAD"] if parser is Parser.NOMAD else None
    return load_job(JobSource(path=path, env={}, variables=variables, parser=parser, nomad=nomad))


@pytest.mark.needs_nomad
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.nomad.hcl")))
def test_both_parsers_read_the_examples_alike(name: str) -> None:
    variables = VARIABLES.get(name, [])
    by_nomad = read(EXAMPLES / name, variables, Parser.NOMAD)
    assert read(EXAMPLES / name, variables, Parser.HCL2) == by_nomad


@pytest.mark.needs_nomad
@pytest.mark.parametrize("variables", [[], ["n=1"], ["o={a=5,b=6}", 'ratio={x="2"}']])
def test_both_parsers_read_a_tricky_job_alike(tmp_path: Path, variables: list[str]) -> None:
    path = tmp_path / "tricky.nomad.hcl"
    path.write_text(TRICKY)
    by_nomad = read(path, variables, Parser.NOMAD)
    assert read(path, variables, Parser.HCL2) == by_nomad


@pytest.mark.needs_nomad
def test_both_parsers_convert_values_alike(tmp_path: Path) -> None:
    path = tmp_path / "converted.nomad.hcl"
    path.write_text(CONVERTED)
    by_nomad = read(path, ["mem=512"], Parser.NOMAD)
    assert by_nomad.groups[0].tasks[0].resources.memory_mib == 512
    assert read(path, ["mem=512"], Parser.HCL2) == by_nomad


@pytest.mark.needs_nomad
def test_the_nomad_program_reads_a_job_from_stdin() -> None:
    source = JobSource(
        path=STDIN, text=TRICKY, env={}, parser=Parser.NOMAD, nomad=os.environ["NOMAD"]
    )
    by_nomad = load_job(source)
    assert load_job(dataclasses.replace(source, parser=Parser.HCL2)) == by_nomad


@pytest.mark.needs_nomad
def test_what_nomad_refuses_is_told_on_one_line_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.nomad.hcl"
    path.write_text('job "x" {\n  nope = 1\n}\n')
    with pytest.raises(JobError, match=r"wrong\.nomad\.hcl:2,3-7: Unsupported argument") as caught:
        read(path, [], Parser.NOMAD)
    assert "\n" not in str(caught.value)


class AgentPeer(HttpPeer):
    """An agent whose answer to a job is chosen by the test."""

    reply = Reply()

    def answer(self, request: PeerRequest) -> Reply:
        return self.reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(200, b" " * (9 << 20)), "the answer is too large"),
        (Reply(302, headers={"Location": "http://127.0.0.1:1/"}), "answered 302"),
        (Reply(403, b"Permission denied"), "answered 403: Permission denied"),
        # Less than it promises: the answer never ends, until the peer closes.
        (Reply(200, b"{", headers={"Content-Length": "100"}), "cannot be asked: "),
    ],
    ids=["large", "redirected", "refused", "cut"],
)
async def test_an_agent_that_answers_wrongly_leaves_the_job_to_the_built_in_reader(
    reply: Reply, reason: str
) -> None:
    async with AgentPeer.running() as peer:
        peer.reply = reply
        env = {"NOMAD_ADDR": f"{peer.url}/", "NOMAD_TOKEN": "secret", "NOMAD_NAMESPACE": "team"}
        job = await asyncio.to_thread(load_job, JobSource(path=STDIN, text=TRICKY, env=env))
    assert reason in job.notes[0]
    (request,) = peer.requests
    assert request.target == "/v1/jobs/parse?namespace=team"
    assert request.headers["x-nomad-token"] == "secret"


async def test_an_agent_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_AGENT_TIMEOUT_S", 0.2)
    # The kernel accepts the connection; nobody reads from it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"NOMAD_ADDR": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        job = await asyncio.to_thread(load_job, JobSource(path=STDIN, text=TRICKY, env=env))
    assert "did not answer within 0.2 s" in job.notes[0]


async def test_no_agent_is_reached_behind_a_wrong_address() -> None:
    for address in ("127.0.0.1:4646", "unix:///run/nomad.sock", "http://127.0.0.1:1", "http://["):
        source = JobSource(path=STDIN, text=TRICKY, env={"NOMAD_ADDR": address})
        job = await asyncio.to_thread(load_job, source)
        assert f"the agent at {address} cannot be asked" in job.notes[0]
