import re
from pathlib import Path

import pytest

from qemu_node.errors import JobError
from qemu_node.run.jobfile.builtin import parse_hcl_job
from qemu_node.run.jobfile.job import Job, Port, VmTask, job_from_api
from qemu_node.run.jobfile.reader import JobSource, load_job

JOB = """
variable "image" { default = "disk.qcow2" }
variable "count" {
  type    = number
  default = 1
}
variable "keys" {
  type    = list(string)
  default = []
}
locals {
  label = "${var.image}-${local.suffix}"
  suffix = upper("x")
}
job "web" {
  meta { team = "a" }
  group "g" {
    count = var.count
    network {
      port "ssh" { to = 22 }
      port "web" { static = 8080 }
    }
    task "vm" {
      driver = "vm"
      kill_timeout = "1m30s"
      config {
BODY
      }
      env {
        N = 1
        F = true
      }
      resources {
        memory = 512
        cores = 2
      }
    }
    task "side" {
      driver = "exec"
      artifact { source = "http://x" }
    }
  }
}
"""


def write_job(tmp_path: Path, body: str = "image = var.image", text: str = JOB) -> Path:
    path = tmp_path / "web.nomad.hcl"
    path.write_text(text.replace("BODY", body))
    return path


def line_of(text: str) -> int:
    return JOB.count("\n", 0, JOB.index(text)) + 1


def load(path: Path, *variables: str, **env: str) -> Job:
    return job_from_api(parse_hcl_job(path, env=env, variables=variables), str(path))


def only_task(job: Job) -> VmTask:
    return job.groups[0].tasks[0]


def config_of(tmp_path: Path, body: str, *variables: str) -> object:
    return only_task(load(write_job(tmp_path, body), *variables)).config


def test_the_whole_job_becomes_the_model(tmp_path: Path) -> None:
    job = load(write_job(tmp_path), "count=1")
    task = only_task(job)
    assert (job.id, job.groups[0].name, task.name) == ("web", "g", "vm")
    assert job.groups[0].ports == (Port(label="web", static=8080), Port(label="ssh", to=22))
    assert task.kill_timeout_s == 90
    assert task.env == {"N": "1", "F": "true"}
    assert (task.resources.memory_mib, task.resources.cores) == (512, 2)
    assert job.meta == {"team": "a"}


def test_tasks_of_other_drivers_are_skipped_whatever_is_in_them(tmp_path: Path) -> None:
    assert load(write_job(tmp_path)).skipped == ("g/side (exec)",)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("var.image", "disk.qcow2"),
        ('"${var.image}.x"', "disk.qcow2.x"),
        ('"${var.count}"', 1),
        ("local.label", "disk.qcow2-X"),
        ("var.count + 2 * 3", 7),
        ("7 / 2", 3.5),
        ("-7 % 3", -1),
        ("var.count > 0 && !false ? 1 : 2", 1),
        ('"a" == "a"', True),
        ("true == 1", False),
        ('[1, "b", true]', [1, "b", True]),
        ('["a", "b"][1]', "b"),
        ('{ a = 1, "b" : 2 }["b"]', 2),
        ('join(",", ["a", "b"])', "a,b"),
        ("NOMAD_TASK_DIR", "${NOMAD_TASK_DIR}"),
        ('"x-${NOMAD_ALLOC_INDEX}"', "x-${NOMAD_ALLOC_INDEX}"),
        ('"${attr.kernel.name}"', "${attr.kernel.name}"),
        ('"${env["HOME"]}"', '${env["HOME"]}'),
        ('"${ NOMAD_ALLOC_INDEX }"', "${ NOMAD_ALLOC_INDEX }"),
        ("/* a */ 1 # b", 1),
        ('["# a", /* b */ "c"]', ["# a", "c"]),
        ('"${\n1\n}"', 1),
        ("<<_E-1\na\n _E-1 \t", "a\n"),
        ("<<Ä\na\nÄ", "a\n"),
        ("<<E\r\na\r\nE", "a\r\n"),
        ("<<-E\r\n  a\r\n\r\n    b\r\n  E", "a\r\n\r\n  b\r\n"),
        ("upper(<<E\na\nE\n)", "A\n"),
        ('"$${literal} \\"q\\" \\u00e4\\n"', '${literal} "q" ä\n'),
        ("<<EOT\n  a ${var.image}\n  $${b}\nEOT", "  a disk.qcow2\n  ${b}\n"),
        ("<<-EOT\n    a\n\n      b\n    EOT", "a\n\n  b\n"),
        ("<<-EOT\n    a\n  ${var.image}\n    EOT", "  a\ndisk.qcow2\n"),
    ],
)
def test_expressions_have_the_values_that_hcl_gives_them(
    tmp_path: Path, expression: str, value: object
) -> None:
    config = config_of(tmp_path, f"x = {expression}")
    assert config == {"x": value}
    assert type(config["x"]) is type(value)


