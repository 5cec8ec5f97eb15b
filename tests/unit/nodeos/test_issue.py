"""What the console says above the login prompt."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.nodeos.boot import Boot, BootMode
from qemu_node.nodeos.issue import (
    ConsoleFacts,
    Nic,
    console_text,
    next_steps,
    read_facts,
    read_nics,
)
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release

_READY = ConsoleFacts(
    release=Release(tag="1.4.0"),
    boot=Boot(mode=BootMode.ACTIVE, snapshot=2),
    bridge_mac="52:54:00:00:00:01",
    nics=(
        Nic(name="enp1s0", mac="52:54:00:00:00:01", has_link=True),
        Nic(name="enp2s0", mac="52:54:00:00:00:02", has_link=False),
    ),
    has_data_label=True,
    is_data_mounted=True,
    is_configured=True,
)


def _booted(mode: BootMode) -> ConsoleFacts:
    return replace(_READY, boot=Boot(mode=mode, snapshot=None))


def test_a_node_that_is_ready_shows_what_it_is_and_where() -> None:
    assert console_text(_READY) == (
        "\n"
        "Nomad QEMU node, version 1.4.0\n"
        "\n"
        "  host name  \\n\n"
        "  address    \\4{br0}  \\6{br0}\n"
        "  MAC        52:54:00:00:00:01  (for a DHCP reservation)\n"
        "  NICs       enp1s0  52:54:00:00:00:01\n"
        "             enp2s0  52:54:00:00:00:02  no link\n"
        "\n\n"
    )


def test_the_web_consoles_certificate_can_be_compared(tmp_path: Path) -> None:
    path = NodePaths(tmp_path).web_certificate
    path.parent.mkdir(parents=True)
    path.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    text = console_text(read_facts(NodePaths(tmp_path)))
    assert "  web        https://\\4{br0}:5800, certificate SHA-256:\n" in text
    # Of 30 00, by sha256sum.
    assert "             E4:F6:0D:0A:A6:D7:F3:D3:" in text
    assert max(len(line) for line in text.splitlines()) < 80


@pytest.mark.parametrize("content", ["", "no certificate", "\\4{lo}", "-----BEGIN"])
def test_what_is_no_certificate_is_not_shown(tmp_path: Path, content: str) -> None:
    path = NodePaths(tmp_path).web_certificate
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert "web" not in console_text(read_facts(NodePaths(tmp_path)))
    path.unlink()
    os.mkfifo(path)
    assert "web" not in console_text(read_facts(NodePaths(tmp_path)))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param(_booted(BootMode.LIVE), "elemental install /dev/DISK", id="live"),
        pytest.param(_booted(BootMode.LIVE), "password elemental", id="live-login"),
        pytest.param(_booted(BootMode.RECOVERY), "elemental reset", id="recovery"),
        pytest.param(_booted(BootMode.PASSIVE), "qemu-node os status", id="rolled-back"),
        pytest.param(
            replace(_READY, has_data_label=False, is_data_mounted=False),
            "mkfs.ext4 -L DATA /dev/DISK",
            id="no-data-disk",
        ),
        pytest.param(
            replace(_READY, has_data_label=False, is_data_mounted=False, has_other_data=True),
            "To use it:  mount LABEL=DATA /data",
            id="another-nodes-data-disk",
        ),
        pytest.param(
            replace(_READY, is_data_mounted=False), "systemctl status data.mount", id="not-mounted"
        ),
        pytest.param(
            replace(_READY, is_configured=False), "cp /usr/share/nomad/*", id="not-configured"
        ),
    ],
)
def test_the_next_step_is_named(facts: ConsoleFacts, words: str) -> None:
    assert words in "\n".join(next_steps(facts))


def test_a_node_that_is_ready_has_no_next_step() -> None:
    assert next_steps(_READY) == []


def test_only_the_live_system_says_its_password() -> None:
    for mode in BootMode:
        says = "password elemental" in console_text(_booted(mode))
        assert says is (mode is BootMode.LIVE)


def test_an_image_with_own_builds_of_programs_says_so() -> None:
    release = Release(tag="test", local_binaries=("nomad", "elemental"))
    text = console_text(replace(_READY, release=release))
    assert "version test, own builds of nomad and elemental" in text


def test_a_fact_is_no_escape_of_agetty() -> None:
    text = console_text(replace(_READY, release=Release(tag="a\\n\x1b[2J")))
    assert "version a\\\\n[2J" in text


def test_a_node_without_network_cards_says_so() -> None:
    text = console_text(replace(_READY, nics=(), bridge_mac=""))
    assert "NICs       none found" in text
    assert "MAC        none yet" in text


def test_a_card_in_the_bond_has_its_own_address(tmp_path: Path) -> None:
    for name, files in {
        "enp1s0": {"device/vendor": "1", "address": "02:00:00:00:00:99", "carrier": "1",
                   "bonding_slave/perm_hwaddr": "02:00:00:00:00:01"},
        "enp2s0": {"device/vendor": "1", "address": "02:00:00:00:00:02"},
        "br0": {"address": "02:00:00:00:00:99"},
    }.items():  # fmt: skip
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(f"{text}\n")
    assert read_nics(tmp_path) == (
        Nic(name="enp1s0", mac="02:00:00:00:00:01", has_link=True),
        Nic(name="enp2s0", mac="02:00:00:00:00:02", has_link=False),
    )


def test_facts_are_read_from_the_node(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    for path, text in (
        (paths.os_release, "IMAGE_TAG=v3\n"),
        (paths.mode("active"), "1"),
        (paths.mountinfo, "40 1 8:16 / /data rw - ext4 /dev/sdb rw\n"),
        (paths.config / "client.hcl", ""),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    facts = read_facts(paths)
    assert facts.release.tag == "v3"
    assert facts.is_data_mounted
    assert facts.is_configured
    assert not facts.has_data_label
    assert not facts.has_other_data
    assert facts.nics == ()


@pytest.mark.parametrize("is_ours", [True, False])
def test_another_nodes_data_disk_is_told_from_the_nodes_own(
    tmp_path: Path, *, is_ours: bool
) -> None:
    paths = NodePaths(tmp_path)
    for link in (paths.data_label, *([paths.data_device] if is_ours else [])):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/dev/sdb")
    facts = read_facts(paths)
    assert (facts.has_data_label, facts.has_other_data) == (is_ours, not is_ours)


def test_the_command_writes_the_text_where_agetty_reads_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert main(["os", "--root", str(tmp_path), "issue"]) == 0
    assert "Nomad QEMU node" in (tmp_path / "run/issue").read_text()
