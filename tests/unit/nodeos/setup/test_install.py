from pathlib import Path

from qemu_node.nodeos.setup.choice import Choice
from qemu_node.nodeos.setup.disks import Disk
from qemu_node.nodeos.setup.install import Installation, elemental_argv, elemental_settings
from qemu_node.nodeos.setup.login import Login
from qemu_node.nodeos.setup.staging import Settings
from qemu_node.units import GIB

_DISK = Disk(path="/dev/vda", size_bytes=40 * GIB)


def test_elementals_installer_gets_the_disk_and_the_options_that_were_given() -> None:
    installation = Installation(
        choice=Choice(system=_DISK), settings=Settings(), options=("--eject-cd",), is_debug=True
    )
    assert elemental_argv(Path("/usr/bin/elemental"), Path("/run/w"), installation) == [
        "/usr/bin/elemental", "--debug", "--config-dir", "/run/w/elemental",
        "install", "--strict", "--eject-cd", "/dev/vda",
    ]  # fmt: skip


def test_data_beside_the_system_is_one_more_partition() -> None:
    assert elemental_settings(Choice(system=_DISK)) == {}
    [partition] = elemental_settings(Choice(system=_DISK, data_on_system=True))["install"][  # type: ignore[index]
        "extra-partitions"
    ]
    assert partition == {"name": "data", "label": "DATA", "fs": "ext4", "size": 0}


def test_what_will_be_done_is_said_and_no_secret_is() -> None:
    settings = Settings(
        hostname="node1",
        login=Login(keys=("key",), password_hash="$y$hash"),
        config={"node.toml": b"", "client.hcl": b""},
    )
    lines = Installation(choice=Choice(system=_DISK), settings=settings).describe()
    assert lines == [
        "system: /dev/vda (40.0 GiB), which is erased",
        "/data: none yet; `mkfs.ext4 -L DATA DISK` makes it on another disk",
        "root: 1 ssh key, a password on the console",
        "host name: node1",
        "/data/config: client.hcl, node.toml",
    ]
    assert "$y$hash" not in repr(settings)
