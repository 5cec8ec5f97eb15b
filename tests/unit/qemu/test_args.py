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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("-adevic glob,=/f{}\n"), max_size=12), max_size=5))
def test_whatever_passes_is_pairs_of_option_and_value(args: list[str]) -> None:
    try:
        checked = check_args(args, _ANYTHING)
    except JobError:
        return
    assert len(checked) % 2 == 0
    assert all(name in ("-device", "-global", "-cpu") for name in checked[::2])
