from pathlib import Path

import pytest

from qemu_node.config.node import CONFIG_ENV
from qemu_node.config.uplink import UplinkConfig, UplinkVlan
from qemu_node.errors import NodeError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.uplink.settings import copy_of, find_settings, keep_copy, state_dir

LACP = '[uplink]\nmode = "lacp"\n'


@pytest.fixture(autouse=True)
def no_config_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_ENV, raising=False)


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(tmp_path)
    for directory in (paths.own, paths.config, tmp_path / "etc/qemu-node"):
        directory.mkdir(parents=True)
    # What the image has.
    (tmp_path / "etc/qemu-node/node.toml").write_text('[paths]\ndata = "/data"\n')
    return paths


def test_a_node_without_settings_has_the_defaults(paths: NodePaths) -> None:
    found = find_settings(paths, paths.own)
    assert (found.settings, found.origin, found.problems) == (UplinkConfig(), "", ())


def test_without_data_the_settings_of_oem_apply(paths: NodePaths) -> None:
    paths.uplink.write_text(LACP)
    found = find_settings(paths, paths.own)
    assert (found.settings.mode, found.origin) == ("lacp", str(paths.uplink))


def test_node_toml_has_precedence_also_in_the_boots_that_cannot_read_it(paths: NodePaths) -> None:
    paths.uplink.write_text("[uplink]\nmtu = 9000\n")
    node_toml = paths.config / "node.toml"
    node_toml.write_text(LACP)
    assert keep_copy(paths, paths.own) == UplinkConfig(mode="lacp")
    assert find_settings(paths, paths.own).origin == str(node_toml)
    node_toml.unlink()
    found = find_settings(paths, paths.own)
    assert (found.settings, found.origin) == (UplinkConfig(mode="lacp"), str(copy_of(paths.own)))


def test_a_missing_data_disk_does_not_remove_the_copy(paths: NodePaths) -> None:
    copy_of(paths.own).write_text(LACP)
    assert keep_copy(paths, paths.own) is None
    assert find_settings(paths, paths.own).settings.mode == "lacp"


def test_the_copy_goes_when_the_operator_takes_the_table_out(paths: NodePaths) -> None:
    copy_of(paths.own).write_text(LACP)
    (paths.config / "node.toml").write_text("[network]\n")
    keep_copy(paths, paths.own)
    assert not copy_of(paths.own).exists()


def test_a_wrong_node_toml_is_said_and_the_last_good_settings_apply(paths: NodePaths) -> None:
    copy_of(paths.own).write_text(LACP)
    (paths.config / "node.toml").write_text('[uplink]\nmode = "fast"\n')
    with pytest.raises(NodeError, match=r"node\.toml: .*uplink\.mode"):
        keep_copy(paths, paths.own)
    found = find_settings(paths, paths.own)
    assert found.settings.mode == "lacp"
    [problem] = found.problems
    assert "node.toml" in problem


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[uplink", b"[uplink]\nnics = 5\n"])
def test_a_wrong_uplink_toml_leaves_the_defaults(paths: NodePaths, content: bytes) -> None:
    paths.uplink.write_bytes(content)
    found = find_settings(paths, paths.own)
    assert found.settings == UplinkConfig()
    assert len(found.problems) == 1


def test_settings_of_a_newer_version_apply_as_far_as_they_are_known(paths: NodePaths) -> None:
    paths.uplink.write_text(
        LACP + "hash = 3\n[[uplink.vlans]]\nvlan = 200\ndhcp = true\nmetric = 5\n[other]\n"
    )
    found = find_settings(paths, paths.own)
    assert found.settings == UplinkConfig(mode="lacp", vlans=(UplinkVlan(vlan=200, dhcp=True),))
    assert found.problems == (
        f"{paths.uplink}: there is no setting uplink.hash: it is left out",
        f"{paths.uplink}: there is no setting uplink.vlans.metric: it is left out",
    )


def test_a_full_disk_leaves_the_earlier_copy(paths: NodePaths) -> None:
    copy_of(paths.own).mkdir()  # stands for any refusal of the host
    (paths.config / "node.toml").write_text(LACP)
    with pytest.raises(NodeError, match="cannot"):
        keep_copy(paths, paths.own)


def test_plain_debian_reads_its_node_toml_and_keeps_no_copy(tmp_path: Path) -> None:
    paths, state = NodePaths(tmp_path), tmp_path / "var/lib/qemu-node"
    (tmp_path / "etc/qemu-node").mkdir(parents=True)
    (tmp_path / "etc/qemu-node/node.toml").write_text(LACP)
    assert keep_copy(paths, state) == UplinkConfig(mode="lacp")
    assert not state.exists()
    assert find_settings(paths, state).settings.mode == "lacp"


def test_what_outlives_a_boot_is_on_oem_only_if_that_is_mounted(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    root = "21 1 0:20 / / rw - ext4 /dev/sda rw\n"
    oem = "40 21 8:2 / /oem rw - ext4 /dev/sda2 rw\n"
    assert state_dir(paths, root) == tmp_path / "var/lib/qemu-node"
    assert state_dir(paths, root + oem) == paths.own
