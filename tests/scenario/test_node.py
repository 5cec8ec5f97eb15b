"""A node at work: data, Nomad, VMs, and what a reboot does to them."""

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenario.datanode import (
    GUEST_IMAGE,
    HEALTHY_TIMEOUT_S,
    Node,
    configured,
    wait_until_healthy,
)
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import Machine
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(6000)

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
def at_work(node: Node, module_directory: Path) -> Iterator[AtWork]:
    """The node with its configuration as it is, from its boot to the end of this module's tests."""
    with node.machine(module_directory) as machine:
        remote = Remote(machine, node.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        # Returns when the start that the boot has begun is done.
        remote.run("systemctl start nomad", timeout_s=HEALTHY_TIMEOUT_S)
        # In the node: an answer that came too late for the test would be lost.
        said = remote.run(
            "until nomad acl bootstrap -json 2>/dev/null; do sleep 5; done", timeout_s=600
        )
        wait_until_healthy(remote)
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


def test_data_is_mounted_by_itself_and_nomad_has_vm_and_raw_exec(at_work: AtWork) -> None:
    at_work.remote.run("mountpoint -q /data && systemctl is-active data.mount nomad")
    drivers = json.loads(at_work.nomad("node status -self -json"))["Drivers"]
    healthy = {name for name, driver in drivers.items() if driver["Healthy"]}
    # A Nomad that is no release has one for its own tests, too.
    assert healthy - {"mock_driver"} == {"vm", "raw_exec"}
    at_work.remote.run("qemu-node config check", timeout_s=300)


def test_no_unit_has_failed(at_work: AtWork) -> None:
    at_work.remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
    assert at_work.remote.run("systemctl --failed --no-legend --plain") == ""


def test_console_answers_on_its_port_with_nomads_certificate(at_work: AtWork) -> None:
    remote = at_work.remote
    # The certificate is made at Nomad's first start, when the console runs already.
    remote.until(
        "openssl x509 -noout -fingerprint -sha256 -in /data/config/tls/node.pem | "
        'grep -qF "$(qemu-node serve --fingerprint)"',
        timeout_s=BOOT_TIMEOUT_S,
    )
    trusted = ssl.create_default_context(cadata=remote.run("cat /data/config/tls/ca.pem"))
    # By its address, which is none of the certificate's names.
    trusted.check_hostname = False
    port = at_work.machine.web_port
    client = http.client.HTTPSConnection("127.0.0.1", port, timeout=120, context=trusted)
    client.request("GET", "/")
    answer = client.getresponse()
    assert answer.status == 200
    assert b"<title>Virtual machines</title>" in answer.read()
    client.request("GET", "/api/v1/vms")
    refused = client.getresponse()
    refused.read()
    assert refused.status == 401
    client.request("GET", "/api/v1/vms", headers={"X-Nomad-Token": at_work.token})
    assert client.getresponse().status == 200


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
