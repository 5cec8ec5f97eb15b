import dataclasses
from pathlib import Path

import pytest

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.config.node import parse
from qemu_node.errors import ConfigError, MissingPartError
from qemu_node.nomad.driver.fingerprint import HostFacts, build_fingerprint, read_host_facts
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.spec import Accelerator, DiskAio, FirmwareMode, QemuVersion
from qemu_node.vm.hypervisor import Hypervisor

QEMU = QemuBinary(path="/usr/bin/qemu-system-x86_64", version=QemuVersion(major=10, minor=0))
FACTS = HostFacts(has_ksm=True, has_vhost_net=True, has_cgroup2=True)


def hypervisor(kvm_problem: str | None = None, *, is_kvm_lost: bool = False) -> Hypervisor:
    return Hypervisor(
        binary=QEMU,
        accelerator=Accelerator.TCG if kvm_problem else Accelerator.KVM,
        kvm_problem=kvm_problem,
        kvm_detail="qemu-system-x86_64: kvm.c:42: Assertion failed" if kvm_problem else "",
        is_kvm_lost=is_kvm_lost,
        aio=DiskAio.THREADS,
    )


def test_a_node_where_guests_run_is_healthy_and_says_with_what() -> None:
    fingerprint = build_fingerprint(hypervisor(), None, FACTS)
    assert fingerprint.is_healthy
    assert fingerprint.description == "Healthy: QEMU 10.0.0, kvm"
    assert fingerprint.attributes["driver.vm.secure_boot"] is True
    assert fingerprint.attributes["driver.vm.firmware"] == "secure-boot,uefi,bios"


def test_a_node_without_kvm_is_healthy_and_says_in_one_plain_sentence_why_it_is_slow() -> None:
    fingerprint = build_fingerprint(hypervisor("/dev/kvm is broken"), None, FACTS)
    assert fingerprint.is_healthy
    assert fingerprint.description == (
        "Healthy: QEMU 10.0.0, tcg, so guests are slow: /dev/kvm is broken"
    )
    assert fingerprint.attributes["driver.vm.accelerator"] == "tcg"
    assert fingerprint.attributes["driver.vm.kvm_lost"] is False


def test_a_node_that_lost_kvm_says_so_first() -> None:
    lost = hypervisor("/dev/kvm does not exist", is_kvm_lost=True)
    fingerprint = build_fingerprint(lost, None, FACTS)
    assert fingerprint.is_healthy
    assert fingerprint.description.startswith(
        "Degraded: KVM ran guests here before and does not now"
    )
    assert fingerprint.attributes["driver.vm.kvm_lost"] is True


def test_vms_that_nobody_manages_are_named_whatever_else_is_wrong() -> None:
    problem = "VMs run without a driver: web-0123456789ab"
    facts = dataclasses.replace(FACTS, vm_problems=(problem,))
    assert build_fingerprint(hypervisor(), None, facts).description.endswith(f"; {problem}")
    broken = build_fingerprint(None, MissingPartError("no QEMU"), facts)
    assert broken.description == f"no QEMU; {problem}"


def test_files_of_an_earlier_version_are_named_on_a_healthy_node() -> None:
    facts = dataclasses.replace(FACTS, earlier_data="/data/vm: not used")
    fingerprint = build_fingerprint(hypervisor(), None, facts)
    assert fingerprint.is_healthy
    assert fingerprint.description.endswith("; /data/vm: not used")


def test_what_is_missing_is_named_with_its_package() -> None:
    problem = MissingPartError("QEMU is not installed", hint="apt install qemu-system-x86")
    fingerprint = build_fingerprint(None, problem, FACTS)
    assert not fingerprint.is_healthy
    assert "apt install qemu-system-x86" in fingerprint.description


def test_a_node_without_secure_boot_firmware_is_unhealthy_but_other_firmware_is_optional() -> None:
    lacks_secure = HostFacts(firmware_problems={FirmwareMode.SECURE_BOOT: "apt install ovmf"})
    assert not build_fingerprint(hypervisor(), None, lacks_secure).is_healthy
    lacks_uefi = HostFacts(firmware_problems={FirmwareMode.UEFI: "apt install ovmf"})
    fingerprint = build_fingerprint(hypervisor(), None, lacks_uefi)
    assert fingerprint.is_healthy
    assert fingerprint.attributes["driver.vm.firmware"] == "secure-boot,bios"


