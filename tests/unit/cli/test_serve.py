"""What `qemu-node serve` does without serving."""

import pytest
from click.testing import CliRunner

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
