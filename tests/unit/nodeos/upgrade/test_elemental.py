from pathlib import Path

import pytest

from qemu_node.config.images import ImagesConfig
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.upgrade.elemental import Follower, environment, parse_line, upgrade_argv


def test_elemental_never_restarts_the_node() -> None:
    """Its own restart is `reboot -f`: no VM would end cleanly."""
    argv = upgrade_argv(NodePaths(), "oci:r/n@sha256:a", recovery=True)
    assert argv == [
        "/usr/bin/elemental", "upgrade", "--strict", "--system", "oci:r/n@sha256:a", "--recovery",
    ]  # fmt: skip


def test_it_reaches_the_registry_by_the_same_way_as_we_do() -> None:
    images = ImagesConfig(
        proxy="http://proxy:3128", no_proxy=("*.local.example", "r.example"), ca_file="/data/ca.pem"
    )
    env = environment(images, Path("/run/x"))
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert env["NO_PROXY"] == ".local.example,r.example"
    assert env["SSL_CERT_FILE"] == "/data/ca.pem"
    assert env["DOCKER_CONFIG"] == "/run/x"
    assert "HTTPS_PROXY" not in environment(ImagesConfig(), None)


@pytest.mark.parametrize(
    ("line", "level", "words"),
    [
        (
            "\x1b[36mINFO\x1b[0m[2026-11-30T10:00:00Z] Starting upgrade   ",
            "info",
            "Starting upgrade",
        ),
        ("\x1b[31mERRO\x1b[0m[2026-11-30T10:00:00Z] no [room] left", "error", "no [room] left"),
        ('time="x" level=warning msg="a \\"b\\"\\nc"', "warning", 'a "b" c'),
        ("error: the image is damaged", "other", "error: the image is damaged"),
        ("", "other", ""),
    ],
)
def test_its_log_is_read(line: str, level: str, words: str) -> None:
    assert parse_line(line) == (level, words)


_ERRO = "\x1b[31mERRO\x1b[0m[2026-11-30T10:00:00Z] "


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f"{_ERRO}failed deploying: no route\n{_ERRO}upgrade failed: 1 error occurred:\n\t* x\n",
         "failed deploying: no route"),
        (f"{_ERRO}1 error occurred:\n\t* only this\n", "only this"),
        (f"{_ERRO}\nerror: the disk is full\n : failed to run /x: exit status 1\n"
         f"{_ERRO}hook failed\n", "the disk is full"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_failure_has_the_reason_that_helps_most(tmp_path: Path, log: str, reason: str) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    follower = Follower(path, lambda _line: None)
    follower.follow()
    assert follower.reason == reason
