"""The recovery system, and a reset there."""

from pathlib import Path

import pytest
from scenario.installation import BOOT_TIMEOUT_S, INSTALL_TIMEOUT_S, Installation
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(6000)


def test_factory_reset_installs_the_system_anew_and_keeps_identity(
    installation: Installation, short_tmp_path: Path
) -> None:
    with installation.machine(short_tmp_path) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        remote.until(
            "! grub2-editenv /oem/grubenv list | grep -q boot_assessment_check=yes",
            timeout_s=BOOT_TIMEOUT_S,
        )
        identity = remote.run("cat /etc/machine-id")
        remote.run("qemu-node os reset --yes", timeout_s=300)
        machine.console.expect(r"Command line: .*recovery", timeout_s=600)
        machine.console.expect(r"Command line: (?!.*recovery)", timeout_s=INSTALL_TIMEOUT_S)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("ls /run/elemental/*_mode").strip().endswith("active_mode")
        assert remote.run("cat /etc/machine-id") == identity
        assert remote.run("systemctl --failed --no-legend --plain") == ""