def test_a_node_whose_driver_has_too_few_files_left_takes_no_vm_and_says_what_to_do() -> None:
    fingerprint = build_fingerprint(hypervisor(), None, HostFacts(is_short_of_files=True))
    assert not fingerprint.is_healthy
    assert "LimitNOFILE" in fingerprint.description


def test_a_node_whose_data_disk_is_full_takes_no_vm_and_says_so_without_figures() -> None:
    fingerprint = build_fingerprint(hypervisor(), None, HostFacts(is_disk_full=True))
    assert not fingerprint.is_healthy
    assert "disk.reserve" in fingerprint.description
    assert "GiB" not in fingerprint.description


def test_the_data_disk_is_judged_by_its_reserve(tmp_path: Path) -> None:
    for reserve, is_full in (("0", False), ("100%", True)):
        text = f'[paths]\ndata = "{tmp_path / "data"}"\n[disk]\nreserve = "{reserve}"\n'
        assert read_host_facts(parse(text, "node.toml")).is_disk_full is is_full


@pytest.mark.parametrize(
    ("web", "told"),
    [
        ("", ":5800"),
        ("port = 5801", ":5801"),
        ('allowed_origins = ["https://console.example:8443"]', "https://console.example:8443"),
        ("enabled = false", ""),
    ],
)
def test_other_nodes_are_told_where_the_console_is(web: str, told: str) -> None:
    facts = read_host_facts(parse(f"[web]\n{web}\n", "node.toml"))
    fingerprint = build_fingerprint(hypervisor(), None, facts)
    assert fingerprint.attributes["driver.vm.console"] == told


def test_what_is_not_known_is_sent_empty_rather_than_left_out() -> None:
    unknown = build_fingerprint(None, ConfigError("node.toml is wrong"), None)
    known = build_fingerprint(hypervisor(), None, FACTS)
    assert unknown.attributes.keys() == known.attributes.keys()
    assert unknown.attributes["driver.vm.secure_boot"] == ""
    assert "node.toml is wrong" in unknown.description


def test_the_response_carries_booleans_as_booleans() -> None:
    response = build_fingerprint(hypervisor(), None, FACTS).to_response()
    assert response.health == response.HEALTHY
    assert response.attributes["driver.vm"].bool_val is True
    assert response.attributes["driver.vm.qemu"].string_val == "10.0.0"


NETWORK = NetworkConfig(
    bridge="br0",
    default_vlan=50,
    management_vlan=101,
    policy=(NetworkPolicy(namespaces=("*",), vlans=("100-102", "300")),),
)


def test_jobs_find_the_vlans_of_a_node_each_by_itself() -> None:
    facts = HostFacts(has_cgroup2=True, network=NETWORK)
    attributes = build_fingerprint(hypervisor(), None, facts).attributes
    assert attributes["driver.vm.bridge"] == "br0"
    assert attributes["driver.vm.vlans"] == "50,100,102,300"


def test_a_bridge_that_does_not_work_is_named_and_attracts_no_job() -> None:
    problem = "the bridge br0 does not exist (network.bridge in node.toml names it)"
    facts = HostFacts(has_cgroup2=True, network=NETWORK, network_problems=(problem,))
    fingerprint = build_fingerprint(hypervisor(), None, facts)
    assert fingerprint.is_healthy
    assert fingerprint.description.endswith(f"; network: {problem}")
    assert fingerprint.attributes["driver.vm.bridge"] == ""
    assert fingerprint.attributes["driver.vm.vlans"] == ""


def test_a_node_that_cannot_be_kept_from_guests_and_has_no_bridge_is_unhealthy() -> None:
    problem = "cannot filter what guests send: libnftables.so.1 is missing"
    facts = HostFacts(has_cgroup2=True, network_problems=(problem,))
    fingerprint = build_fingerprint(hypervisor(), None, facts)
    assert not fingerprint.is_healthy
    assert problem in fingerprint.description
    opened = dataclasses.replace(facts, network=NetworkConfig(allow_host=True))
    assert build_fingerprint(hypervisor(), None, opened).is_healthy


def test_vhost_is_offered_where_the_operator_wants_it() -> None:
    off = read_host_facts(parse("network.vhost = 'off'", "node.toml"))
    assert not off.has_vhost_net
    on = read_host_facts(parse("", "node.toml"))
    assert on.has_vhost_net == Path("/dev/vhost-net").exists()
