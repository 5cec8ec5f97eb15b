"""Where the seed of an unattended installation is found, and reading it.

A kernel argument `qemu_node.seed=` names a URL or a file on a device; without it the file system
with the label SEED is read. Owns finding and reading it, with the configuration files beside it.
Does not own what a seed says (`seed`).
"""

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import ConfigError, HostError, NodeError
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.nic import own_mac
from qemu_node.nodeos.setup.disks import SEED_LABEL
from qemu_node.nodeos.setup.probe import mounted
from qemu_node.nodeos.setup.seed import FILES_MAX_BYTES, SEED_MAX_BYTES
from qemu_node.text import clean, without_login

ARGUMENT = "qemu_node.seed"
_HTTP_OK = 200
_FETCH_S = 300.0
_PAUSE_S = 5.0
_CONFIG_FILES_MAX = 500

_SHA256 = re.compile(r"sha256=(?P<digest>[0-9A-Fa-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlace:
    """Where a seed is: a URL, or a path on a device."""

    url: str = ""
    sha256: str = ""
    """What the content of `url` must have; empty: any content."""
    device: str = ""
    path: str = ""
    """A file, or a directory in which it is called as `seed_names` says."""

    def __str__(self) -> str:
        return self.url or f"{self.device}:/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """By what a seed for one machine of many is named."""

    serial: str = ""
    uuid: str = ""
    macs: tuple[str, ...] = ()
    """Permanent addresses of its network cards: `52-54-00-12-34-56`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeed:
    """A seed as it was read."""

    data: bytes
    origin: str
    beside: Mapping[str, bytes]
    """The files in `config/` beside it, by their names there."""


def seed_place(cmdline: str) -> SeedPlace | None:
    """Return the place that the kernel's command line names; None if it names none. Pure.

    Raises:
        ConfigError: it names one in a form that we do not know.
    """
    values = [word.partition("=")[2] for word in cmdline.split() if word.startswith(f"{ARGUMENT}=")]
    if not values or not values[-1]:
        return None
    value = values[-1].strip('"')
    if value.startswith(("http://", "https://")):
        url, found, fragment = value.partition("#")
        match = _SHA256.fullmatch(fragment)
        if found and match is None:
            # A digest with a letter too few must not mean a seed that nobody checks.
            raise ConfigError(
                f"{ARGUMENT}={clean(without_login(value))}: behind # there is no SHA-256",
                hint="write #sha256= and the 64 digits that `sha256sum` prints, or leave it out",
            )
        return SeedPlace(url=url, sha256=match["digest"].lower() if match else "")
    # The last one: names in /dev/disk/by-path have colons.
    device, found, path = value.rpartition(":/")
    if not found or not device.startswith(("/dev/", "LABEL=", "UUID=")) or ".." in path:
        raise ConfigError(
            f"{ARGUMENT}={clean(value)} names no place",
            hint="write a URL, or DEVICE:/PATH with a DEVICE such as /dev/sdb1 or LABEL=SEED",
        )
    return SeedPlace(device=device, path=path.strip("/"))


def seed_names(machine: Machine) -> list[str]:
    """Return the names that a seed may have on a medium, the most special first: pure."""
    special = (machine.serial, machine.uuid, *machine.macs)
    return [*(f"seed-{name}.toml" for name in special if name), "seed.toml"]


def fill_in(url: str, machine: Machine) -> str:
    """Return `url` with the machine's facts for `{serial}`, `{uuid}` and `{mac}`: pure."""
    values = {
        "{serial}": machine.serial,
        "{uuid}": machine.uuid,
        "{mac}": machine.macs[0] if machine.macs else "",
    }
    for name, value in values.items():
        if name in url and not value:
            raise ConfigError(f"this machine has no {name[1:-1]} for the URL of the seed: {url}")
        url = url.replace(name, value)
    return url


def read_machine(root: Path = Path("/")) -> Machine:
    """Return what is known of the machine that we run on."""
    cards = root / "sys/class/net"
    names = sorted(os.listdir(cards)) if cards.is_dir() else []  # noqa: PTH208 - names alone
    macs = []
    for name in names:
        card = cards / name
        if (card / "device").exists() and read_or_empty(card / "type") == "1":
            macs.append(own_mac(card).lower().replace(":", "-"))
    return Machine(
        serial=_name(read_or_empty(root / "sys/class/dmi/id/product_serial")),
        uuid=_name(read_or_empty(root / "sys/class/dmi/id/product_uuid")).lower(),
        macs=tuple(_name(mac) for mac in macs),
    )


def _name(text: str) -> str:
    """Return `text` as a part of a file's name or of a URL."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")


async def read_seed(place: SeedPlace | None, machine: Machine, *, dev: Path) -> FoundSeed | None:
    """Return the seed at `place`, or on the medium labelled SEED; None if there is no such medium.

    Raises:
        NodeError: there is no seed at that place, or it cannot be read.
    """
    if place is not None and place.url:
        return await _fetch(place, machine)
    if place is None:
        device = dev / "disk/by-label" / SEED_LABEL
        if not device.exists():
            return None
        place = SeedPlace(device=str(device))
    return await asyncio.to_thread(_read_medium, place, machine)


def _read_medium(place: SeedPlace, machine: Machine) -> FoundSeed:
    with mounted(place.device) as root:
        return read_directory(root, place, machine)


def read_directory(root: Path, place: SeedPlace, machine: Machine) -> FoundSeed:
    """Return the seed in the file system mounted on `root`.

    Raises:
        ConfigError: there is none, or it is too large.
    """
    start = root / place.path
    names = seed_names(machine) if start.is_dir() else [""]
    for name in names:
        path = start / name if name else start
        if path.is_file():
            break
    else:
        raise ConfigError(
            f"{place.device} has no seed for this machine",
            hint=f"it may be called {', '.join(names)}",
        )
    try:
        data = _read_bounded(path, SEED_MAX_BYTES)
        beside = dict(_config_files(path.parent / "config"))
    except OSError as exc:
        raise HostError(f"cannot read the seed on {place.device}: {exc.strerror}") from exc
    origin = f"{place.device}:/{path.relative_to(root)}"
    return FoundSeed(data=data, origin=origin, beside=beside)


def _config_files(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files below `directory`; links and devices are left out."""
    left, count = FILES_MAX_BYTES, 0
    for root, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            path = Path(root) / name
            # A person's file manager or editor leaves .DS_Store, .swp and the like.
            if name.startswith(".") or not stat.S_ISREG(path.lstat().st_mode):
                continue
            count += 1
            if count > _CONFIG_FILES_MAX:
                raise ConfigError(
                    f"config/ beside the seed has more than {_CONFIG_FILES_MAX} files"
                )
            data = _read_bounded(path, left)
            left -= len(data)
            yield str(path.relative_to(directory)), data


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ConfigError(f"{path.name}: the files of a seed are larger than {max_bytes >> 20} MiB")
    return data


async def _fetch(place: SeedPlace, machine: Machine) -> FoundSeed:
    """Fetch a seed; the network may come up only now, so it is tried for minutes."""
    # They take 0.2 s to import, which a boot without a seed saves.
    from qemu_node.images.http.address import ANYWHERE
    from qemu_node.images.http.httpfile import HttpFile
    from qemu_node.images.http.httpsettings import HttpSettings
    from qemu_node.images.http.small import fetch_small
    from qemu_node.images.http.url import redact

    url = fill_in(place.url, machine)
    shown = redact(url)
    # Whoever gives kernel arguments may name any address.
    http = HttpSettings(addresses=ANYWHERE)
    deadline = asyncio.get_running_loop().time() + _FETCH_S
    answer = None
    while answer is None:
        try:
            answer = await fetch_small(
                HttpFile(url=url, shown=shown), http=http, max_bytes=SEED_MAX_BYTES
            )
        except NodeError as exc:
            if not exc.retry or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_PAUSE_S)
    if answer.status != _HTTP_OK:
        raise ConfigError(f"{shown}: the server answered HTTP {answer.status}")
    digest = hashlib.sha256(answer.body).hexdigest()
    if place.sha256 and digest != place.sha256:
        raise ConfigError(
            f"{shown} has the SHA-256 {digest}, not that of the kernel argument {ARGUMENT}"
        )
    return FoundSeed(data=answer.body, origin=shown, beside={})
