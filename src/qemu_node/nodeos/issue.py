r"""What a person sees on the node's console above the login prompt.

Owns the facts for it and its text: which system this is, its addresses, the MAC address for a DHCP
reservation, and what to do next. Does not own when it is written (`qemu-node-issue.service`).

agetty(8) replaces `\n` by the host name and `\4{br0}` by an address, and prints the text again
when that address changes: a new lease needs no program of ours.
"""

import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.web import DEFAULT_PORT
from qemu_node.host.files.mountinfo import parse_mounts
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.nic import own_mac
from qemu_node.nodeos.agent.config import is_configured
from qemu_node.nodeos.boot import Boot, BootMode, read_boot
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release, read_release

_BRIDGE = "br0"
_CERTIFICATE_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A physical network card."""

    name: str
    mac: str
    """Its own address, not the bond's."""
    has_link: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleFacts:
    """What the text is made of."""

    release: Release
    boot: Boot
    bridge_mac: str
    """The address that DHCP servers see; empty before the bridge is there."""
    nics: tuple[Nic, ...]
    has_data_label: bool
    """Whether this node's file system with label DATA exists."""
    is_data_mounted: bool
    is_configured: bool
    """Whether /data/config has a configuration for Nomad."""
    web_fingerprint: str = ""
    """SHA-256 of the certificate of the web console; empty: it does not run."""
    has_other_data: bool = False
    """Whether another file system with label DATA exists, such as that of another node's disk."""


def console_text(facts: ConsoleFacts) -> str:
    """Return the text, with agetty's escapes: pure."""
    release, boot = facts.release, facts.boot
    lines = [
        "",
        f"Nomad QEMU node, {_system(release, boot)}",
        "",
        "  host name  \\n",
        f"  address    \\4{{{_BRIDGE}}}  \\6{{{_BRIDGE}}}",
        f"  MAC        {_mac(facts)}",
        *(f"  {title:<10} {text}" for title, text in (*_nics(facts), *_web(facts))),
        "",
        *(f"  {line}" for line in next_steps(facts)),
        "",
        "",
    ]
    return "\n".join(lines)


def next_steps(facts: ConsoleFacts) -> list[str]:
    """Return what a person can do now, a line each: pure."""
    match facts.boot.mode:
        case BootMode.LIVE:
            return [
                "Live system: log in as root with password elemental.",
                "To install:  lsblk, then  elemental install /dev/DISK  (it erases that disk)",
                "ssh is off until root has another password (passwd) or a key.",
            ]
        case BootMode.RECOVERY:
            return [
                "Recovery system. /data and /oem are untouched.",
                "To install the node's system anew:  elemental reset --reboot",
            ]
        case _:
            return [*_rolled_back(facts), *_unfinished(facts)]


def _rolled_back(facts: ConsoleFacts) -> list[str]:
    if facts.boot.mode is not BootMode.PASSIVE:
        return []
    return ["This is an earlier system, not the newest. Why:  qemu-node os status"]


def _unfinished(facts: ConsoleFacts) -> list[str]:
    if not facts.is_data_mounted:
        if facts.has_data_label:
            return ["The data disk is not mounted. Why:  systemctl status data.mount"]
        if facts.has_other_data:
            return [
                "A disk has the label DATA, but it is not the one that this node had.",
                "  To use it:  mount LABEL=DATA /data",
            ]
        return [
            "No data disk: Nomad waits for a file system with label DATA.",
            "  lsblk, then  mkfs.ext4 -L DATA /dev/DISK && mount LABEL=DATA /data",
        ]
    if not facts.is_configured:
        return [
            "No configuration: Nomad waits for /data/config.",
            "  mkdir -p /data/config && cp /usr/share/nomad/* /data/config/",
            "  then edit it there, and  qemu-node config check  and  systemctl start nomad",
        ]
    return []


def _system(release: Release, boot: Boot) -> str:
    words = [f"version {_plain(release.tag)}" if release.tag else "no version"]
    if boot.mode is not BootMode.ACTIVE:
        words.append(f"{boot.mode} system")
    if release.local_binaries:
        words.append(f"own builds of {_plain(' and '.join(release.local_binaries))}")
    return ", ".join(words)


def _mac(facts: ConsoleFacts) -> str:
    if not facts.bridge_mac:
        return f"none yet: {_BRIDGE} does not exist"
    return f"{_plain(facts.bridge_mac)}  (for a DHCP reservation)"


def _nics(facts: ConsoleFacts) -> list[tuple[str, str]]:
    if not facts.nics:
        return [("NICs", "none found")]
    titles = ["NICs"] + [""] * (len(facts.nics) - 1)
    texts = [
        f"{_plain(nic.name)}  {_plain(nic.mac)}  {'' if nic.has_link else 'no link'}".rstrip()
        for nic in facts.nics
    ]
    return list(zip(titles, texts, strict=True))


def _web(facts: ConsoleFacts) -> list[tuple[str, str]]:
    """Return where the web console is, and what a browser must show of its certificate."""
    if not facts.web_fingerprint:
        return []
    half = len(facts.web_fingerprint) // 2 + 1
    first, second = facts.web_fingerprint[:half], facts.web_fingerprint[half:]
    return [
        ("web", f"https://\\4{{{_BRIDGE}}}:{DEFAULT_PORT}, certificate SHA-256:"),
        ("", _plain(first)),
        ("", _plain(second)),
    ]


def _plain(text: str) -> str:
    """Return text in which agetty replaces nothing."""
    return "".join(letter for letter in text if letter.isprintable()).replace("\\", "\\\\")


def read_facts(paths: NodePaths) -> ConsoleFacts:
    """Return the facts of the running system; what cannot be read is missing in them."""
    return ConsoleFacts(
        release=read_release(paths),
        boot=read_boot(paths),
        bridge_mac=read_or_empty(paths.net / _BRIDGE / "address"),
        nics=read_nics(paths.net),
        web_fingerprint=_fingerprint(paths.web_certificate),
        has_data_label=paths.data_device.is_symlink(),
        has_other_data=paths.data_label.is_symlink() and not paths.data_device.is_symlink(),
        is_data_mounted=_is_mounted(paths),
        is_configured=is_configured(paths.config),
    )


def _fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of the web console's certificate, a file of its own user."""
    try:
        fd = os.open(certificate, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(fd, _CERTIFICATE_MAX_BYTES).decode("ascii")
        finally:
            os.close(fd)
        der = ssl.PEM_cert_to_DER_cert(text)
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(der).digest().hex(":").upper()


def read_nics(net: Path) -> tuple[Nic, ...]:
    """Return the physical cards below /sys/class/net."""
    try:
        links = sorted(net.iterdir())
    except OSError:
        return ()
    return tuple(_nic(link) for link in links if (link / "device").exists())


def _nic(link: Path) -> Nic:
    has_link = read_or_empty(link / "carrier") == "1"
    return Nic(name=link.name, mac=own_mac(link), has_link=has_link)


def _is_mounted(paths: NodePaths) -> bool:
    mounts = parse_mounts(read_or_empty(paths.mountinfo))
    return any(mount.point == Path("/data") for mount in mounts)
