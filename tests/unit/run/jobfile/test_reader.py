import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from qemu_node.errors import JobError
from qemu_node.run.jobfile import reader
from qemu_node.run.jobfile.reader import STDIN, JobSource, Parser, load_job

JOB = {
    "ID": "web",
    "TaskGroups": [
        {"Name": "web", "Tasks": [{"Name": "vm", "Driver": "vm", "Config": {"image": "x"}}]}
    ],
}
HCL = """
variable "image" { default = "x" }
variable "tags" {
  type    = list(string)
  default = []
}
job "web" {
  group "web" {
    task "vm" {
      driver = "vm"
      config { image = var.image }
    }
  }
}
"""
ENV = {"NOMAD_ADDR": "http://user:secret@127.0.0.1:1", "NOMAD_TOKEN": "secret"}


class FakeAgent:
    """What an agent is asked, and its answer."""

    def __init__(self, answer: tuple[int, str] | Exception) -> None:
        self._answer = answer
        self.requests: list[Mapping[str, object]] = []

    async def __call__(
        self, address: str, request: Mapping[str, object], env: Mapping[str, str]
    ) -> tuple[int, bytes]:
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer[0], self._answer[1].encode()


def hcl(**more: object) -> JobSource:
    return JobSource(path=STDIN, text=HCL, env=ENV, **more)  # type: ignore[arg-type]


def agent(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str] | Exception) -> FakeAgent:
    fake = FakeAgent(answer)
    monkeypatch.setattr(reader, "_ask_agent", fake)
    return fake


def test_a_json_job_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    path.write_text(json.dumps(JOB), encoding="utf-8-sig")
    job = load_job(JobSource(path=path, env={}))
    assert [group.name for group in job.groups] == ["web"]


@pytest.mark.parametrize("text", [HCL, json.dumps(JOB)])
def test_a_job_from_stdin_is_hcl_or_json(text: str) -> None:
    assert load_job(JobSource(path=STDIN, text=text, env={})).id == "web"


def test_a_mistake_in_a_job_from_stdin_is_named_with_its_line() -> None:
    with pytest.raises(JobError, match=r"^stdin:11: "):
        load_job(JobSource(path=STDIN, text=HCL.replace("config {", "confg {"), env={}))


def test_the_agent_is_given_the_job_and_the_values_of_its_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = agent(monkeypatch, (200, json.dumps(JOB)))
    source = hcl(variables=['image=${a} "b" %{c}', 'tags=["t"]'])
    job = load_job(source)
    assert (job.id, job.notes, job.text) == ("web", (), HCL)
    (request,) = fake.requests
    assert request["JobHCL"] == HCL
    assert request["Variables"] == 'image = "$${a} \\"b\\" %%{c}"\ntags = ["t"]\n'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (TimeoutError(), "did not answer within 10 s"),
        (ConnectionRefusedError("refused"), "cannot be asked: refused"),
        (ValueError("the answer is too large"), "cannot be asked: the answer is too large"),
        ((403, "Permission denied"), "answered 403: Permission denied"),
        (
            (400, "input.hcl:3: filesystem function disabled"),
            "reads no files, and the job needs one",
        ),
        ((200, "<html>"), "answered with no job"),
        ((200, "[" * 200_000), "answered with no job"),
    ],
)
def test_where_the_agent_cannot_read_the_built_in_reader_does_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str] | Exception, reason: str
) -> None:
    agent(monkeypatch, answer)
    (note,) = load_job(hcl()).notes
    assert reason in note
    assert note.endswith("the built-in reader reads the job file")
    assert "secret" not in note
    with pytest.raises(JobError, match=r"the agent at http://127\.0\.0\.1:1 "):
        load_job(hcl(parser=Parser.AGENT))


@pytest.mark.parametrize(
    "address",
    ["http://u:secr/et@[bad", "ftp://u:secr/et@h", "u:secr/et@h:1", "https://u:secr/et@h:99999"],
)
def test_an_address_that_is_wrong_is_named_without_its_password(address: str) -> None:
    (note,) = load_job(JobSource(path=STDIN, text=HCL, env={"NOMAD_ADDR": address})).notes
    assert "its address is not a URL of http or https" in note
    assert "secr" not in note


def test_a_job_that_the_agent_refuses_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Failed to parse job: input.hcl:2,3-7: Unsupported argument\nnope"
    agent(monkeypatch, (400, words))
    with pytest.raises(JobError, match=r"^stdin:2,3-7: Unsupported argument; nope$"):
        load_job(hcl())


@pytest.mark.parametrize("more", [{"parser": Parser.HCL2}, {"env": {}}])
def test_no_agent_is_asked_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    fake = agent(monkeypatch, (200, json.dumps(JOB)))
    load_job(JobSource(**({"path": STDIN, "text": HCL, "env": ENV} | more)))  # type: ignore[arg-type]
    assert not fake.requests
