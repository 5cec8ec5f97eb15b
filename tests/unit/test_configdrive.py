import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qemu_node.configdrive import (
    ConfigDrive,
    complete,
    read_config_drive,
    sanitise_hostname,
    write_iso,
)
from qemu_node.errors import JobError

META = "openstack/latest/meta_data.json"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    directory = tmp_path / "task" / "local" / "config-drive"
    directory.mkdir(parents=True)
    return directory


def read(drive: Path) -> dict[str, bytes]:
    return read_config_drive(drive.parent.parent)


def completed(files: dict[str, bytes]) -> ConfigDrive:
    return complete(files, uuid="u-u", hostname="Web.Job/1", name="web[1]")


def meta(drive: ConfigDrive, path: str = META) -> dict[str, Any]:
    value = json.loads(drive.files[path])
    assert isinstance(value, dict)
    return value


def test_whole_tree_is_read(drive: Path) -> None:
    (drive / "openstack" / "latest").mkdir(parents=True)
    (drive / "openstack" / "latest" / "user_data").write_bytes(b"#cloud-config\n")
    (drive / "unattend.xml").write_bytes(b"\xff\xfe<\0")
    (drive / "empty").mkdir()
    assert read(drive) == {
        "openstack/latest/user_data": b"#cloud-config\n",
        "unattend.xml": b"\xff\xfe<\0",
    }


def test_task_without_a_config_drive_has_no_files(tmp_path: Path) -> None:
    assert read_config_drive(tmp_path) == {}
    (tmp_path / "local").mkdir()
    assert read_config_drive(tmp_path) == {}


def test_symbolic_link_out_of_the_task_is_refused_by_name(drive: Path) -> None:
    (drive / "user_data").symlink_to("/etc/shadow")
    with pytest.raises(JobError, match="local/config-drive/user_data is a link"):
        read(drive)


def test_link_to_a_directory_is_refused_by_name(drive: Path) -> None:
    (drive / "etc").symlink_to("/etc")
    with pytest.raises(JobError, match="local/config-drive/etc is a link"):
        read(drive)


def test_config_drive_that_is_a_link_is_refused(drive: Path) -> None:
    drive.rmdir()
    drive.symlink_to("/etc")
    with pytest.raises(JobError, match="local/config-drive"):
        read(drive)


def test_hard_link_is_refused_by_name(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (drive / "user_data").hardlink_to(tmp_path / "secret")
    with pytest.raises(JobError, match="user_data is a hard link"):
        read(drive)


def test_fifo_and_socket_are_refused_by_name(drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(drive / "pipe")
    with pytest.raises(JobError, match="pipe is a link or not a regular file"):
        read(drive)
    (drive / "pipe").unlink()
    monkeypatch.chdir(drive)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(JobError, match="sock is a link or not a regular file"):
            read(drive)


def test_too_many_files_are_refused(drive: Path) -> None:
    for n in range(257):
        (drive / f"{n}").write_bytes(b"")
    with pytest.raises(JobError, match="more than 256 files"):
        read(drive)


def test_too_many_directories_are_refused(drive: Path) -> None:
    for n in range(1025):
        (drive / f"{n}").mkdir()
    with pytest.raises(JobError, match="more than 1024"):
        read(drive)


def test_too_much_content_is_refused(drive: Path) -> None:
    for name in ("a", "b"):
        with (drive / name).open("wb") as file:
            file.truncate(17 << 20)
    with pytest.raises(JobError, match="more than 32 MiB"):
        read(drive)


def test_too_deep_a_tree_is_refused(drive: Path) -> None:
    (drive / "/".join("abcdefgh")).mkdir(parents=True)
    with pytest.raises(JobError, match="levels deep"):
        read(drive)


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


@pytest.mark.parametrize(
    "name",
    [
        "a:b", "a*b", "a?b", "a;1", "a\\b", "a\nb", "x" * 65, "smile-\U0001f600", "a\udcffb",
        "a//b", "../x", "/x", "./x", "", "/".join("abcdefghi"), "/".join(["x" * 60] * 3),
    ],
)  # fmt: skip
def test_name_that_an_iso_cannot_hold_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match=re.escape(repr(name))):
        write_iso(tmp_path / "drive.iso", {name: b""}, None)
    assert list(tmp_path.iterdir()) == []


def test_file_where_a_directory_is_needed_is_refused(tmp_path: Path) -> None:
    drive = completed({"openstack": b""})
    with pytest.raises(JobError, match="'openstack' must be a directory"):
        write_iso(tmp_path / "drive.iso", drive.files, None)


def test_iso_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    write_iso(tmp_path / "drive.iso", completed({}).files, None)
    assert (tmp_path / "drive.iso").stat().st_mode & 0o777 == 0o400


paths = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=70),
    min_size=1,
    max_size=9,
).map("/".join)


@settings(max_examples=60)
@example({"é" * 33: b""})
@given(st.dictionaries(paths, st.binary(max_size=20), max_size=4))
def test_any_names_make_an_iso_or_the_jobs_error(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-names.iso"
    path.unlink(missing_ok=True)
    try:
        write_iso(path, files, None)
    except JobError:
        assert not path.exists()
    else:
        assert path.stat().st_size > 0
