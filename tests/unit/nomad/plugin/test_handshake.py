import fcntl
import os
import re
from pathlib import Path

import pytest

from qemu_node.errors import ConfigError
from qemu_node.nomad.plugin import handshake
from qemu_node.nomad.plugin.handshake import Handshake, HandshakeLineError

_GOOD = handshake.client_environment()


def test_environment_that_an_agent_gives_is_accepted() -> None:
    handshake.check_environment(_GOOD)


def test_person_who_starts_the_plugin_by_hand_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="run by hand") as caught:
        handshake.check_environment({})
    assert "qemu-node run" in caught.value.explain()


@pytest.mark.parametrize("offered", ["1", "3,4", "", "22"])
def test_agent_of_another_protocol_is_refused(offered: str) -> None:
    with pytest.raises(ConfigError, match="protocol"):
        handshake.check_environment(_GOOD | {handshake.VERSIONS_KEY: offered})


def test_protocol_among_several_is_enough() -> None:
    handshake.check_environment(_GOOD | {handshake.VERSIONS_KEY: "3,2"})


def test_tls_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="PLUGIN_CLIENT_CERT"):
        handshake.check_environment(_GOOD | {"PLUGIN_CLIENT_CERT": "-----BEGIN"})


def test_line_is_exactly_what_go_plugin_splits() -> None:
    assert Handshake(socket=Path("/run/s")).line() == "1|2|unix|/run/s|grpc|"


def test_line_is_read_back() -> None:
    assert Handshake.parse("1|2|unix|/run/s|grpc|\n").socket == Path("/run/s")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "1|2|unix",
        "1|2|unix|/s",
        "2|2|unix|/s|grpc|",
        "1|1|unix|/s|grpc|",
        "1|2|tcp|127.0.0.1:1|grpc|",
        "1|2|unix|/s|grpc|Y2VydA",
    ],
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(HandshakeLineError):
        Handshake.parse(line)


def test_socket_lies_in_a_directory_of_our_own(tmp_path: Path) -> None:
    with handshake.plugin_socket(tmp_path, {}) as socket:
        assert socket == tmp_path / "plugin" / str(os.getpid()) / "plugin.sock"
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "plugin").iterdir()) == []


def test_directory_of_a_dead_plugin_is_swept(tmp_path: Path) -> None:
    dead = tmp_path / "plugin" / "999999"
    dead.mkdir(parents=True)
    (dead / "plugin.sock").touch()
    (tmp_path / "plugin" / "999999.lock").touch()
    with handshake.plugin_socket(tmp_path, {}):
        assert not dead.exists()
        assert not dead.with_name("999999.lock").exists()


def test_directory_of_a_live_plugin_stays(tmp_path: Path) -> None:
    live = tmp_path / "plugin" / "999999"
    live.mkdir(parents=True)
    with live.with_name("999999.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with handshake.plugin_socket(tmp_path, {}):
            pass
    assert live.exists()


def test_left_over_of_our_own_pid_is_replaced(tmp_path: Path) -> None:
    own = tmp_path / "plugin" / str(os.getpid())
    own.mkdir(parents=True)
    (own / "plugin.sock").touch()
    with handshake.plugin_socket(tmp_path, {}) as socket:
        assert not socket.exists()


def test_other_files_in_the_plugin_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "notes.txt").touch()
    with handshake.plugin_socket(tmp_path, {}):
        pass
    assert (tmp_path / "plugin" / "notes.txt").exists()


def test_socket_directory_that_the_agent_names_is_honoured(tmp_path: Path) -> None:
    environ = {"PLUGIN_UNIX_SOCKET_DIR": str(tmp_path)}
    with handshake.plugin_socket(Path("/nowhere"), environ) as socket:
        assert socket.parent == tmp_path
        socket.touch()
    assert list(tmp_path.iterdir()) == []


def test_path_beyond_the_kernel_s_limit_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=re.escape("107 bytes")),
        handshake.plugin_socket(tmp_path / ("x" * 100), {}),
    ):
        pass


def test_path_that_would_break_the_line_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="newline"),
        handshake.plugin_socket(Path("/run/a|b"), {}),
    ):
        pass


def test_unknown_socket_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no group 'no-such-group'"):
        handshake.grant_group(tmp_path, {"PLUGIN_UNIX_SOCKET_GROUP": "no-such-group"})


def test_socket_group_may_use_the_socket(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    socket.touch(mode=0o600)
    handshake.grant_group(socket, {"PLUGIN_UNIX_SOCKET_GROUP": str(os.getgid())})
    assert socket.stat().st_mode & 0o777 == 0o660
