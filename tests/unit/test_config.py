from pathlib import Path

import pytest

from qemu_node.config import CONFIG_ENV, default_paths, load, parse
from qemu_node.errors import ConfigError
from qemu_node.units import GIB


def test_an_empty_file_means_the_defaults() -> None:
    config = parse("", "node.toml")
    assert config.qemu.accelerator == "auto"
    assert config.images.max_size_bytes == 256 * GIB
    assert config.paths == default_paths()


def test_one_path_can_be_set_without_the_other() -> None:
    config = parse('[paths]\ndata = "/srv/vm"\n', "node.toml")
    assert config.paths.data == "/srv/vm"
    assert config.paths.run == default_paths().run


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[qemu]\nacelerator = 'kvm'", "acelerator"),
        ("[qemu]\naccelerator = 'xen'", "accelerator"),
        ("[images]\npull_timeout = '5'", "duration"),
        ("[images]\nmax_size = 'big'", "size"),
        ("[images]\nunused_for = 'long'", "duration"),
        ("[images]\nttl = ''", "duration"),
        ("[images]\nlow_space = '101%'", "whole"),
        ("[images]\nlow_space = '30%'", "images.high_space"),
        ("[images]\nlow_space = '2G'\nhigh_space = '1G'", "images.high_space"),
        ("[images]\nprefetch = 'https://h/x'", "prefetch"),
        ("[disk]\nreserve = '120%'", "120%"),
        ("[paths]\nrun = 'relative'", "paths.run"),
        ("[logs]\nmax_files = 0", "max_files"),
        ("[qemu]\nfirst_uid = 0", "first_uid"),
        ("[network]\nbridge = 'br0'", "network"),
        ("= 1", "TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        parse(text, "/etc/node.toml")
    assert "/etc/node.toml" in str(refused.value)


def test_a_run_directory_whose_sockets_would_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"longer than \d+ bytes"):
        parse(f'[paths]\nrun = "/{"r" * 70}"', "node.toml")


def test_a_missing_default_file_is_fine_but_a_missing_named_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml")
    monkeypatch.setenv(CONFIG_ENV, str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        load()


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)
