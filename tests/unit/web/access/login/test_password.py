"""The file of the console's password, and a login by it."""

from pathlib import Path

import pytest
from fakes.console import make_browser, running_console
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.login.password import make_hash, parse_hash, read_hash

PASSWORD = "correct horse battery"
LINE = make_hash(PASSWORD)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_hash_is_of_its_password_only(tmp_path: Path) -> None:
    found = read_hash(write(tmp_path / "hash", f"{LINE}\n"))
    assert found.is_of(PASSWORD)
    assert not found.is_of(f"{PASSWORD} ")
    assert not found.is_of("")
    assert make_hash(PASSWORD) != LINE
    assert PASSWORD not in LINE


@pytest.mark.parametrize("password", ["", "short", "x" * 5000])
def test_a_password_is_neither_short_nor_endless(password: str) -> None:
    with pytest.raises(ConfigError):
        make_hash(password)


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o660, 0o604])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="others may"):
        read_hash(write(tmp_path / "hash", LINE, mode))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_hash(tmp_path / "hash")
    with pytest.raises(ConfigError):
        read_hash(tmp_path)
    with pytest.raises(ConfigError, match="no hash"):
        read_hash(write(tmp_path / "hash", PASSWORD))


@given(st.text("scrypt$0123456789ABCab+/=", max_size=60))
def test_any_other_line_is_an_error_of_the_file(line: str) -> None:
    with pytest.raises(ConfigError):
        parse_hash(line)


@pytest.mark.parametrize("log2_n", [1, 21, 63])
def test_a_cost_that_nobody_can_pay_is_refused(log2_n: int) -> None:
    fields = LINE.split("$")
    fields[1] = str(log2_n)
    with pytest.raises(ConfigError):
        parse_hash("$".join(fields))


async def test_the_password_lets_in_and_another_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "hash", LINE)
    settings = AccessSettings(auth="password", password_file=path)
    async with running_console(settings) as console, make_browser() as browser:
        url = f"{console.origin}/api/v1/login"
        async with browser.get(url) as reply:
            assert (await reply.json())["ways"] == ["password"]
        for wrong in ("wrong", "x" * 5000, ""):
            body = {"password": wrong}
            async with browser.post(url, json=body, headers=console.headers()) as reply:
                assert reply.status == 401
        await console.log_in(browser, password=PASSWORD)
        async with browser.get(f"{console.origin}/api/v1/vms") as reply:
            assert len(await reply.json()) == 2
