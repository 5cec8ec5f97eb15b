import os
import socket
import stat
from pathlib import Path

import pytest

from qemu_node.errors import ConfigError, HostError
from qemu_node.host.sockets import SUN_PATH_MAX_BYTES, connect_unix, listen_unix


def connect(path: Path) -> None:
    """Connect by way of the directory, so that the client has no length limit either."""
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def test_a_socket_can_be_connected_to_and_is_close_on_exec(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    fd = listen_unix(path, mode=0o620)
    connect(path)
    assert not os.get_inheritable(fd)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    os.close(fd)


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    os.close(listen_unix(path))
    assert path.exists()
    fd = listen_unix(path)
    connect(path)
    os.close(fd)


def test_something_else_at_the_path_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(HostError, match="is not a socket"):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_a_path_too_long_for_the_kernel_is_bound_all_the_same(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90)
    directory.mkdir()
    path = directory / "monitor.sock"
    assert len(os.fsencode(path)) > SUN_PATH_MAX_BYTES
    fd = listen_unix(path)
    connect(path)
    os.close(fd)


def test_a_name_too_long_for_any_socket_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        listen_unix(tmp_path / ("n" * 108))
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no/x\.sock"):
        listen_unix(tmp_path / "no" / "x.sock")


def test_a_failure_leaves_no_socket_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(HostError, match="not permitted"):
        listen_unix(tmp_path / "x.sock", owner=(1, 1))
    assert not list(tmp_path.iterdir())


def test_nobody_connects_before_owner_and_mode_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.sock"

    def refused(*_: object) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect(path)

    monkeypatch.setattr(os, "chown", refused)
    os.close(listen_unix(path, owner=(0, 0)))


async def test_a_client_connects_however_long_the_path_is(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90)
    directory.mkdir()
    fd = listen_unix(directory / "vnc.sock")
    (await connect_unix(directory / "vnc.sock")).close()
    os.close(fd)
    with pytest.raises(ConnectionRefusedError):
        await connect_unix(directory / "vnc.sock")


async def test_a_link_leads_a_client_to_no_socket_of_others(tmp_path: Path) -> None:
    fd = listen_unix(tmp_path / "monitor.sock")
    (tmp_path / "vnc.sock").symlink_to(tmp_path / "monitor.sock")
    (tmp_path / "file").touch()
    for name in ("vnc.sock", "file"):
        with pytest.raises(OSError, match="socket"):
            await connect_unix(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        await connect_unix(tmp_path / "nothing")
    with socket.socket(fileno=fd) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
