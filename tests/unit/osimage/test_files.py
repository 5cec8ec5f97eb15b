"""What is laid over the root of the node's system, and the lists beside it, without a build."""

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from qemu_node.nodeos.agent.config import is_configured
from qemu_node.nodeos.setup.choice import SYSTEM_MIN_BYTES
from qemu_node.nodeos.setup.login import LIVE_PASSWORD
from qemu_node.units import GIB, MIB

_REPO = Path(__file__).parents[3]
_FILES = _REPO / "osimage" / "files"
_UNITS = _FILES / "usr/lib/systemd/system"
_PRESET = _FILES / "usr/lib/systemd/system-preset/10-nomad-qemu-node.preset"


def _files() -> list[Path]:
    return sorted(path for path in _FILES.rglob("*") if path.is_file() and not path.is_symlink())


def _name(path: Path) -> str:
    return str(path.relative_to(_FILES))


def _yaml(path: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(path.read_text())
    return content


def _strings(value: object) -> Iterator[str]:
    """Yield every text in what yaml gave."""
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _strings(inner)
        case list():
            for inner in value:
                yield from _strings(inner)
        case _:
            pass


_OEM = sorted((_FILES / "system/oem").glob("*.yaml"))


@pytest.mark.parametrize("path", _OEM, ids=_name)
def test_a_yaml_of_elemental_has_only_stages_that_elemental_runs(path: Path) -> None:
    stages = _yaml(path).get("stages") or {}
    assert isinstance(stages, dict)
    # pkg/constants/constants.go and pkg/utils/runstage.go of elemental-toolkit v2.3.2.
    known = {"pre-rootfs", "rootfs", "initramfs", "fs", "boot", "network", "reconcile"}
    for when in ("before", "after", "post"):
        known |= {f"{when}-{what}" for what in ("install", "upgrade", "reset", "disk")}
    known |= {f"after-{what}-chroot" for what in ("install", "upgrade", "reset", "disk")}
    named = {re.sub(r"\.(before|after)$", "", stage) for stage in stages}
    assert named <= known


@pytest.mark.parametrize("path", _OEM, ids=_name)
def test_a_program_that_a_yaml_calls_is_there(path: Path) -> None:
    called = {
        program
        for text in _strings(_yaml(path))
        for program in re.findall(r"/usr/lib/qemu-node/[a-z-]+", text)
    }
    assert {name for name in called if not (_FILES / name.removeprefix("/")).exists()} == set()


def test_the_live_systems_password_is_set_only_on_a_live_system() -> None:
    holders = [path for path in _files() if "password: " in path.read_text(errors="replace")]
    assert [path.name for path in holders] == ["04_accounts.yaml"]
    (step,) = _yaml(holders[0])["stages"]["initramfs"]  # type: ignore[index]
    assert step["if"] == "[ -f /run/elemental/live_mode ]"
    assert f"password: {LIVE_PASSWORD}" in step["ensure_entities"][0]["entity"]
    assert f'crypt("{LIVE_PASSWORD}"' in (_FILES / "usr/lib/qemu-node/root-password").read_text()


def test_no_file_has_a_password_hash_or_a_key() -> None:
    secret = re.compile(r"\$(?:y|6|5|2[aby])\$[./A-Za-z0-9]{8}|BEGIN [A-Z ]*PRIVATE KEY")
    assert [_name(path) for path in _files() if secret.search(path.read_text("latin-1"))] == []


def test_nobody_asks_a_cloud_for_a_configuration() -> None:
    assert [path.name for path in _OEM if "datasource" in path.read_text()] == []


def test_registries_are_asked_by_https_only() -> None:
    assert _yaml(_FILES / "etc/elemental/config.yaml")["verify"] is True


def test_a_program_says_its_interpreter_and_can_be_executed() -> None:
    programs = [path for path in _files() if path.read_bytes()[:2] == b"#!"]
    assert len(programs) > 5
    for path in programs:
        first = path.read_text().partition("\n")[0]
        assert first in ("#!/bin/sh", "#!/usr/sbin/nft -f", "#!/usr/bin/python3"), _name(path)
    # nft's file is read by nft.service and never executed.
    unmarked = [path for path in programs if not path.stat().st_mode & 0o100]
    assert [path.name for path in unmarked] == ["nftables.conf"]


def test_the_rest_cannot_be_executed() -> None:
    others = [path for path in _files() if path.read_bytes()[:2] != b"#!"]
    assert [_name(path) for path in others if path.stat().st_mode & 0o111] == []


def _preset() -> dict[str, str]:
    lines = [line.split() for line in _PRESET.read_text().splitlines()]
    return {words[1]: words[0] for words in lines if words and not words[0].startswith("#")}


def test_each_unit_of_ours_that_can_be_enabled_has_its_line_in_the_preset() -> None:
    ours = {
        path.name for path in _UNITS.iterdir() if path.is_file() and "[Install]" in path.read_text()
    }
    assert ours - _preset().keys() == set()


def test_no_unit_is_named_twice_in_the_preset() -> None:
    units = re.findall(r"^(?:enable|disable) (\S+)$", _PRESET.read_text(), re.MULTILINE)
    assert sorted(units) == sorted(set(units))


def test_each_package_has_its_reason_and_is_named_once() -> None:
    lines = [
        line
        for line in (_REPO / "osimage/packages").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    parts = [re.fullmatch(r"([a-z0-9.+-]+) +# (\S.*)", line) for line in lines]
    assert [line for line, part in zip(lines, parts, strict=True) if part is None] == []
    names = [part[1] for part in parts if part]
    assert sorted(names) == sorted(set(names))


def test_each_kernel_setting_has_its_reason() -> None:
    for block in (_FILES / "usr/lib/sysctl.d/60-qemu-node.conf").read_text().split("\n\n"):
        # A reason stands above the settings that it is for.
        assert block.startswith("# "), block


def test_the_firewall_opens_what_the_page_lists() -> None:
    rules = (_FILES / "etc/nftables.conf").read_text()
    opened = {
        port
        for port in re.findall(r"(?:tcp|udp) dport ([0-9-]+) accept", rules)
        if port not in ("68", "546")  # answers to the node's own DHCP
    }
    page = (_REPO / "docs/hardening.md").read_text()
    rows = re.findall(r"^\| ([0-9, –]+) \|", page, re.MULTILINE)  # noqa: RUF001
    listed = {port.strip().replace("–", "-") for row in rows for port in row.split(",")}  # noqa: RUF001
    assert opened == listed


def test_a_disk_that_is_accepted_has_room_for_the_partitions() -> None:
    install = _yaml(_FILES / "etc/elemental/config.yaml")["install"]
    assert isinstance(install, dict)
    needed_bytes = sum(part["size"] for part in install["partitions"].values()) * MIB
    # Elemental would fail in the middle, after the disk was erased. The partition table has some.
    assert needed_bytes + 4 * MIB <= SYSTEM_MIN_BYTES <= needed_bytes + GIB


def test_the_firewall_replaces_no_table_but_its_own() -> None:
    rules = (_FILES / "etc/nftables.conf").read_text()
    assert "flush ruleset" not in rules
    assert (
        re.findall(r"^(?:table|delete table) (\S+ \S+)", rules, re.MULTILINE) == ["inet node"] * 3
    )


def test_a_reload_of_the_firewall_keeps_the_rules_of_this_node() -> None:
    """They are in the table that Debian's unit loads anew."""
    unit = (_UNITS / "qemu-node-firewall.service").read_text()
    drop_in = (_UNITS / "nftables.service.d/50-qemu-node.conf").read_text()
    loads = re.findall("^ExecStart=(.*)", unit, re.MULTILINE)
    assert loads == re.findall("^ExecReload=-(.*)", drop_in, re.MULTILINE)


def test_the_sizes_in_the_picture_are_those_of_the_installation() -> None:
    install = _yaml(_FILES / "etc/elemental/config.yaml")["install"]
    assert isinstance(install, dict)
    sizes = {name: part["size"] for name, part in install["partitions"].items()}
    picture = (_REPO / "docs/os.svg").read_text()
    shown = dict(re.findall(r">(COS_\w+)</text>\n<text[^>]*>(\d+ [MG]iB)<", picture))
    labels = {"bootloader": "COS_GRUB"} | {
        name: f"COS_{name.upper()}" for name in ("oem", "recovery", "state", "persistent")
    }
    assert shown == {
        labels[name]: f"{size} MiB" if size < 1024 else f"{size // 1024} GiB"
        for name, size in sizes.items()
    }


@pytest.mark.parametrize(
    "name", ["client.hcl", "client.json", "node.toml", "client.hcl~", ".client.hcl.swp", ".a.hcl"]
)
def test_nomad_starts_by_what_its_health_check_takes_for_a_configuration(
    tmp_path: Path, name: str
) -> None:
    """Otherwise a new image would be judged by a Nomad that never starts."""
    patterns = re.findall(
        r"^ConditionPathExistsGlob=\|/data/config/(\S+)$",
        (_UNITS / "nomad.service").read_text(),
        re.MULTILINE,
    )
    (tmp_path / name).touch()
    starts = not name.startswith(".") and any(fnmatchcase(name, glob) for glob in patterns)
    assert is_configured(tmp_path) is starts


def test_services_and_people_read_the_same_node_toml() -> None:
    people = " ".join((_FILES / "etc/environment").read_text().split())
    services = (_FILES / "usr/lib/systemd/system.conf.d/50-qemu-node.conf").read_text()
    assert f"DefaultEnvironment={people}\n" in services
    # Also if the operator's file does not say so: everything else is in RAM.
    names, data = (word.partition("=")[2] for word in people.split())
    assert data == "/data"
    image = _FILES / names.rpartition(":")[2].removeprefix("/")
    assert tomllib.loads(image.read_text())["paths"]["data"] == "/data"