def test_blocks_and_objects_of_config_have_nomads_api_form(tmp_path: Path) -> None:
    body = 'network { mode = "user" }\nports { ssh = 22 }\nmap = { a = 1 }\nnothing = null'
    assert config_of(tmp_path, body) == {
        "network": [{"mode": "user"}],
        "ports": [{"ssh": 22}],
        "map": [{"a": 1}],
    }


def test_numbers_and_truth_values_are_converted_as_nomad_does(tmp_path: Path) -> None:
    text = (
        JOB.replace("count = var.count", 'count = "1"')
        .replace("to = 22", "to = -1")
        .replace("static = 8080", 'static = "8080"')
        .replace("memory = 512", 'memory = "${500}"')
        .replace("N = 1", "N = 0.1234567")
        .replace("F = true", 'F = "x"')
        .replace("cores = 2", 'cpu = "1e3"')
    )
    template = 'destination = "y"\n data = "x"\n perms = 0755\n env = "false"'
    text = text.replace("      env {", f"      template {{\n{template}\n}}\n      env {{")
    job = load(write_job(tmp_path, text=text))
    task = only_task(job)
    assert job.groups[0].ports == (Port(label="web", static=8080), Port(label="ssh"))
    assert (task.resources.cpu_mhz, task.resources.memory_mib) == (1000, 500)
    assert task.env == {"N": "0.1234567", "F": "x"}
    assert task.templates[0].perms == 0o755


def test_a_file_of_variables_may_be_json(tmp_path: Path) -> None:
    values = tmp_path / "v.json"
    values.write_text('{"image": "file", "keys": ["k"], "count": "1", "unknown": 1}')
    path = write_job(tmp_path, "a = var.image\nb = var.keys")
    job = job_from_api(parse_hcl_job(path, env={}, var_files=[values]), "x")
    assert only_task(job).config == {"a": "file", "b": ["k"]}
    values.write_text("{")
    with pytest.raises(JobError, match="neither HCL nor JSON"):
        parse_hcl_job(path, env={}, var_files=[values])


def test_a_variables_block_declares_each_of_its_arguments(tmp_path: Path) -> None:
    text = 'variables {\n  memory = "768"\n}\n' + JOB.replace("memory = 512", "memory = var.memory")
    path = write_job(tmp_path, text=text)
    assert only_task(load(path)).resources.memory_mib == 768
    assert only_task(load(path, "memory=100")).resources.memory_mib == 100
    with pytest.raises(JobError, match="declared twice"):
        load(write_job(tmp_path, text="variables {\n  image = 1\n}\n" + JOB))


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    values = tmp_path / "v.hcl"
    values.write_bytes(b'\xef\xbb\xbfimage = "x"\n')
    job = job_from_api(parse_hcl_job(path, env={}, var_files=[values]), "x")
    assert only_task(job).config == {"image": "x"}


