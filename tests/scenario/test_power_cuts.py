"""Power cuts in an upgrade: the node boots, and only whole images are left to go back to."""

import pytest
from scenario.upgrading import ESP, SNAPSHOTS, UPGRADE_TIMEOUT_S, Upgradable

pytestmark = pytest.mark.timeout(6000)


def test_power_cuts_leave_a_node_that_boots_and_only_good_targets(node: Upgradable) -> None:
    old = node.tag
    reference = node.publish("cut")
    new = f"{SNAPSHOTS}/$(( $(readlink {SNAPSHOTS}/active | cut -d/ -f1) + 1 ))"

    node.start_upgrade(reference)
    node.remote.until(f"test -d {new}/snapshot.workDir", timeout_s=300)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut while pulling"

    node.start_upgrade(reference)
    node.remote.until(f"test -s {new}/snapshot.img", timeout_s=UPGRADE_TIMEOUT_S)
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut while copying"

    node.stop_in("after-upgrade")
    node.start_upgrade(reference)
    node.wait_until_stopped()
    # The files on the ESP that Elemental has written for GRUB, as a cut in the middle leaves them.
    node.remote.run(
        f"cd {ESP} && truncate -s 300 grubcustom/bootassessment.cfg && : >grub_oem_env && sync"
    )
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == old, "cut before the switch, while GRUB's files are written"

    node.stop_in("post-upgrade")
    node.start_upgrade(reference, "--bootloader")
    node.wait_until_stopped()
    node.power_cycle()
    node.wait_until_settled()
    assert node.tag == "cut", "cut after the switch"

    node.remote.run("rm -f /oem/99_stop.yaml")
    node.upgrade(node.publish("next"))
    assert sorted(node.fall_back_targets().values()) == sorted(["cut", old])
    node.restart()
    node.wait_until_settled()
    assert node.tag == "next"


@pytest.mark.parametrize(("oem", "esp"), [("", "garbage"), ("garbage", "")])
def test_node_boots_whatever_a_power_cut_left_of_grubs_variables(
    node: Upgradable, oem: str, esp: str
) -> None:
    tag, targets = node.tag, node.fall_back_targets()
    node.remote.run(f"mount -o remount,rw {ESP}")
    node.remote.run(
        f"printf '%s' '{oem}' >/oem/grubenv; printf '%s' '{esp}' >{ESP}/grub_oem_env; sync"
    )
    node.power_cycle()
    assert (node.tag, node.mode) == (tag, "active_mode")
    assert node.fall_back_targets() == targets
    # Elemental sets such variables in an upgrade.
    node.remote.run(
        "grub2-editenv /oem/grubenv set test=1 && grub2-editenv /oem/grubenv unset test"
    )
