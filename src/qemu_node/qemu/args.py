"""Raw QEMU options of a job: which may pass.

Pure. Owns reading a list of arguments as QEMU reads it, and the few options that an operator can
allow at all. Does not own what the operator allows: `[qemu] allow_args` of node.toml.

Two gates. First, a closed list: any option beside these reaches host files and sockets, loosens the
sandbox, or takes from the driver what it must own, and a newer QEMU may add more of that kind. Then
the operator's regular expressions, one of which must match the option in full, written as on a
command line: `-device usb-audio`.
"""

import re
from collections.abc import Iterator, Sequence

from qemu_node.errors import ConfigError, JobError

# Each takes exactly one value (qemu-options.hx, HAS_ARG), so no value can be smuggled in as an
# option of its own, nor as a bare word, which QEMU would open as a disk.
_POSSIBLE = ("cpu", "device", "fw_cfg", "global", "icount", "rtc", "smbios")

# Devices that take something of the host, and properties that name a file or are experimental:
# refused even where the operator's expression ends in ".*".
_HOST_DEVICE = re.compile(
    r"(?:driver=)?(?:(?:generic-)?loader|guest-loader|vfio-.*|ivshmem.*|vhost-.*|usb-host|usb-mtp"
    r"|virtio-9p.*|virtio-input-host.*|cfi\.pflash.*)"
)
_HOST_PROPERTY = re.compile(
    r"(?:.*\.)?(?:file|filename|path|rootdir|romfile|sysfsdev|evdev|x-.*)=.*"
)
_SECURE_BOOT = re.compile(r"cfi\.pflash|ICH9-LPC|\bmch\b", re.IGNORECASE)


def check_args(args: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return a job's raw options as QEMU is to be given them.

    Args:
        args: The job's `args`: one argument an item, or an option with its value in one item.
        allowed: The operator's regular expressions.

    Raises:
        JobError: an option can never be allowed, matches no expression, or lacks its value; the
            message names it.
        ConfigError: one of the expressions is none.
    """
    patterns = [_compile(text) for text in allowed]
    checked: list[str] = []
    for name, value in _options(_split(args)):
        option = f"-{name} {value}"
        reason = _why_never(name, value)
        if reason is not None:
            raise JobError(f"args: {option!r} can never be allowed: {reason}")
        if not any(pattern.fullmatch(option) for pattern in patterns):
            raise JobError(
                f"args: {option!r} is not allowed on this node",
                hint="the operator allows raw options in node.toml, [qemu] allow_args",
            )
        checked += [f"-{name}", value]
    return tuple(checked)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise ConfigError(f"qemu.allow_args: {text!r} is no regular expression: {exc}") from exc


def _split(args: Sequence[str]) -> Iterator[str]:
    """Yield single arguments; an option and its value may have been written in one item."""
    for item in args:
        option, space, value = item.partition(" ")
        if item.startswith("-") and space:
            yield option
            yield value.strip()
        else:
            yield item


def _options(args: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield each option's name, without dashes, and its value, which QEMU takes whatever it is."""
    for arg in args:
        if not arg.startswith("-"):
            raise JobError(f"args: {arg!r} is no option; QEMU would open it as a disk")
        # QEMU takes one dash or two (softmmu/vl.c, lookup_opt).
        name = arg.removeprefix("-").removeprefix("-")
        if name not in _POSSIBLE:
            names = ", ".join(f"-{possible}" for possible in _POSSIBLE)
            raise JobError(f"args: {arg!r} can never be allowed", hint=f"only {names} can be")
        value = next(args, None)
        if value is None:
            raise JobError(f"args: {arg!r} lacks its value")
        yield name, value


def _why_never(name: str, value: str) -> str | None:
    """Return why this value must not reach QEMU; None where the operator may decide."""
    if not value.isprintable():
        return "it holds a control character"
    if value.startswith("{"):
        return "write it as key=value, which can be checked"
    # A doubled comma is text, not the start of a property; to split there refuses only more.
    parts = [part.strip() for part in value.split(",")]
    if any(_HOST_PROPERTY.fullmatch(part) for part in parts):
        return "it names a file of the host or an experimental property"
    if name == "device" and any(_HOST_DEVICE.fullmatch(part) for part in parts):
        return "it gives the guest something of the host"
    if name == "global" and _SECURE_BOOT.search(value):
        return "it guards Secure Boot"
    return None
