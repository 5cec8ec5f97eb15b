import difflib
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from fakes.specs import CASES, QEMU_7_2, QEMU_10_0, case_name, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.spec import (
    Accelerator,
    BaseImage,
    FirmwareMode,
    OsFamily,
    QemuVersion,
    UserNic,
    VMSpec,
)
from qemu_node.units import MIB

_GOLDEN = Path(__file__).parents[2] / "data" / "argv"
_BINARY = "/usr/bin/qemu-system-x86_64"

# Anything that a path can hold, with what means something to one of QEMU's parsers more often.
_HOSTILE = st.text(
    st.one_of(
        st.sampled_from(",=\"'\\ {}[]:\n-"), st.characters(codec="utf-8", exclude_characters="\0")
    ),
    min_size=1,
    max_size=120,
)


def _values(argv: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(argv) if name == option]


def _json(argv: list[str], option: str, key: str, value: str) -> dict[str, object]:
    """Return the JSON value of the one `option` whose `key` is `value`."""
    parsed = [json.loads(text) for text in _values(argv, option)]
    [match] = [properties for properties in parsed if properties.get(key) == value]
    assert isinstance(match, dict)
    return match


def _undouble(text: str) -> list[str]:
    """Split a `key=value,…` option as QEMU does: two commas are one that is meant."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _lines(spec: VMSpec, version: QemuVersion = QEMU_10_0) -> list[str]:
    """Return the command line of a VM, each option on a line with its value."""
    lines: list[str] = []
    for arg in build_argv(spec, _BINARY, version):
        if arg.startswith("-") or not lines:
            lines.append(arg)
        else:
            lines[-1] += f" {arg}"
    return lines


_BASE = make_spec()
_WINDOWS = make_spec(OsFamily.WINDOWS)
_GOLDEN_CHANGES = {
    "windows": (_lines(_BASE), _lines(_WINDOWS)),
    "kvm": (_lines(_BASE), _lines(make_spec(accelerator=Accelerator.KVM))),
    "windows-kvm": (
        _lines(_WINDOWS),
        _lines(make_spec(OsFamily.WINDOWS, accelerator=Accelerator.KVM)),
    ),
    "uefi": (_lines(_BASE), _lines(make_spec(mode=FirmwareMode.UEFI))),
    "bios": (_lines(_BASE), _lines(make_spec(mode=FirmwareMode.BIOS))),
    "qemu-7.2": (_lines(_BASE), _lines(_BASE, QEMU_7_2)),
    "watchdog": (_lines(_BASE), _lines(make_spec(watchdog=True))),
}
"""What decides a command line, one thing each: the lines before and after."""


def _is_golden(name: str, text: str) -> bool:
    path = _GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return text == path.read_text()


def test_command_line_is_the_golden_one() -> None:
    """Of a Linux guest under Secure Boot and TCG, with every device there is but the watchdog."""
    assert _is_golden("full.txt", "".join(f"{line}\n" for line in _lines(_BASE)))


@pytest.mark.parametrize("name", _GOLDEN_CHANGES)
def test_what_each_thing_changes_of_the_command_line_is_golden(name: str) -> None:
    before, after = _GOLDEN_CHANGES[name]
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert _is_golden(f"{name}.diff", "".join(f"{line}\n" for line in changes))


@pytest.mark.parametrize("version", [QEMU_7_2, QEMU_10_0], ids=str)
@pytest.mark.parametrize("case", CASES, ids=[case_name(*case) for case in CASES])
def test_each_combination_is_the_golden_line_with_the_golden_changes(
    case: tuple[OsFamily, FirmwareMode, Accelerator], version: QemuVersion
) -> None:
    os_family, mode, accelerator = case
    is_windows, is_kvm = os_family is OsFamily.WINDOWS, accelerator is Accelerator.KVM
    applied = {
        "windows": is_windows,
        "kvm": is_kvm and not is_windows,
        "windows-kvm": is_kvm and is_windows,
        mode.value: mode is not FirmwareMode.SECURE_BOOT,
        "qemu-7.2": version == QEMU_7_2 and not is_kvm,
    }
    expected = set(_lines(_BASE))
    for before, after in (_GOLDEN_CHANGES[name] for name, applies in applied.items() if applies):
        expected = expected - (set(before) - set(after)) | set(after) - set(before)
    assert set(_lines(make_spec(*case), version)) == expected


def test_every_golden_file_is_compared() -> None:
    names = {path.name for path in _GOLDEN.iterdir()}
    assert names == {"full.txt", *(f"{name}.diff" for name in _GOLDEN_CHANGES)}


def test_secure_boot_keeps_the_varstore_from_everything_but_firmware() -> None:
    argv = build_argv(make_spec(mode=FirmwareMode.SECURE_BOOT), _BINARY, QEMU_10_0)
    assert "driver=cfi.pflash01,property=secure,value=on" in _values(argv, "-global")
    assert "smm=on" in _values(argv, "-machine")[0].split(",")


@pytest.mark.parametrize("mode", [FirmwareMode.UEFI, FirmwareMode.BIOS])
def test_other_firmware_runs_without_smm(mode: FirmwareMode) -> None:
    argv = build_argv(make_spec(mode=mode), _BINARY, QEMU_10_0)
    assert "smm=off" in _values(argv, "-machine")[0].split(",")
    assert not any("cfi.pflash01" in value for value in _values(argv, "-global"))


def test_firmware_code_is_read_only_and_formats_are_stated() -> None:
    argv = build_argv(make_spec(), _BINARY, QEMU_10_0)
    code = _json(argv, "-blockdev", "node-name", "pflash0")
    assert (code["driver"], code["read-only"]) == ("raw", True)
    varstore = _json(argv, "-blockdev", "node-name", "pflash1")
    assert (varstore["driver"], varstore["read-only"]) == ("raw", False)


@pytest.mark.parametrize(
    ("version", "model"),
    [(QemuVersion(major=7, minor=2), "max,cx16=off"), (QemuVersion(major=8, minor=0), "max")],
)
def test_only_a_tcg_that_corrupts_flags_hides_cmpxchg16b(version: QemuVersion, model: str) -> None:
    assert _values(build_argv(make_spec(), _BINARY, version), "-cpu") == [model]


def test_enlightenments_are_for_windows_under_kvm_only() -> None:
    def model(os_family: OsFamily, accelerator: Accelerator) -> str:
        spec = make_spec(os_family, accelerator=accelerator)
        return _values(build_argv(spec, _BINARY, QEMU_10_0), "-cpu")[0]

    assert "hv-stimer=on" in model(OsFamily.WINDOWS, Accelerator.KVM)
    assert "hv-" not in model(OsFamily.WINDOWS, Accelerator.TCG)
    assert "hv-" not in model(OsFamily.LINUX, Accelerator.KVM)


def test_guest_that_ends_stays_for_its_end_to_be_asked_for() -> None:
    argv = build_argv(make_spec(), _BINARY, QEMU_10_0)
    assert _values(argv, "-action") == ["shutdown=pause,panic=pause,reboot=reset"]


def test_chain_below_the_overlay_is_stated_to_its_end() -> None:
    argv = build_argv(make_spec(), _BINARY, QEMU_10_0)
    overlay = _json(argv, "-blockdev", "node-name", "disk0")
    backing = overlay["backing"]
    assert isinstance(backing, dict)
    assert (backing["driver"], backing["read-only"], backing["backing"]) == ("qcow2", True, None)


def test_raw_base_is_never_probed() -> None:
    base = BaseImage(path=Path("/data/images/base.raw"), is_qcow2=False)
    overlay = _json(
        build_argv(make_spec(base=base), _BINARY, QEMU_10_0), "-blockdev", "node-name", "disk0"
    )
    backing = overlay["backing"]
    assert isinstance(backing, dict)
    assert backing["driver"] == "raw"
    assert "backing" not in backing


def test_overlay_on_nothing_has_its_chain_cut() -> None:
    argv = build_argv(make_spec(base=None), _BINARY, QEMU_10_0)
    assert _json(argv, "-blockdev", "node-name", "disk0")["backing"] is None


def test_base_that_is_open_already_is_inherited_and_not_opened_by_path() -> None:
    base = BaseImage(path=Path("/private/base.raw"), is_qcow2=False, fd=20)
    argv = build_argv(make_spec(base=base), _BINARY, QEMU_10_0)
    assert _values(argv, "-add-fd") == ["fd=20,set=1"]
    assert "/dev/fdset/1" in " ".join(argv)
    assert "/private" not in " ".join(argv)


def test_vm_without_disk_has_none() -> None:
    argv = build_argv(make_spec(overlay=None, base=None), _BINARY, QEMU_10_0)
    assert not any("scsi-hd" in arg for arg in argv)


def test_raw_options_come_last() -> None:
    argv = build_argv(make_spec(args=("-device", "usb-audio")), _BINARY, QEMU_10_0)
    assert argv[-2:] == ["-device", "usb-audio"]


@pytest.mark.parametrize("memory_bytes", [0, -2 * MIB, 3 * MIB, 512 * MIB + 1])
def test_guest_ram_that_is_not_whole_huge_pages_is_refused(memory_bytes: int) -> None:
    with pytest.raises(JobError, match="2 MiB"):
        build_argv(make_spec(memory_bytes=memory_bytes), _BINARY, QEMU_10_0)


def test_vm_without_vcpu_is_refused() -> None:
    with pytest.raises(JobError, match="at least one vCPU"):
        build_argv(make_spec(vcpus=0), _BINARY, QEMU_10_0)


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_string_that_no_command_line_can_carry_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"NUL|UTF-8"):
        build_argv(make_spec(vm_id=text), _BINARY, QEMU_10_0)
    with pytest.raises(JobError, match=r"NUL|UTF-8"):
        build_argv(make_spec(overlay=Path("/data") / text), _BINARY, QEMU_10_0)


@settings(max_examples=60)
@given(text=_HOSTILE)
def test_no_string_can_start_another_option(text: str) -> None:
    path = Path(f"/data/{text}")
    spec = make_spec(
        vm_id=text,
        overlay=path,
        config_drive=path,
        base=BaseImage(path=path, is_qcow2=False),
        nics=(UserNic(mac="52:54:00:12:34:56", hostname=text, forwards=()),),
        vnc_socket=path,
        serial_log=path,
    )
    argv = build_argv(spec, _BINARY, QEMU_10_0)
    plain = build_argv(
        make_spec(nics=(UserNic(mac="", hostname="x", forwards=()),)), _BINARY, QEMU_10_0
    )
    assert len(argv) == len(plain)
    assert _undouble(_values(argv, "-name")[0])[0] == f"guest={text}"
    assert _undouble(_values(argv, "-vnc")[0])[:2] == [f"unix:{path}", "share=force-shared"]
    [serial] = [value for value in _values(argv, "-chardev") if "logfile" in value]
    assert _undouble(serial)[-2:] == [f"logfile={path}", "logappend=on"]
    assert _json(argv, "-netdev", "id", "net0")["hostname"] == text
    overlay = _json(argv, "-blockdev", "node-name", "disk0")
    assert isinstance(overlay["file"], dict)
    assert overlay["file"]["filename"] == str(path)


def test_a_watchdog_pauses_a_guest_that_no_longer_feeds_it() -> None:
    argv = build_argv(make_spec(watchdog=True), _BINARY, QEMU_10_0)
    assert _values(argv, "-action") == ["shutdown=pause,panic=pause,reboot=reset,watchdog=pause"]
    assert any("i6300esb" in value for value in _values(argv, "-device"))
