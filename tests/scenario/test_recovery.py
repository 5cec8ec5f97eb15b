"""The recovery system, and a reset there."""

from pathlib import Path

import pytest
from scenario.installation import BOOT_TIMEOUT_S, INSTALL_TIMEOUT_S, Installation
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(6000)


def test_factory_reset_installs_the_system_anew_and_keeps_the_installations_settings(
    installation: Installation, short_tmp_path: Path
) -> None:
    with installation.machine(short_tmp_path) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        remote.until(
            "! grub2-editenv /oem/grubenv list | grep -q boot_assessment_check=yes",
            timeout_s=BOOT_TIMEOUT_S,
        )
        remote.run("qemu-node os set --hostname kept; echo mine >/root/mine; sync")
        image, identity = remote.run("cat /etc/os-release"), remote.run("cat /etc/machine-id")
        remote.run("qemu-node os reset --yes", timeout_s=300)
        machine.console.expect(r"Command line: .*recovery", timeout_s=600)
        machine.console.expect(r"Command line: (?!.*recovery)", timeout_s=INSTALL_TIMEOUT_S)
        # By the key of whoever has installed it.
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("ls /run/elemental/*_mode").strip().endswith("active_mode")
        assert remote.run("hostname") == "kept\n"
        assert remote.run("cat /etc/os-release") == image
        # Logs and root's home are new, and so is the machine's id.
        assert remote.run("ls /root/mine 2>&1 || true").endswith("No such file or directory\n")
        assert remote.run("cat /etc/machine-id") != identity
        assert "fromAction: reset" in remote.run("cat /run/initramfs/elemental-state/state.yaml")
        remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("systemctl --failed --no-legend --plain") == ""
