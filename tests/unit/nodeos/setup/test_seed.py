import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.nodeos.setup.seed import Seed, parse_seed

_HASH = "$6$abcdefgh$" + "x" * 86
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8v9K3cN9mXhQb0nE4nZ8gq4R3ks0m3Cw1e6V0cXx1L admin"
_EXAMPLE = Path(__file__).parents[4] / "examples/seed.toml"


def _parse(text: str) -> Seed:
    return parse_seed(text.encode(), "seed.toml")


def _refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _parse(text)
    return caught.value.explain()


def test_a_seed_gives_all_answers() -> None:
    seed = _parse(f"""
        hostname = "node1.example.org"
        password_hash = "{_HASH}"
        authorized_keys = ["{_KEY}"]
        [disk]
        model = "Samsung*"
        choose = "smallest"
        [data]
        transport = "nvme"
        [uplink]
        mode = "lacp"
        [files]
        "node.toml" = "[qemu]"
        "tls/ca.pem" = "x"
    """)
    assert seed.hostname == "node1.example.org"
    assert seed.disk.model == "Samsung*"
    assert not seed.disk.wipe
    assert seed.data is not None
    assert seed.data.transport == "nvme"
    assert seed.uplink is not None
    assert seed.uplink.mode == "lacp"
    assert sorted(seed.files) == ["node.toml", "tls/ca.pem"]


def test_an_empty_seed_has_no_password_no_key_and_erases_nothing() -> None:
    seed = _parse("")
    assert (seed.password_hash, seed.authorized_keys, seed.disk.wipe) == ("", (), False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hostnme = 'a'", "there is no setting hostnme (did you mean hostname?)"),
        ("[disk]\nmodle = 'a'", "there is no setting disk.modle (did you mean model?)"),
        ("[data]\nsame_dsk = true", "did you mean same_disk?"),
        ("hostname = 'Node 1'", "no host name"),
        ("hostname = '-a'", "no host name"),
        ("hostname = 7", "hostname"),
        ("password_hash = 'secret'", "no hash of a password"),
        ("password_hash = ':0:0::'", "no hash of a password"),
        ("authorized_keys = ['hello']", "no public key"),
        ("authorized_keys = ['-----BEGIN OPENSSH PRIVATE KEY-----']", "private key"),
        (f'authorized_keys = ["{_KEY}\\nroot"]', "no public key"),
        ("ssh_host_key = 'x'", "no private key of OpenSSH"),
        ("[files]\n'../etc/passwd' = 'x'", "no name of a file"),
        ("[files]\n'/etc/passwd' = 'x'", "no name of a file"),
        ("[files]\n'a//b' = 'x'", "no name of a file"),
        ("[files]\n'a' = 'x'\n'a/b' = 'y'", "a is a file and the directory of a/b"),
        ("[disk]\nmin_size = 'big'", "disk.min_size: 'big' is not a size"),
        ("[disk]\nmin_size = '2T'\nmax_size = '1T'", "larger than disk.max_size"),
        ("[data]", "data names no disk"),
        ("[data]\nsame_disk = true\nserial = 'a'", "no other disk is named"),
        ("[uplink]\nvlan = 9999", "uplink.vlan"),
        ("[uplink]\nvlam = 1", "did you mean vlan?"),
        ("after = 'explode'", "after"),
        ("hostname =", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write(text: str, words: str) -> None:
    assert words in _refusal(text)


def test_a_seed_written_on_windows_is_read() -> None:
    assert parse_seed(b'\xef\xbb\xbfhostname = "a"\r\n', "seed.toml").hostname == "a"


def test_a_seed_of_any_size_is_not_read() -> None:
    with pytest.raises(ConfigError, match="larger than a seed"):
        parse_seed(b"#" * (2 << 20), "seed.toml")


def test_the_example_is_a_seed() -> None:
    seed = parse_seed(_EXAMPLE.read_bytes(), "seed.toml")
    assert seed.authorized_keys


@given(st.binary(max_size=400))
def test_any_bytes_are_a_seed_or_an_error_for_people(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_seed(data, "seed.toml")


_NAMES = st.sampled_from(
    [
        "hostname",
        "password_hash",
        "authorized_keys",
        "disk",
        "data",
        "files",
        "uplink",
        "after",
        "x",
    ]
)
_VALUES = st.one_of(
    st.text(string.printable, max_size=30).map(lambda text: "'" + text.replace("'", "") + "'"),
    st.integers().map(str),
    st.sampled_from(["true", "[]", "['a']", "{a = 1}", "{path = '/dev/*'}", "1979-05-27", "nan"]),
)


@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=5))
def test_any_settings_are_a_seed_or_an_error_for_people(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name} = {value}" for name, value in pairs)
    with contextlib.suppress(ConfigError):
        _parse(text)
