import dataclasses
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import parse_options, task_schema
from qemu_node.run.allocation.placement import place
from qemu_node.run.allocation.taskconfig import (
    DriverFacts,
    interpolate,
    interpolate_simple,
    interpolate_value,
    prepare_task,
)
from qemu_node.run.jobfile.job import job_from_api

FACTS = DriverFacts(
    task_schema=task_schema(), has_own_paths=True, attributes={"driver.vm.accelerator": "tcg"}
)


def prepare(tmp_path: Path, text: str = "", **task: object) -> driver_pb2.TaskConfig:
    vm = {"Name": "vm", "Driver": "vm", "Config": {"image": "x"}} | task
    networks = [{"DynamicPorts": [{"Label": "ssh", "To": 22}]}]
    raw = {"ID": "j", "TaskGroups": [{"Name": "g", "Tasks": [vm], "Networks": networks}]}
    job = dataclasses.replace(job_from_api(raw, "job.hcl"), text=text)
    placement = place(job, free_ports=lambda _: [20022], cpus=[2, 3])[0]
    return prepare_task(placement, FACTS, session=tmp_path, node_id="n")


def template(data: str, destination: str = "local/config-drive/a/b", **more: object) -> object:
    return [{"EmbeddedTmpl": data, "DestPath": destination} | more]


def test_options_arrive_with_variables_filled_in(tmp_path: Path) -> None:
    config = {"image": "${NOMAD_TASK_DIR}/x-${NOMAD_ALLOC_INDEX}.raw", "ports": [{"ssh": 22}]}
    task = prepare(tmp_path, Config=config)
    options = parse_options(task.msgpack_driver_config)
    assert options.image == "/local/x-0.raw"
    assert options.ports == {"ssh": 22}


def test_resources_and_ports_are_those_of_nomad(tmp_path: Path) -> None:
    wanted = {"Cores": 2, "MemoryMB": 512, "MemoryMaxMB": 1024}
    resources = prepare(tmp_path, Resources=wanted).resources
    assert resources.allocated_resources.memory.memory_mb == 512
    assert resources.allocated_resources.memory.memory_max_mb == 1024
    assert resources.linux_resources.memory_limit_bytes == 1024 << 20
    assert resources.linux_resources.cpuset_cpus == "2,3"
    assert resources.linux_resources.cpuset_cgroup == ""
    port = resources.ports[0]
    assert (port.label, port.value, port.to, port.host_ip) == ("ssh", 20022, 22, "127.0.0.1")


def test_directories_are_laid_out_as_nomad_does(tmp_path: Path) -> None:
    alloc_dir = Path(prepare(tmp_path).alloc_dir)
    for name in ("alloc/logs", "alloc/tmp", "alloc/data", "vm/local", "vm/tmp", "vm/secrets"):
        assert (alloc_dir / name).is_dir()
    assert stat.S_IMODE((alloc_dir / "vm" / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((alloc_dir / "alloc" / "logs").stat().st_mode) == 0o777


def test_a_template_keeps_the_line_ends_of_windows(tmp_path: Path) -> None:
    first = {"EmbeddedTmpl": "a\r\nb\r\n", "DestPath": "local/t"}
    second = {"SourcePath": "local/t", "DestPath": "local/u"}
    task = prepare(tmp_path, Templates=[first, second])
    local = Path(task.alloc_dir) / "vm" / "local"
    assert (local / "t").read_bytes() == (local / "u").read_bytes() == b"a\r\nb\r\n"


def test_templates_are_rendered_before_the_start(tmp_path: Path) -> None:
    data = 'n={{ env "NOMAD_ALLOC_INDEX" }} own={{ env "OWN" }} ${NOMAD_ALLOC_INDEX}\n'
    templates = template(data, "local/${NOMAD_JOB_ID}/f", Perms="0600")
    task = prepare(tmp_path, Templates=templates, Env={"OWN": "${NOMAD_JOB_ID}"})
    written = Path(task.alloc_dir) / "vm" / "local" / "j" / "f"
    assert written.read_text() == "n=0 own=j ${NOMAD_ALLOC_INDEX}\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert task.env["OWN"] == "j"


def test_a_source_template_is_read_from_the_task_directory(tmp_path: Path) -> None:
    first = {"EmbeddedTmpl": "[[ x ]]", "DestPath": "local/t"}
    second = {"SourcePath": "/local/t", "DestPath": "local/u", "LeftDelim": "<<",
              "RightDelim": ">>"}  # fmt: skip
    task = prepare(tmp_path, Templates=[first, second])
    assert (Path(task.alloc_dir) / "vm" / "local" / "u").read_text() == "[[ x ]]"


@pytest.mark.parametrize("destination", ["../x", "local/../../x", "/", "."])
def test_a_destination_outside_the_task_directory_is_refused(
    tmp_path: Path, destination: str
) -> None:
    with pytest.raises(JobError, match="not inside the task directory"):
        prepare(tmp_path, Templates=template("x", destination))


def test_a_link_out_of_the_task_directory_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    placed = Path(prepare(tmp_path).alloc_dir)
    (placed / "vm" / "local" / "evil").symlink_to(outside)
    from qemu_node.run.allocation.allocdir import write_rendered

    with pytest.raises(JobError):
        write_rendered("local/evil/x", "text", 0o644, placed / "vm", "t")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({"Config": {"image": "${NOPE}"}}, r"g\[0\]: config.image: .*NOPE"),
        ({"Config": {"imge": "x"}}, 'no option "imge"'),
        ({"Env": {"A": "${NOPE}"}}, r"g\[0\]: env A: .*NOPE"),
        ({"Templates": template("{{ key }}")}, r"template 1 \(local/config-drive/a/b\), line 1"),
    ],
)
def test_a_mistake_is_named_with_its_vm(
    tmp_path: Path, task: dict[str, object], problem: str
) -> None:
    with pytest.raises(JobError, match=problem):
        prepare(tmp_path, "", **task)


