"""`[uplink]` where there is no node.toml: /oem/qemu-node/uplink.toml, which is there without /data.

The file has the table `[uplink]` of node.toml and nothing else. Owns reading and writing it, and
finding that table in a node.toml. Does not own the settings (`uplink`).
"""

import json
import tomllib
from typing import Any

import msgspec

from qemu_node.config.node import convert
from qemu_node.config.uplink import UplinkConfig, UplinkVlan
from qemu_node.errors import ConfigError


def find_uplink(text: str, origin: str) -> UplinkConfig | None:
    """Return `[uplink]` of a node.toml, whatever else is wrong there; None if it has no such table.

    Raises:
        SettingError: an unknown key or a wrong value in this table.
        ConfigError: it is not TOML.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{origin} is not TOML: {exc}") from exc
    if "uplink" not in raw:
        return None
    return convert({"uplink": raw["uplink"]}, origin, text).uplink


def find_known_uplink(text: str, origin: str) -> tuple[UplinkConfig | None, tuple[str, ...]]:
    """Return what `find_uplink` does, with unknown keys left out, and what was left out in words.

    For a boot: after a rollback the settings may be those of a newer version, and LACP must go on.

    Raises:
        SettingError: a wrong value in this table.
        ConfigError: it is not TOML.
    """
    try:
        table = tomllib.loads(text).get("uplink", {})
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{origin} is not TOML: {exc}") from exc
    problems: list[str] = []
    if isinstance(table, dict):
        vlans = table.get("vlans", [])
        entries = vlans if isinstance(vlans, list) else []
        what = f"{origin}: there is no setting uplink"
        problems += _leave_out(table, UplinkConfig, what)
        for entry in entries:
            problems += _leave_out(entry, UplinkVlan, f"{what}.vlans")
    if not problems:
        return find_uplink(text, origin), ()
    return convert({"uplink": table}, origin, text).uplink, tuple(problems)


def _leave_out(table: Any, struct: type[msgspec.Struct], what: str) -> list[str]:
    """Remove the keys that `struct` does not have from a table; return a line for each."""
    unknown = sorted(set(table) - set(struct.__struct_fields__)) if isinstance(table, dict) else []
    for key in unknown:
        del table[key]
    return [f"{what}.{key}: it is left out" for key in unknown]


def format_uplink(uplink: UplinkConfig) -> str:
    """Return the text that `find_uplink` reads as `uplink`: what differs from the defaults."""
    lines = ["[uplink]", *_lines(uplink, UplinkConfig())]
    for vlan in uplink.vlans:
        defaults = msgspec.structs.replace(vlan, addresses=(), dhcp=False, mtu=0)
        lines += ["", "[[uplink.vlans]]", f"vlan = {vlan.vlan}", *_lines(vlan, defaults)]
    return "\n".join(lines) + "\n"


def _lines(settings: msgspec.Struct, defaults: msgspec.Struct) -> list[str]:
    """Return a line for each setting that differs, tables left out."""
    return [
        # What `check_uplink` lets pass is the same in JSON and in TOML.
        f"{name} = {json.dumps(msgspec.to_builtins(getattr(settings, name)), ensure_ascii=False)}"
        for name in settings.__struct_fields__
        if name != "vlans" and getattr(settings, name) != getattr(defaults, name)
    ]
