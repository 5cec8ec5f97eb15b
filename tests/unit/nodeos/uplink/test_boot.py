import os
from pathlib import Path

import pytest
from unit.nodeos.uplink.machines import MAC1, MAC2, Tree

from qemu_node.cli.main import main
from qemu_node.config.node import CONFIG_ENV
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.uplink import boot
from qemu_node.nodeos.uplink.choice import Record

ETHTOOL = {"enp3s0": "\tSupported link modes:   1000baseT/Full\n", "enp4s0": "\tSpeed: 10000Mb/s\n"}
NETWORK = "run/systemd/network"


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    monkeypatch.setattr(boot, "_say", lambda tool, *words: ETHTOOL.get(words[0], "[]"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add_nic("enp3s0", MAC1, tree.add_function(3))
    tree.add_nic("enp4s0", MAC2, tree.add_function(4))
    return tree


def written(tree: Tree) -> dict[str, str]:
    directory = tree.root / NETWORK
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_first_boot_writes_files_and_a_record(tree: Tree) -> None:
    own = tree.mount_oem()
    prepared = boot.prepare(NodePaths(tree.root))
    assert (prepared.choice.mac, prepared.choice.primary, prepared.problems) == (MAC1, MAC2, ())
    assert f"MACAddress={MAC1}" in written(tree)["20-br0.netdev.d/50-address.conf"]
    assert boot.read_record(own / "uplink-state.json").mac == MAC1
    assert (own / "uplink-state.json").stat().st_mode & 0o777 == 0o600


def test_networkd_can_read_the_files_whatever_the_umask(tree: Tree) -> None:
    old = os.umask(0o077)
    try:
        boot.prepare(NodePaths(tree.root))
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o055 for path in (tree.root / NETWORK).rglob("*.d")}
    assert modes == {0o055}


def test_other_settings_at_the_next_boot_leave_no_file_of_this_one(tree: Tree) -> None:
    paths, own = NodePaths(tree.root), tree.mount_oem()
    (own / "uplink.toml").write_text("[uplink]\nmtu = 9000\nvlan = 99\n")
    boot.prepare(paths)
    operators = tree.root / NETWORK / "90-operator.network"
    operators.write_text("[Match]\nName=x\n")
    (own / "uplink.toml").unlink()
    boot.prepare(paths)
    assert set(written(tree)) == {
        "20-bond0.netdev.d/50-address.conf",
        "20-br0.netdev.d/50-address.conf",
        "29-bond0-primary.network",
        "90-operator.network",
    }


@pytest.mark.parametrize("content", ["", "{", '{"mac": 5}', "[]", '{"version": 2, "nics": []}'])
def test_a_record_that_cannot_be_read_is_as_none(tree: Tree, content: str) -> None:
    own = tree.mount_oem()
    (own / "uplink-state.json").write_text(content)
    assert boot.prepare(NodePaths(tree.root)).choice.mac == MAC1


def test_a_record_that_cannot_be_written_is_said_and_the_node_has_its_network(tree: Tree) -> None:
    own = tree.mount_oem()
    (own / "uplink-state.json").mkdir()
    prepared = boot.prepare(NodePaths(tree.root))
    [problem] = prepared.problems
    assert "the node's address may change at the next boot" in problem
    assert "20-br0.netdev.d/50-address.conf" in written(tree)


def test_a_record_that_does_not_change_is_not_written_again(tree: Tree) -> None:
    own = tree.mount_oem()
    boot.prepare(NodePaths(tree.root))
    before = (own / "uplink-state.json").stat().st_ino
    boot.prepare(NodePaths(tree.root))
    assert (own / "uplink-state.json").stat().st_ino == before


def test_a_boot_that_was_cut_after_any_file_is_completed_by_the_next(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tree.mount_oem()
    paths = NodePaths(tree.root)
    boot.prepare(paths)
    whole, record = written(tree), boot.read_record(own / "uplink-state.json")
    real = boot.write_atomic  # type: ignore[attr-defined]
    for cut in range(6):
        for path in (tree.root / NETWORK).rglob("*.*"):
            if path.is_file():
                path.unlink()
        (own / "uplink-state.json").unlink()
        left = iter(range(cut))

        def write(*args: object, left: object = left, **kwargs: object) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt  # stands for the power
            real(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(boot, "write_atomic", write)
        with pytest.raises(KeyboardInterrupt):
            boot.prepare(paths)
        monkeypatch.setattr(boot, "write_atomic", real)
        boot.prepare(paths)
        assert (written(tree), boot.read_record(own / "uplink-state.json")) == (whole, record)


def test_the_boot_waits_until_a_controller_has_its_nic(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tree.add_function(2, driver="ice")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            tree.add_nic("enp2s0", "52:54:00:0a:00:09", late)

    monkeypatch.setattr("time.sleep", sleep)
    prepared = boot.prepare(NodePaths(tree.root))
    assert len(waits) == 3
    assert prepared.choice.mac == "52:54:00:0a:00:09"


def test_a_node_that_knows_its_nics_does_not_wait_for_one_that_is_late(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.mount_oem()
    boot.prepare(NodePaths(tree.root))
    link = tree.root / "sys/class/net/enp3s0"
    for path in link.iterdir():
        path.unlink()
    link.rmdir()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    assert boot.prepare(NodePaths(tree.root)).choice.mac == MAC1


def test_a_virtual_nic_is_asked_for_its_speed_while_it_is_up_and_is_down_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = tree.root / "sys/class/net/enp4s0/flags"
    flags.write_text("0x1002\n")

    def say(*argv: str) -> str:
        if argv[:2] == ("ip", "link") and argv[-2] == "enp4s0":
            flags.write_text("0x1003\n" if argv[-1] == "up" else "0x1002\n")
        if argv == ("ethtool", "enp4s0"):
            return "\tSpeed: 10000Mb/s\n" if "3" in flags.read_text() else "\tSpeed: Unknown!\n"
        return ETHTOOL["enp3s0"] if argv[0] == "ethtool" else "[]"

    monkeypatch.setattr(boot, "_say", say)
    assert boot.prepare(NodePaths(tree.root)).choice.primary == MAC2
    assert flags.read_text() == "0x1002\n"


def test_a_nic_that_never_knows_its_speed_delays_the_boot_for_a_moment_only(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("enp3s0", "enp4s0"):
        (tree.root / "sys/class/net" / name / "flags").write_text("0x1002\n")
    clock = iter(range(1000))
    monkeypatch.setattr(boot, "_say", lambda *_: "")
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert boot.prepare(NodePaths(tree.root)).choice.primary == MAC1


def test_the_unit_fails_if_something_is_wrong_and_writes_the_files_all_the_same(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tree.mount_oem()
    (own / "uplink.toml").write_text('[uplink]\nmode = "fast"\n')
    assert main(["os", "--root", str(tree.root), "network-write"]) == 1
    assert "uplink.mode" in capsys.readouterr().err
    assert len(written(tree)) == 3


def test_the_command_shows_nics_settings_and_what_the_next_boot_changes(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tree.mount_oem()
    assert main(["os", "--root", str(tree.root), "network-write"]) == 0
    (own / "uplink.toml").write_text('[uplink]\nmode = "lacp"\n')
    assert main(["os", "--root", str(tree.root), "network"]) == 0
    shown = capsys.readouterr().out
    assert "they take effect at the next boot" in shown
    assert MAC1 in shown
    assert "10000" in shown


def test_a_copy_for_the_next_boot_says_what_is_pending(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tree.mount_oem()
    assert main(["os", "--root", str(tree.root), "network-write"]) == 0
    (tree.root / "data/config").mkdir(parents=True)
    (tree.root / "data/config/node.toml").write_text("[uplink]\nmtu = 9000\n")
    assert main(["os", "--root", str(tree.root), "network-keep"]) == 0
    assert "they take effect at the next boot" in capsys.readouterr().out
    assert "mtu = 9000" in (own / "uplink-node.toml").read_text()
    assert boot.read_record(own / "uplink-state.json") != Record()
