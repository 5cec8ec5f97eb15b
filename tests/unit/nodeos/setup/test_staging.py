from pathlib import Path

import pytest

from qemu_node.config.uplink import UplinkConfig
from qemu_node.errors import ConfigError
from qemu_node.nodeos.setup.login import LIVE_PASSWORD, Login, hash_password
from qemu_node.nodeos.setup.seed import Seed
from qemu_node.nodeos.setup.staging import Settings, merge, oem_files, write_files


def test_without_a_seed_the_live_administrators_login_is_all_there_is() -> None:
    login = Login(keys=("key",), password_hash="$y$x")
    assert oem_files(merge(None, login)) == {
        "ssh/authorized_keys": b"key\n",
        "qemu-node/host/root-password": b"root:$y$x\n",
    }


def test_a_seed_and_the_live_administrator_both_count() -> None:
    seed = Seed(
        hostname="node1",
        authorized_keys=("a", "b"),
        uplink=UplinkConfig(mode="lacp"),
        files={"client.hcl": "client {}"},
    )
    files = oem_files(
        merge(
            seed,
            Login(keys=("b", "c"), password_hash="$y$x"),
            beside={"client.hcl": b"old", "tls/ca.pem": b"pem"},
            raw=b"the seed",
        )
    )
    assert files == {
        "ssh/authorized_keys": b"a\nb\nc\n",
        "qemu-node/host/root-password": b"root:$y$x\n",
        "qemu-node/host/hostname": b"node1\n",
        "qemu-node/uplink.toml": b'[uplink]\nmode = "lacp"\n',
        "qemu-node/seed.toml": b"the seed",
        "qemu-node/config/client.hcl": b"client {}",
        "qemu-node/config/tls/ca.pem": b"pem",
    }


def test_the_password_that_everybody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="which everybody knows"):
        merge(Seed(password_hash=hash_password(LIVE_PASSWORD)), Login())


def test_a_wrong_node_toml_is_refused_before_the_installation() -> None:
    with pytest.raises(ConfigError, match=r"node.toml of the seed: there is no setting qemu.merg"):
        merge(Seed(files={"node.toml": "[qemu]\nmerg = true"}), Login())


def test_files_beside_a_seed_stay_inside_the_configuration() -> None:
    with pytest.raises(ConfigError, match="no name of a file"):
        merge(Seed(), Login(), beside={"../shadow": b""})


def test_a_saved_configuration_counts_more_than_the_live_system() -> None:
    settings = Settings(login=Login(keys=("live",)), oem={"ssh/authorized_keys": b"saved\n"})
    assert oem_files(settings)["ssh/authorized_keys"] == b"saved\n"


def test_settings_are_written_for_root_only_and_nothing_else_is_left(tmp_path: Path) -> None:
    directory = tmp_path / "oem"
    directory.mkdir()
    (directory / "left-over").write_text("from before")
    write_files(directory, {"qemu-node/config/tls/key.pem": b"secret"})
    assert [str(p.relative_to(directory)) for p in sorted(directory.rglob("*"))] == [
        "qemu-node",
        "qemu-node/config",
        "qemu-node/config/tls",
        "qemu-node/config/tls/key.pem",
    ]
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