def test_a_file_with_crlf_is_read_as_one_with_lf(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    as_it_is = load(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(path) == as_it_is


def test_names_may_have_letters_beyond_ascii(tmp_path: Path) -> None:
    text = JOB.replace("N = 1", "größe = 1")
    assert only_task(load(write_job(tmp_path, text=text))).env["größe"] == "1"


@pytest.mark.parametrize("block", ["vault {}", 'secret "x" {}'])
@pytest.mark.parametrize("place", ['job "web" {', 'group "g" {'])
def test_what_tasks_inherit_is_refused_for_vms_alone(
    tmp_path: Path, block: str, place: str
) -> None:
    text = JOB.replace(place, f"{place}\n{block}")
    with pytest.raises(JobError, match=r"task 'vm' has (Vault|Secrets)"):
        load(write_job(tmp_path, text=text))
    assert load(write_job(tmp_path, text=text.replace('driver = "vm"', 'driver = "exec"'))).skipped


def test_a_task_right_below_the_job_comes_first(tmp_path: Path) -> None:
    task = 'task "first" {\n  driver = "vm"\n}\n'
    job = load(write_job(tmp_path, text=JOB.replace("  meta {", f"  {task}  meta {{")))
    assert [group.name for group in job.groups] == ["first", "g"]


def test_files_are_read_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "seed.txt").write_bytes(b"\xef\xbb\xbfseed\r\n")
    assert config_of(tmp_path, 'x = file("seed.txt")') == {"x": "\ufeffseed\r\n"}


def test_variables_come_from_defaults_environment_files_and_arguments(tmp_path: Path) -> None:
    values = tmp_path / "v.hcl"
    values.write_text('image = "file"\nkeys = ["k"]\nunknown = 1\n')
    path = write_job(tmp_path, "a = var.image\nb = var.keys")
    from_file = parse_hcl_job(path, env={"NOMAD_VAR_image": "env"}, var_files=[values])
    assert only_task(job_from_api(from_file, "x")).config == {"a": "file", "b": ["k"]}
    assert only_task(load(path, NOMAD_VAR_image="env")).config == {"a": "env", "b": []}
    given = only_task(load(path, "image=arg", 'keys=["x", "y"]', NOMAD_VAR_image="env"))
    assert given.config == {"a": "arg", "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("body", "line", "problem"),
    [
        ("x = [for k in var.keys : k]", 0, "`for` expressions"),
        ("x = var.keys[*].a", 0, "splat"),
        ('x = "%{ if true }a%{ endif }"', 0, "directives"),
        ("x = <<EOT\na\n%{ if true }\nEOT", 2, "directives"),
        ("x = jsonencode({})", 0, r"jsonencode\(\)"),
        ("x = var.nope", 0, "no variable 'nope'"),
        ('x = "${local.nope}"', 0, "no local value 'nope'"),
        ("x = <<EOT\na\n${var.nope}\nEOT", 2, "no variable 'nope'"),
        ('x = 1\ny = file("missing")', 1, "No such file"),
        ("x = 1 / 0", 0, "division by zero"),
        ("x = 1 y = 2", 0, "new line"),
        ("x = ", 0, "not HCL"),
        ("x = 1\nx = 2", 1, "given twice"),
        ("x = <<EOT\na\n", 0, "no line 'EOT'"),
        ('x = "\\d"', 0, "no escape"),
        ('x = "a\nb"', 0, "ends on its line"),
        ('dynamic "network" {\nfor_each = []\n}', 0, "dynamic"),
    ],
)
def test_what_cannot_be_evaluated_is_named_with_file_and_line(
    tmp_path: Path, body: str, line: int, problem: str
) -> None:
    path = write_job(tmp_path, body)
    with pytest.raises(
        JobError, match=f"^{re.escape(str(path))}:{line_of('BODY') + line}: .*{problem}"
    ):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("kill_timeout = ", "kill_time = ", "no argument 'kill_time'"),
        ('kill_timeout = "1m30s"', 'artifact { source = "x" }', "artifact"),
        ('kill_timeout = "1m30s"', "lifecycle {}", "lifecycle"),
        ("count = var.count", "counts = 1", "no argument 'counts'"),
        ('meta { team = "a" }', "periodic {}", "periodic"),
        ('job "web" {', "job {", "one label"),
        ('driver = "vm"', "", "no driver"),
        ('suffix = upper("x")', "suffix = local.label", "depends on itself"),
        ("count = var.count", 'count = "x"', "count: 'x' is not a number"),
        ("count = var.count", "count = 1.5", "count: 1.5 is not a whole number"),
        ("memory = 512", "memory = true", "memory: True is not a number"),
        ('kill_timeout = "1m30s"', 'kill_timeout = "1d"', "not a duration"),
        ("N = 1", "N = [1]", "N: a list is not a string"),
        ('kill_timeout = "1m30s"', "csi_plugin {}", "csi_plugin"),
        ("F = true\n      }", "F = true\n      }\n      env {}", "second env"),
    ],
)
def test_wrong_or_unsupported_parts_are_named_with_file_and_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = write_job(tmp_path, "x = local.label", JOB.replace(old, new, 1))
    line = line_of('task "vm"' if not new else "label =" if "label" in new else old)
    line += 2 if "second" in problem else 0
    with pytest.raises(JobError, match=f":{line}: .*{problem}"):
        load(path)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (["count=x"], "variable 'count' is of the type number: 'x' is not a number"),
        (["keys=1"], r"variable 'keys' is of the type list\(string\): 1 is not a list"),
        (["nope=1"], "declares no such variable"),
        (["image"], "has no value"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variables: list[str], problem: str) -> None:
    with pytest.raises(JobError, match=problem):
        load(write_job(tmp_path), *variables)


def test_a_variable_without_any_value_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_job(tmp_path, text='variable "a" {}\n' + JOB)
    with pytest.raises(JobError, match=r":1: variable 'a' has no value"):
        load(path)


def test_a_file_without_vm_tasks_is_refused_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x.nomad.hcl"
    path.write_text('job "j" {\n group "g" {\n  task "t" {\n   driver = "exec"\n  }\n }\n}\n')
    with pytest.raises(JobError, match='no task with driver "vm"') as caught:
        load_job(JobSource(path=path, env={}))
    assert caught.value.hint == "its other tasks: g/t (exec)"


def test_a_job_whose_groups_all_have_a_count_of_zero_has_nothing_to_run(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    source = JobSource(path=path, env={}, variables=["count=0"])
    with pytest.raises(JobError, match="nothing to run: count = 0"):
        load_job(source)


def test_a_file_that_ends_within_a_block_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "web.nomad.hcl"
    path.write_text('job "web" {\n  group "web" {\n')
    with pytest.raises(JobError, match=f"^{re.escape(str(path))}:3: .*is a }} missing"):
        parse_hcl_job(path, env={})
