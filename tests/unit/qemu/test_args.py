import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import ConfigError, JobError
from qemu_node.qemu.args import check_args

_ANYTHING = (".*",)


def test_no_option_passes_unless_the_operator_allows_it() -> None:
    with pytest.raises(JobError, match=r"-device usb-audio.* is not allowed on this node"):
        check_args(["-device", "usb-audio"], [])


def test_option_passes_when_an_expression_matches_it_in_full() -> None:
    allowed = ["-device usb-[a-z]+"]
    assert check_args(["-device", "usb-audio"], allowed) == ("-device", "usb-audio")
    with pytest.raises(JobError, match="is not allowed"):
        check_args(["-device", "usb-audio,audiodev=a"], allowed)


@pytest.mark.parametrize(
    "args", [["-device", "usb-audio"], ["--device", "usb-audio"], ["-device usb-audio"]]
)
def test_option_may_be_written_in_each_way_of_qemu(args: list[str]) -> None:
    assert check_args(args, ["-device usb-audio"]) == ("-device", "usb-audio")


@pytest.mark.parametrize(
    "option",
    [
        "-monitor stdio", "-qmp tcp::1", "-mon x", "-chardev pipe,id=a", "-drive file=/etc/shadow",
        "-blockdev x", "-hda /etc/shadow", "-cdrom x", "-netdev user,id=x", "-nic user",
        "-fsdev local", "-virtfs local", "-object secret,id=a,file=/etc/shadow",
        "-incoming exec:id", "-writeconfig /x", "-readconfig /x", "-plugin /x.so", "-trace x",
        "-D /x", "-pidfile /x", "-daemonize", "-runas root", "-chroot /", "-sandbox off",
        "-bios /x", "-kernel /x", "-initrd /x", "-dtb /x", "-add-fd fd=1", "-acpitable file=/x",
        "-name x", "-m 1T", "-smp 99", "-machine q35", "-M q35", "-accel kvm", "-action x",
        "-serial stdio", "-vnc :0", "-gdb tcp::1", "-s", "-S", "-set a.b.c=d", "-run-with user=x",
        "-uuid x", "-display gtk", "-snapshot", "-overcommit mem-lock=on", "-newer-option x",
    ],
)  # fmt: skip
def test_option_that_reaches_the_host_or_the_driver_never_passes(option: str) -> None:
    with pytest.raises(JobError, match="can never be allowed"):
        check_args(option.split(" "), _ANYTHING)


@pytest.mark.parametrize(
    "value",
    [
        "loader,file=/etc/shadow,addr=0", "generic-loader", "driver=guest-loader,addr=0",
        "vfio-pci,host=00:02.0", "vhost-scsi-pci,wwpn=x", "usb-host,hostbus=1", "usb-mtp",
        "virtio-net-pci,romfile=/etc/shadow", "virtio-9p-pci,fsdev=x", "x,sysfsdev=/x",
        "ivshmem-plain,memdev=ram0", "virtio-input-host-pci,evdev=/dev/input/event0",
        "usb-audio,x-secret=1", '{"driver":"usb-audio"}', "usb-audio\n", "cfi.pflash01",
        "u2f-passthru,hidraw=/dev/hidraw0", "u2f-emulated,dir=/root", "canokey,file=/etc/shadow",
        "ccid-card-emulated,backend=certificates,db=/etc", "usb-redir,chardev=qmp",
        "virtserialport,chardev=qmp", "scsi-hd,drive=pflash1", "e1000e,netdev=net0",
        "usb-kbd,pcap=/etc/cron.d/x", "usb-kbd,driver=usb-host", "usb-kbd,,pcap=/x",
        "usb-kbd,attached,pcap=/x", "usb-kbd,attached,,pcap=/x", "usb-kbd,id=a,,,pcap=/x",
        "uefi-vars-x64,jsonfile=/x", "ipmi-bmc-sim,sdrfile=/etc/shadow", "virtio-gpu-rutabaga",
        "virtio-rng-pci,rng=rng0", "nvdimm,memdev=ram0", "pc-dimm,memdev=ram0", "tpm-tis,tpmdev=a",
        "id=a,driver=usb-kbd", "", "usb-kbd,", "device-of-tomorrow", "usb-kbd,option-of-tomorrow=1",
    ],
)  # fmt: skip
def test_device_that_takes_something_of_the_host_never_passes(value: str) -> None:
    with pytest.raises(JobError, match="can never be allowed"):
        check_args(["-device", value], _ANYTHING)


