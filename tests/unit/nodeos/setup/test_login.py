from pathlib import Path

import pytest

from qemu_node.errors import ConfigError
from qemu_node.nodeos.setup.login import (
    LIVE_PASSWORD,
    Login,
    hash_password,
    is_password,
    own_password,
    parse_keys,
    read_login,
)

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8v9K3cN9mXhQb0nE4nZ8gq4R3ks0m3Cw1e6V0cXx1L admin"


def _shadow(value: str) -> str:
    return f"daemon:*:19000:0:99999:7:::\nroot:{value}:19000:0:99999:7:::\n"


def test_a_hash_is_one_of_its_password_alone() -> None:
    hashed = hash_password("correct horse")
    assert hashed.startswith("$y$")
    assert is_password("correct horse", hashed)
    assert not is_password("battery staple", hashed)


def test_an_empty_password_is_refused() -> None:
    with pytest.raises(ConfigError):
        hash_password("")


def test_the_password_that_an_administrator_has_set_goes_to_the_node() -> None:
    hashed = hash_password("correct horse")
    assert own_password(_shadow(hashed)) == hashed


@pytest.mark.parametrize("value", ["", "*", "!", "!$6$abc$def"])
def test_a_locked_account_has_no_password(value: str) -> None:
    assert own_password(_shadow(value)) == ""


def test_the_password_that_everybody_knows_never_goes_to_a_node() -> None:
    assert own_password(_shadow(hash_password(LIVE_PASSWORD))) == ""


def test_keys_are_read_without_comments_and_doubles() -> None:
    text = f"# mine\n{_KEY}\n\nnonsense\n{_KEY}\nno-pty {_KEY}\n"
    assert parse_keys(text) == (_KEY, f"no-pty {_KEY}")


def test_a_system_without_such_files_has_no_login(tmp_path: Path) -> None:
    login = read_login(tmp_path)
    assert login == Login()
    assert not login.is_possible


def test_a_key_makes_a_login_possible(tmp_path: Path) -> None:
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "root/.ssh/authorized_keys").write_text(f"{_KEY}\n")
    assert read_login(tmp_path).is_possible
