import json
from pathlib import Path

import pytest
from fakes.specs import QEMU_10_0, make_spec

from qemu_node.qemu.cmdline import build_argv
from qemu_node.vm.record.processes import match_vm_id

_DATA = Path("/data/vm")
_ID = "web-0123456789ab"


def test_process_with_our_command_line_is_recognised() -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    assert match_vm_id(argv, _DATA) == _ID


def test_launcher_that_has_yet_to_become_qemu_is_recognised() -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    launcher = ["/bin/sh", "-c", "…", "launch", "", "0007", "setpriv", "--", *argv]
    assert match_vm_id(launcher, _DATA) == _ID


@pytest.mark.parametrize("prefix", ["/srv", "/srv/lab", '/srv/"x":"', "/srv/a=", "/srv/ "])
def test_vm_of_another_data_directory_is_not_ours_however_alike_their_ends(prefix: str) -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    escaped = json.dumps(prefix)[1:-1]
    argv = [arg.replace(f"{_DATA}/", f"{escaped}{_DATA}/") for arg in argv]
    assert match_vm_id(argv, _DATA) is None
    assert match_vm_id(argv, Path(f"{prefix}{_DATA}")) == _ID


def test_data_directory_with_characters_that_json_escapes_is_recognised() -> None:
    data = Path('/srv/"a\\b, ü"/vm')
    argv = build_argv(
        make_spec(overlay=data / _ID / "overlay.qcow2", serial_log=Path("/x")),
        "qemu-system-x86_64",
        QEMU_10_0,
    )
    assert match_vm_id(argv, data) == _ID


def _file(path: str) -> str:
    return f'{{"driver":"file","filename":"{path}"}}'


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["qemu-system-x86_64"],
        ["-name"],
        ["-name", "guest="],
        ["-name", "guest=", _file("/data/vm//overlay")],
        ["-name", _ID, _file(f"/data/vm/{_ID}/overlay")],
        ["-name", f"guest={_ID}"],
        ["-name", f"guest={_ID}", _file(f"/data/vm/{_ID}0/overlay")],
        ["-name", f"guest={_ID}", _file(f"/data/vm/{_ID}/deeper/overlay")],
        ["-name", f"guest={_ID}", _file(f"vm/{_ID}/overlay")],
        ["-name", f"guest={_ID}", f"/data/vm/{_ID}/overlay"],
        ["-name", f"guest={_ID}", f"x /data/vm/{_ID}/overlay"],
        ["-name", f"guest={_ID}", '{"filename":"/data/vm'],
        ["-name", f"guest={_ID}", '{"a":' * 100_000],
        ["-name", f"guest={_ID}", '{"filename":["/data/vm/web-0123456789ab/overlay"]}'],
        ["grep", f"guest={_ID}", _file(f"/data/vm/{_ID}/overlay")],
        # What follows must never become a path: it is no id of a VM.
        ["-name", "guest=/etc", _file("/data/vm//etc/passwd")],
        ["-name", "guest=/etc", _file("/etc/passwd")],
        ["-name", "guest=..", _file("/data/vm/../passwd")],
        ["-name", "guest=.uid", _file("/data/vm/.uid/200000")],
        ["-name", "guest=\x1b[2J", _file("/data/vm/\x1b[2J/overlay")],
    ],
)
def test_other_processes_are_left_alone(argv: list[str]) -> None:
    assert match_vm_id(argv, _DATA) is None
