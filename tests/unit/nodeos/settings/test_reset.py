from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.process.command import Completed, ProcessError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings import reset
from qemu_node.nodeos.settings.reset import Order, carry_out, data_volumes, order_reset, read_order
from qemu_node.nodeos.setup import install
from qemu_node.nodeos.setup.disks import Disk, Volume
from qemu_node.nodeos.snapshots import grubenv

_LINK = "/dev/disk/by-id/wwn-1"
_DISK = Disk(
    path="/dev/sdb", size_bytes=1, links=(_LINK,),
    volumes=(Volume(path="/dev/sdb", label="DATA"),),
)  # fmt: skip
_COPY = Disk(path="/dev/sdc", size_bytes=1, volumes=(Volume(path="/dev/sdc", label="DATA"),))


class _Tools:
    """Records what is run; fails at the command that begins as `fails`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fails = "nothing"

    def run(self, argv: list[str], **_: object) -> Completed:
        line = " ".join(argv).replace(argv[0], Path(argv[0]).name, 1)
        self.lines.append(line)
        if line.startswith(self.fails):
            raise ProcessError(argv, "failed")
        return Completed(returncode=0, stdout=b"", stderr=b"")

    async def run_async(self, argv: list[str], **kwargs: object) -> Completed:
        return self.run(argv, **kwargs)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> _Tools:
    tools = _Tools()
    for module in (reset, install):
        monkeypatch.setattr(module, "run_blocking", tools.run)
    monkeypatch.setattr(reset, "run", tools.run_async)
    return tools


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(tmp_path)
    paths.own.mkdir(parents=True)
    return paths


def test_a_reset_is_ordered_for_the_next_boot(paths: NodePaths) -> None:
    grubenv.update(paths.grubenv, {"extra_cmdline": "nomodeset"})
    order_reset(paths, Order(erases_data=True))
    assert read_order(paths) == Order(erases_data=True)
    # By one rename: a power cut leaves all of GRUB's variables.
    assert grubenv.read(paths.grubenv) == {"extra_cmdline": "nomodeset", "next_entry": "recovery"}


def test_a_reset_that_grub_cannot_be_told_of_is_not_ordered(paths: NodePaths) -> None:
    grubenv.update(paths.grubenv, {"extra_cmdline": "x" * 980})
    with pytest.raises(HostError, match="do not fit"):
        order_reset(paths, Order())
    assert read_order(paths) is None


async def test_the_order_goes_last(paths: NodePaths, tools: _Tools) -> None:
    order_reset(paths, Order())
    await carry_out(paths, Order(), ())
    assert read_order(paths) is None
    assert tools.lines == ["elemental reset --reset-persistent"]
    assert grubenv.read(paths.grubenv) == {}


async def test_a_reset_that_fails_is_tried_again_at_the_next_boot(
    paths: NodePaths, tools: _Tools
) -> None:
    order_reset(paths, Order())
    # GRUB takes the entry off when it boots it.
    grubenv.update(paths.grubenv, {"next_entry": None})
    tools.fails = "elemental"
    with pytest.raises(ProcessError):
        await carry_out(paths, Order(), ())
    assert read_order(paths) == Order()
    assert grubenv.read(paths.grubenv) == {"next_entry": "recovery"}


async def test_only_this_nodes_data_is_erased(paths: NodePaths, tools: _Tools) -> None:
    paths.data_disk.write_text(f"{_LINK}\n")
    await carry_out(paths, Order(erases_data=True), (_COPY, _DISK))
    assert "mkfs.ext4 -q -F -L DATA /dev/sdb" in tools.lines
    assert not [line for line in tools.lines if "/dev/sdc" in line]


async def test_two_data_disks_of_which_none_is_known_are_not_erased(
    paths: NodePaths, tools: _Tools
) -> None:
    with pytest.raises(HostError, match="not clear: /dev/sdb and /dev/sdc"):
        await carry_out(paths, Order(erases_data=True), (_DISK, _COPY))
    assert not [line for line in tools.lines if line.startswith("mkfs")]


def test_the_remembered_disk_tells_data_from_its_copy() -> None:
    assert [volume.path for volume in data_volumes((_DISK, _COPY), _LINK)] == ["/dev/sdb"]
