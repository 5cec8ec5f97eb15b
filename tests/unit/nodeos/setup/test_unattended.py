from dataclasses import replace

import pytest

from qemu_node.errors import ConfigError
from qemu_node.nodeos.setup.choice import RefusedError
from qemu_node.nodeos.setup.disks import Disk, Volume
from qemu_node.nodeos.setup.probe import Content, Leftover, judge_content
from qemu_node.nodeos.setup.seed import DataPattern, DiskPattern, Seed
from qemu_node.nodeos.setup.unattended import AlreadyInstalledError, choose_by_seed
from qemu_node.units import GIB

_EMPTY = Disk(path="/dev/vda", size_bytes=40 * GIB, transport="virtio")
_OTHER = Disk(path="/dev/vdb", size_bytes=80 * GIB, transport="virtio")
_NODE = replace(
    _EMPTY,
    volumes=(Volume(path="/dev/vda1", label="COS_STATE", partlabel="state", fstype="ext4"),),
)
_SEED = Seed(disk=DiskPattern(choose="smallest"))
_WIPING = Seed(disk=DiskPattern(choose="smallest", wipe=True))


def _leaves(what: Leftover) -> object:
    return lambda _disk: what


def test_a_seed_installs_on_the_disk_that_it_means() -> None:
    seed = Seed(disk=DiskPattern(max_size="50G"), data=DataPattern(choose="only", path="/dev/vdb"))
    choice = choose_by_seed(seed, (_EMPTY, _OTHER), _leaves(Leftover.UNKNOWN))  # type: ignore[arg-type]
    assert (choice.system, choice.data, choice.formats_data) == (_EMPTY, _OTHER, True)


def test_a_seed_that_names_no_disk_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not say which disk"):
        choose_by_seed(Seed(), (_EMPTY,), _leaves(Leftover.UNKNOWN))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [_SEED, _WIPING])
def test_a_machine_that_boots_the_live_system_for_ever_keeps_its_node(seed: Seed) -> None:
    with pytest.raises(AlreadyInstalledError):
        choose_by_seed(seed, (_NODE, _OTHER), _leaves(Leftover.INSTALLED))  # type: ignore[arg-type]


def test_an_installation_that_a_power_cut_has_ended_is_done_again() -> None:
    choice = choose_by_seed(_SEED, (_NODE, _OTHER), _leaves(Leftover.UNFINISHED))  # type: ignore[arg-type]
    assert choice.system is _NODE


def test_another_node_is_erased_only_where_the_seed_says_so() -> None:
    with pytest.raises(RefusedError, match="an installed node") as caught:
        choose_by_seed(_SEED, (_NODE, _OTHER), _leaves(Leftover.UNKNOWN))  # type: ignore[arg-type]
    assert caught.value.hint is not None
    assert "wipe = true" in caught.value.hint
    assert choose_by_seed(_WIPING, (_NODE,), _leaves(Leftover.UNKNOWN)).system is _NODE  # type: ignore[arg-type]


_PARTS = frozenset({"efi", "oem", "recovery", "state", "persistent"})


@pytest.mark.parametrize(
    ("names", "has_state", "seed", "has_data", "leftover"),
    [
        (_PARTS, True, b"mine", True, Leftover.INSTALLED),
        (_PARTS, True, b"other", True, Leftover.UNKNOWN),
        (_PARTS, True, None, True, Leftover.UNKNOWN),
        (_PARTS, False, b"mine", False, Leftover.UNFINISHED),
        (_PARTS, False, None, False, Leftover.UNFINISHED),
        (_PARTS, False, b"other", False, Leftover.UNKNOWN),
        (_PARTS, False, b"mine", True, Leftover.UNKNOWN),
        (frozenset({"efi"}), False, None, False, Leftover.UNFINISHED),
        (_PARTS | {"home"}, False, None, False, Leftover.UNKNOWN),
        (frozenset({""}), False, None, False, Leftover.UNKNOWN),
        (frozenset(), False, None, False, Leftover.UNKNOWN),
    ],
)
def test_only_our_own_unfinished_work_may_go(
    names: frozenset[str], has_state: bool, seed: bytes | None, has_data: bool, leftover: Leftover
) -> None:
    content = Content(partition_names=names, has_state=has_state, seed=seed, has_data=has_data)
    assert judge_content(content, b"mine") is leftover