@pytest.mark.parametrize(
    "option",
    [
        ("-smbios", "type=1,file=/etc/shadow"),
        ("-smbios", "file=/etc/shadow"),
        ("-fw_cfg", "name=opt/a,file=/etc/shadow"),
        ("-global", "driver=cfi.pflash01,property=secure,value=off"),
        ("-global", "cfi.pflash01.secure=off"),
        ("-global", "ICH9-LPC.disable_s3=0"),
        ("-global", "virtio-net-pci.romfile=/etc/shadow"),
        ("-global", "driver=virtio-net-pci,property=romfile,value=/etc/shadow"),
        ("-global", "pci-device.romfile=/etc/shadow"),
        ("-global", "usb-device.pcap=/x"),
        ("-global", "isa-serial.chardev=qmp"),
        ("-icount", "shift=auto,rr=record,rrfile=/etc/cron.d/x"),
        ("-icount", "auto,rrfile=/etc/shadow"),
        ("-icount", "auto,,a,rrfile=/etc/shadow"),
        ("-smbios", "type=11,path=/etc/shadow"),
        ("-smbios", "type=11,value=a,,,path=/etc/shadow"),
        ("-fw_cfg", "opt/a,gen_id=a"),
        ("-fw_cfg", "opt/a,file=/etc/shadow"),
        ("-rtc", "base=utc,x=1"),
        ("-cpu", "max,x-force-features=on"),
    ],
)
def test_harmless_option_with_a_harmful_value_never_passes(option: tuple[str, str]) -> None:
    with pytest.raises(JobError, match="can never be allowed"):
        check_args(option, _ANYTHING)


@pytest.mark.parametrize("args", [["/etc/shadow"], [""], ["-device", "usb-audio", "/etc/shadow"]])
def test_bare_word_that_would_become_a_disk_is_refused(args: list[str]) -> None:
    with pytest.raises(JobError, match="QEMU would open it as a disk"):
        check_args(args, _ANYTHING)


def test_option_cannot_hide_as_the_value_of_another() -> None:
    # QEMU takes what follows -device as its value, so this must be read the same way.
    with pytest.raises(JobError, match="QEMU would open it as a disk"):
        check_args(["-device", "-drive", "file=/etc/shadow"], _ANYTHING)


def test_option_without_its_value_is_refused() -> None:
    with pytest.raises(JobError, match="lacks its value"):
        check_args(["-device"], _ANYTHING)


def test_wrong_expression_is_the_operators_fault() -> None:
    with pytest.raises(ConfigError, match=r"allow_args.*'\('"):
        check_args(["-device", "usb-audio"], ["("])


@pytest.mark.parametrize(
    "option",
    [
        ("-smbios", "type=11,value=a,,b"),
        ("-fw_cfg", "name=opt/a,string=b"),
        ("-fw_cfg", "opt/a,,b,string=c=d"),
        ("-icount", "auto,sleep=off"),
        ("-rtc", "base=2020-01-01,clock=vm"),
        ("-cpu", "max,+avx,pmu=off"),
        ("-global", "kvm-pit.lost_tick_policy=delay"),
        ("-global", "virtio-net-pci.rx_queue_size=1024"),
        ("-device", "pcie-root-port,id=rp,chassis=1,slot=2"),
        ("-device", "driver=usb-kbd,serial=a,,b"),
    ],
)
def test_option_that_takes_nothing_of_the_host_can_be_allowed(option: tuple[str, str]) -> None:
    assert check_args(option, _ANYTHING) == option


_WORDS = st.sampled_from([
    "usb-kbd", "usb-host", "driver", "serial", "pcap", "romfile", "rrfile", "hidraw", "auto",
    "shift", "type", "path", "value", "opt/a", "name", "string", "file", "a", ",", ",,", "=", ".",
])  # fmt: skip
_NAMES_A_FILE = r"(?:pcap|romfile|rrfile|hidraw|path|file)="


@settings(max_examples=500)
@given(
    st.sampled_from(["-device", "-global", "-icount", "-smbios", "-fw_cfg", "-cpu"]),
    st.lists(_WORDS, max_size=9).map("".join),
)
def test_whatever_passes_opens_no_file_as_qemu_reads_it(option: str, value: str) -> None:
    try:
        name, checked = check_args([option, value], _ANYTHING)
    except JobError:
        return
    # In what passes there are no flags, so a doubled comma is always text.
    begin = r"^[^.=,]*\." if name == "-global" else "(?:^|,)"
    assert name == "-cpu" or not re.search(begin + _NAMES_A_FILE, checked.replace(",,", ";"))
    assert name != "-device" or not checked.startswith(("usb-host", "driver=usb-host"))
