import json
from itertools import pairwise

import pytest
from fakes.specs import EVERY_SWITCH, make_spec

from qemu_node.errors import JobError
from qemu_node.qemu import devices
from qemu_node.qemu.spec import OsFamily, PortForward, TapNic, UserNic, VMSpec


def _devices(argv: list[str]) -> list[dict[str, object]]:
    return [json.loads(value) for option, value in pairwise(argv) if option == "-device"]


def _all_devices(spec: VMSpec) -> list[dict[str, object]]:
    return _devices(
        [
            *devices.screen_and_serial(spec),
            *devices.platform(spec),
            *devices.disk(spec),
            *devices.config_drive(spec),
            *devices.nics(spec),
        ]
    )


def _nic(number: int) -> UserNic:
    return UserNic(mac=f"52:54:00:00:00:{number:02x}", hostname="", forwards=())


@pytest.mark.parametrize("os_family", OsFamily)
def test_every_pci_device_has_a_slot_of_its_own_and_none_that_is_kept_for_later(
    os_family: OsFamily,
) -> None:
    nics = tuple(_nic(n) for n in range(devices.MAX_NICS))
    spec = make_spec(os_family, nics=nics, **EVERY_SWITCH)
    used = [int(str(d["addr"]), 16) for d in _all_devices(spec) if d.get("bus") == "pcie.0"]
    assert len(used) == len(set(used)) > devices.MAX_NICS
    assert not {0x1F, *devices.FREE_SLOTS} & set(used)


def test_network_interface_keeps_its_slot_whatever_else_the_vm_has() -> None:
    def slot(spec: VMSpec) -> object:
        return next(d["addr"] for d in _all_devices(spec) if d["id"] == "nic0")

    bare = make_spec(OsFamily.WINDOWS, overlay=None, config_drive=None)
    assert slot(make_spec()) == slot(bare)


def test_config_drive_of_windows_is_on_a_controller_it_has_a_driver_for() -> None:
    [linux] = _devices(devices.config_drive(make_spec(OsFamily.LINUX)))
    [windows] = _devices(devices.config_drive(make_spec(OsFamily.WINDOWS)))
    assert (linux["driver"], linux["bus"]) == ("scsi-cd", "scsi0.0")
    assert (windows["driver"], windows["bus"]) == ("ide-cd", "ide.0")


def test_only_linux_reports_free_pages() -> None:
    def drivers(os_family: OsFamily) -> set[object]:
        return {device["driver"] for device in _all_devices(make_spec(os_family))}

    assert "virtio-balloon-pci" in drivers(OsFamily.LINUX)
    assert "virtio-balloon-pci" not in drivers(OsFamily.WINDOWS)


@pytest.mark.parametrize(("vcpus", "queues"), [(1, 1), (4, 4), (64, 4)])
def test_disk_queues_follow_the_vcpus_up_to_four(vcpus: int, queues: int) -> None:
    [controller] = [d for d in _devices(devices.disk(make_spec(vcpus=vcpus))) if d["id"] == "scsi0"]
    assert controller["num_queues"] == queues


def test_more_networks_than_slots_are_refused() -> None:
    spec = make_spec(nics=tuple(_nic(n) for n in range(devices.MAX_NICS + 1)))
    with pytest.raises(JobError, match="at most 8 networks, not 9"):
        devices.nics(spec)


def test_forward_is_written_as_slirp_reads_it() -> None:
    forward = PortForward(label="http", host_ip="127.0.0.1", host_port=20080, guest_port=80)
    [_, netdev, *_] = devices.nics(
        make_spec(nics=(UserNic(mac="52:54:00:12:34:56", hostname="", forwards=(forward,)),))
    )
    assert json.loads(netdev)["hostfwd"] == [{"str": "tcp:127.0.0.1:20080-:80"}]


def _tap(nic: TapNic) -> tuple[dict[str, object], dict[str, object]]:
    """Return host end and device of one NIC."""
    [_, netdev, _, device] = devices.nics(make_spec(nics=(nic,)))
    return json.loads(netdev), json.loads(device)


def test_a_tap_is_handed_over_open() -> None:
    netdev, device = _tap(TapNic(mac="02:00:00:00:00:01", tap_fds=(20,), vhost_fds=(), mtu=None))
    assert netdev == {"type": "tap", "id": "net0", "fds": "20"}
    assert not device.keys() & {"mq", "vectors", "host_mtu"}


def test_each_pair_of_queues_has_its_descriptors_and_its_vectors() -> None:
    nic = TapNic(mac="02:00:00:00:00:01", tap_fds=(3, 4, 5), vhost_fds=(6, 7, 8), mtu=9000)
    netdev, device = _tap(nic)
    assert (netdev["fds"], netdev["vhost"], netdev["vhostfds"]) == ("3:4:5", True, "6:7:8")
    assert (device["mq"], device["vectors"], device["host_mtu"]) == (True, 8, 9000)


@pytest.mark.parametrize("host_ip", ["", "localhost", "::1", "1.2.3.4:5-:6", "1.2.3.4,x=y"])
def test_forward_of_anything_but_an_ipv4_address_is_refused(host_ip: str) -> None:
    forward = PortForward(label="http", host_ip=host_ip, host_port=1, guest_port=1)
    spec = make_spec(nics=(UserNic(mac="", hostname="", forwards=(forward,)),))
    with pytest.raises(JobError, match="IPv4"):
        devices.nics(spec)


@pytest.mark.parametrize(("host_port", "guest_port"), [(0, 80), (80, 0), (65536, 1), (1, -1)])
def test_forward_of_an_impossible_port_is_refused(host_port: int, guest_port: int) -> None:
    forward = PortForward(
        label="http", host_ip="127.0.0.1", host_port=host_port, guest_port=guest_port
    )
    spec = make_spec(nics=(UserNic(mac="", hostname="", forwards=(forward,)),))
    with pytest.raises(JobError, match="is not a TCP port"):
        devices.nics(spec)
