"""A node at work: data, Nomad, VMs, and what a reboot does to them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenario.installation import BOOT_TIMEOUT_S, Installation, Node, configured
from scenario.machine import Machine
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(6000)

HEALTHY_TIMEOUT_S = 1200
GUEST_TIMEOUT_S = 1800
MEMORY_MAX_MIB = 450

_JOB = """
job "small" {
  group "vm" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "vm" {
      driver       = "vm"
      kill_timeout = "2m"

      config {
        image = "/data/local-images/small.qcow2"
      }

      resources {
        memory = 640
      }
    }
  }
}
"""


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

    def allocation(self) -> dict[str, object]:
        """The job's only allocation."""
        (allocation,) = json.loads(self.nomad("job allocs -json small"))
        return dict(allocation)


@pytest.fixture(scope="module")
def at_work(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtWork]:
    """The node with its configuration as it is, from its boot to the end of this module's tests."""
    directory = tmp_path_factory.mktemp("node")
    with node.machine(directory) as machine:
        remote = Remote(machine, node.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        remote.until("qemu-node os health", timeout_s=HEALTHY_TIMEOUT_S)
        said = remote.until("nomad acl bootstrap -json", timeout_s=300)
        yield AtWork(machine=machine, remote=remote, token=json.loads(said)["SecretID"])


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


def test_nomad_has_vm_and_raw_exec_and_no_failed_unit(at_work: AtWork) -> None:
    drivers = json.loads(at_work.nomad("node status -self -json"))["Drivers"]
    healthy = {name for name, driver in drivers.items() if driver["Healthy"]}
    assert healthy == {"vm", "raw_exec"}
    assert at_work.remote.run("systemctl --failed --no-legend --plain") == ""
    at_work.remote.run("qemu-node config check")


def test_node_leaves_its_memory_to_vms(at_work: AtWork) -> None:
    lines = at_work.remote.run("cat /proc/meminfo").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    used_mib = (kib["MemTotal"] - kib["MemAvailable"]) / 1024
    assert used_mib <= MEMORY_MAX_MIB


def test_vm_runs_under_secure_boot_and_ends_cleanly_at_a_reboot(at_work: AtWork) -> None:
    remote = at_work.remote
    remote.run(f"cat >/root/small.nomad.hcl <<'END'\n{_JOB}\nEND")
    at_work.nomad("job run -detach /root/small.nomad.hcl")
    remote.until(
        "grep -rq 'small guest ready: .*secure_boot=yes' /data/vm/*/serial.log "
        "/data/nomad/alloc/*/alloc/logs/",
        timeout_s=GUEST_TIMEOUT_S,
    )
    before = at_work.allocation()
    remote.call("systemctl reboot || true")
    at_work.machine.console.expect(r"Command line: ", timeout_s=900)
    shutdown = at_work.machine.console.text
    assert "Failed unmounting data.mount" not in shutdown
    remote.until("qemu-node os health", timeout_s=HEALTHY_TIMEOUT_S)
    journal = remote.run("journalctl -b -1 -u qemu-node-vms -o cat --no-pager")
    assert "powered off" in journal or "ended" in journal, journal
    after = at_work.allocation()
    assert after["ID"] == before["ID"]
    states = after["TaskStates"]
    assert isinstance(states, dict)
    assert states["vm"]["State"] == "running"


def test_tools_of_an_operator_are_there(at_work: AtWork) -> None:
    remote = at_work.remote
    remote.run("htop --version && tcpdump --version && lldpcli show chassis")
    remote.run("modprobe kvm; timeout 5 perf kvm stat live --display 1 </dev/null || true")
    remote.run("perf --version")