TEXT = """
job "j" {
  group "other" {
    task "vm" {
      config { imge = 0 }
    }
  }
  group "g" {
    task "vm" {
      config {
        image = "x"
        network { mode = "user" }
        network {
          vlan = [
            "many"
          ]
        }
        imge = 1
      }
    }
  }
}
"""


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"imge": 1}, 'job.hcl:18: config: there is no option "imge"'),
        (
            {"image": "x", "network": [{}, {"vlan": []}]},
            "job.hcl:14: config.network[1].vlan: a value of type",
        ),
        (
            {"image": "x", "network": [{}, {"vlam": 1}]},
            "job.hcl:13: config.network[1]: there is no option",
        ),
        ({"image": None}, "job.hcl:11: config.image is required"),
        ({"image": "x", "cpus": "many"}, "job.hcl:10: config.cpus: a value of type number"),
    ],
)
def test_a_wrong_option_is_named_with_its_file_and_line(
    tmp_path: Path, config: dict[str, object], place: str
) -> None:
    with pytest.raises(JobError) as caught:
        prepare(tmp_path, text=TEXT, Config=config)
    assert str(caught.value).startswith(place)


def test_a_wrong_option_of_a_job_without_hcl_has_no_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^config: there is no option"):
        prepare(tmp_path, Config={"image": "x", "imge": 1})


def test_options_know_what_the_driver_says_of_the_node(tmp_path: Path) -> None:
    task = prepare(tmp_path, Config={"image": "${attr.driver.vm.accelerator}-${attr.driver.vm}"})
    assert parse_options(task.msgpack_driver_config).image == "tcg-1"


VALUES = {"NOMAD_ALLOC_INDEX": "3", "attr.kernel.name": "linux", "node.datacenter": "dc1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm-${NOMAD_ALLOC_INDEX}", "vm-3"),
        ("${ NOMAD_ALLOC_INDEX }", "3"),
        ('${env["NOMAD_ALLOC_INDEX"]}', "3"),
        ("${attr.kernel.name}", "linux"),
        ("${node.attr.kernel.name}", "linux"),
        ('${attr["kernel.name"]}', "linux"),
        ("${node.datacenter}", "dc1"),
        ("$${NOMAD_ALLOC_INDEX}", "${NOMAD_ALLOC_INDEX}"),
        ("$5 {x} 100%", "$5 {x} 100%"),
    ],
)
def test_config_strings_are_filled_in_as_nomad_does(text: str, expected: str) -> None:
    assert interpolate(text, VALUES, "config.image") == expected


def test_an_unknown_name_is_named_with_its_option() -> None:
    with pytest.raises(JobError, match=r"config\.args\[1\].*NOMAD_NOPE"):
        interpolate_value({"args": ["x", "${NOMAD_NOPE}"]}, VALUES, "config")


@pytest.mark.parametrize("text", ["${upper(NOMAD_ALLOC_INDEX)}", "${1 + 1}", "${}", "${a", "%{if}"])
def test_more_than_a_name_is_refused_not_guessed(text: str) -> None:
    with pytest.raises(JobError):
        interpolate(text, VALUES, "config.image")


def test_other_values_than_strings_stay_as_they_are() -> None:
    config = {"cpus": 2, "network": [{"mode": "user"}], "merge": True}
    assert interpolate_value(config, VALUES, "config") == config


def test_env_values_know_no_escape() -> None:
    assert interpolate_simple("$${NOMAD_ALLOC_INDEX} ${ x }", VALUES, "env X") == "$3 ${ x }"


def test_an_unknown_name_in_env_is_named() -> None:
    with pytest.raises(JobError, match=r"env X: .*NOPE"):
        interpolate_simple("${NOPE}", VALUES, "env X")


@settings(max_examples=200)
@given(st.text())
def test_hostile_text_is_filled_in_or_refused_never_more(text: str) -> None:
    try:
        result = interpolate(text, {}, "config.image")
    except JobError:
        return
    assert result == text.replace("$${", "${").replace("%%{", "%{")


@settings(max_examples=100)
@given(st.text())
def test_a_value_is_never_interpolated_again(value: str) -> None:
    values = {"A": value}
    assert interpolate("${A}", values, "x") == value
    assert interpolate_simple("<${A}>", values, "x") == f"<{value}>"
