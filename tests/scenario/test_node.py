"""A node at work: data, Nomad, VMs, and what a reboot does to them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenario.datanode import GUEST_IMAGE, Node, configured
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import Machine
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(6000)

HEALTHY_TIMEOUT_S = 1200
GUEST_TIMEOUT_S = 1800
MEMORY_MAX_MIB = 450

_EXAMPLE = "/usr/share/doc/qemu-node/examples/minimal.nomad.hcl"
_KEPT = "/data/kept"
_TLS = "/data/config/tls/*.pem"


@pytest.fixture(scope="module")
def node(installation: Installation, small_guest_image: Path) -> Node:
    return configured(installation, small_guest_image)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """The running node, with Nomad's management token."""

    machine: Machine
    remote: Remote
    token: str

    def nomad(self, arguments: str, *, timeout_s: float = 120) -> str:
        return self.remote.run(f"NOMAD_TOKEN={self.token} nomad {arguments}", timeout_s=timeout_s)

    def wait_until_healthy(self) -> None:
        """Return when Nomad has found the driver healthy, so that VMs can start."""
        # One command that waits: to ask again and again takes the node what its own start needs.
        self.remote.run(
            f"qemu-node os health --timeout {HEALTHY_TIMEOUT_S}s", timeout_s=HEALTHY_TIMEOUT_S + 60
        )

    def allocation(self) -> dict[str, Any]:
        """The only allocation of the example."""
        (allocation,) = json.loads(self.nomad("job allocs -json minimal"))
        return dict(allocation)

    def wait_for_guests(self, count: int) -> None:
        """Return when the example's guest has been ready so many times."""
        self.remote.run(
            "until test $(cat /data/nomad/alloc/*/alloc/logs/vm.stdout.* | "
            f"grep -c 'small guest ready: .*secure_boot=yes') = {count}; do sleep 5; done",
            timeout_s=GUEST_TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def at_work(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtWork]:
    """The node with its configuration as it is, from its boot to the end of this module's tests."""
    directory = tmp_path_factory.mktemp("node")
    with node.machine(directory) as machine:
        remote = Remote(machine, node.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        # Returns when the start that the boot has begun is done.
        remote.run("systemctl start nomad", timeout_s=HEALTHY_TIMEOUT_S)
        said = remote.until("nomad acl bootstrap -json", timeout_s=300)
        at_work = AtWork(machine=machine, remote=remote, token=json.loads(said)["SecretID"])
        at_work.wait_until_healthy()
        yield at_work


def test_without_data_the_node_says_so_and_nomad_waits(node: Node) -> None:
    seen = node.seen
    assert "mkfs.ext4 -L DATA" in seen["console"]
    assert seen["nomad without data"].strip() == "inactive"
    assert seen["failed"].strip() == ""


def test_an_installed_node_has_no_password(node: Node) -> None:
    passwords = [line.split(":")[1] for line in node.seen["accounts"].splitlines()]
    assert not [word for word in passwords if word.startswith("$")]


def test_only_root_reads_what_outlives_images(node: Node) -> None:
    modes: dict[str, str] = {}
    for line in node.seen["oem"].splitlines():
        mode, _, name = line.partition(" ")
        modes[name] = mode
    assert modes.pop("/oem") == "700"
    assert not [name for name, mode in modes.items() if name.endswith(".yaml") and mode != "600"]


def test_swap_is_compressed_memory_only(node: Node) -> None:
    assert set(node.seen["swap"].split()) <= {"/dev/zram0"}


def test_data_is_mounted_by_itself_and_nomad_has_vm_and_raw_exec(at_work: AtWork) -> None:
    at_work.remote.run("mountpoint -q /data && systemctl is-active data.mount nomad")
    drivers = json.loads(at_work.nomad("node status -self -json"))["Drivers"]
    healthy = {name for name, driver in drivers.items() if driver["Healthy"]}
    # A Nomad that is no release has one for its own tests, too.
    assert healthy - {"mock_driver"} == {"vm", "raw_exec"}
    at_work.remote.run("qemu-node config check")


def test_no_unit_has_failed(at_work: AtWork) -> None:
    at_work.remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
    assert at_work.remote.run("systemctl --failed --no-legend --plain") == ""


def test_node_leaves_its_memory_to_vms(at_work: AtWork) -> None:
    lines = at_work.remote.run("cat /proc/meminfo").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    used_mib = (kib["MemTotal"] - kib["MemAvailable"]) / 1024
    assert used_mib <= MEMORY_MAX_MIB


def test_nobody_without_a_token_runs_anything(at_work: AtWork) -> None:
    said = at_work.remote.run(f"nomad job run -var image={GUEST_IMAGE} {_EXAMPLE} 2>&1; true")
    assert "Permission denied" in said


def test_vm_of_an_example_ends_cleanly_at_a_reboot_and_starts_again(at_work: AtWork) -> None:
    remote = at_work.remote
    remote.run(f"date >{_KEPT}")
    kept = remote.run(f"sha256sum {_KEPT} {_TLS}")
    at_work.nomad(f"job run -detach -var image={GUEST_IMAGE} {_EXAMPLE}")
    at_work.wait_for_guests(1)
    before = at_work.allocation()
    remote.restart(timeout_s=BOOT_TIMEOUT_S)

    assert remote.run(f"sha256sum {_KEPT} {_TLS}") == kept
    journal = remote.run("journalctl -b -1 -o cat --no-pager | tail -n 500")
    # The guest, then its data, by itself and in time.
    assert re.search(
        r"\b1 of 1 VMs ended: 1 by their guest agents\n(?s:.*)^Unmounted data\.mount",
        journal,
        re.MULTILINE,
    )
    assert "Failed unmounting data.mount" not in at_work.machine.console.text

    at_work.wait_for_guests(2)
    after = at_work.allocation()
    assert after["ID"] == before["ID"]
    state = after["TaskStates"]["vm"]
    assert (state["State"], state["Restarts"], state["Failed"]) == ("running", 0, False)
    remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
    assert remote.run("systemctl --failed --no-legend --plain") == ""


def test_tools_of_an_operator_are_there(at_work: AtWork) -> None:
    remote = at_work.remote
    remote.run("htop --version && tcpdump --version && lldpcli show chassis")
    remote.run("modprobe kvm; timeout 5 perf kvm stat live --display 1 </dev/null || true")
    remote.run("perf --version")
