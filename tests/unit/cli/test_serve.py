"""What `qemu-node serve` does without serving."""

import logging
import os
import socket
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from qemu_node.cli import serve
from qemu_node.cli.main import cli
from qemu_node.web.access.login.password import parse_hash


def test_a_password_that_is_piped_in_becomes_its_hash() -> None:
    done = CliRunner().invoke(cli, ["serve", "--make-password"], input="correct horse battery\n")
    assert done.exit_code == 0
    assert parse_hash(done.output).is_of("correct horse battery")
    assert "horse" not in done.output


@pytest.mark.parametrize("typed", ["", "short\n"])
def test_a_short_password_is_refused(typed: str) -> None:
    done = CliRunner().invoke(cli, ["serve", "--make-password"], input=typed)
    assert done.exit_code != 0
    assert "scrypt" not in done.output


@pytest.fixture
def _own_log() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = before
    root.setLevel(level)


@pytest.mark.usefixtures("_own_log")
@pytest.mark.parametrize("kind", ["journal", "pipe"])
def test_a_log_that_nobody_reads_stops_nothing(kind: str) -> None:
    if kind == "journal":
        ends = [sock.detach() for sock in socket.socketpair()]
    else:
        ends = list(reversed(os.pipe()))
    serve._set_up_logging(ends[0])
    for _ in range(10_000):
        logging.getLogger("qemu_node").info("a line", extra={"text": "x" * 100})
    assert b"a line" in os.read(ends[1], 1 << 16)
    for end in ends:
        os.close(end)
