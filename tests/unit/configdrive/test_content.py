import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.configdrive.content import ConfigDrive, complete, sanitise_hostname
from qemu_node.errors import JobError

META = "openstack/latest/meta_data.json"


def completed(files: dict[str, bytes]) -> ConfigDrive:
    return complete(files, uuid="u-u", hostname="Web.Job/1", name="web[1]")


def meta(drive: ConfigDrive, path: str = META) -> dict[str, Any]:
    value = json.loads(drive.files[path])
    assert isinstance(value, dict)
    return value


def test_meta_data_is_made_where_there_is_none() -> None:
    drive = completed({})
    assert meta(drive) == {"uuid": "u-u", "hostname": "web-job-1", "name": "web[1]"}
    assert set(drive.files) == {META}
    assert drive.hostname == "web-job-1"


def test_meta_data_is_added_to_a_tree_without_openstack() -> None:
    assert set(completed({"unattend.xml": b"x"}).files) == {"unattend.xml", META}


def test_missing_keys_are_filled_and_given_ones_kept() -> None:
    drive = completed({META: b'{"hostname": "db.example.org", "public_keys": {"a": "ssh"}}'})
    assert meta(drive) == {
        "uuid": "u-u",
        "hostname": "db.example.org",
        "name": "web[1]",
        "public_keys": {"a": "ssh"},
    }
    assert drive.hostname == "db"


def test_complete_meta_data_is_left_as_it_is_written() -> None:
    content = b'{ "uuid": "1",   "hostname": "h", "name": "n" }'
    assert completed({META: content}).files[META] == content


def test_each_version_that_a_guest_may_read_gets_meta_data() -> None:
    drive = completed({"openstack/2018-08-27/user_data": b"", "openstack/content/0000": b""})
    assert meta(drive, "openstack/2018-08-27/meta_data.json")["uuid"] == "u-u"
    assert meta(drive)["uuid"] == "u-u"
    assert "openstack/content/meta_data.json" not in drive.files


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{"a": 1,\n  b}', "line 2, column 3"),
        (b"", "line 1, column 1"),
        (b"\xff\xff\xff", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"hostname": 5}', "hostname is not a string"),
    ],
)
def test_bad_meta_data_is_the_jobs_error_with_the_place(content: bytes, where: str) -> None:
    with pytest.raises(JobError, match=f"{META}.*{re.escape(where)}"):
        completed({META: content})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", "web"),
        ("Web Überall/1", "web-uberall-1"),
        ("periodic/periodic-1763820000", "periodic-periodic-1763820000"),
        ("a_b.c", "a-b-c"),
        ("--x--", "x"),
        ("日本", "vm"),
        ("", "vm"),
        ("a" * 62 + "-b", "a" * 62),
        ("x" * 120, "x" * 63),
        ("0", "vm-0"),
        ("0x7f", "vm-0x7f"),
        ("7" * 70, "vm-" + "7" * 60),
        ("7-0", "7-0"),
    ],
)
def test_host_name_is_made_valid(text: str, expected: str) -> None:
    assert sanitise_hostname(text) == expected


@given(st.text())
def test_any_text_gives_a_valid_host_name_once_and_for_all(text: str) -> None:
    name = sanitise_hostname(text)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert sanitise_hostname(name) == name
