"""The live system: what the ISO boots, and what it installs.

Everything here was seen once, by `installation`; each test looks at one side of it.
"""

import re

import pytest
from scenario.installation import Installation
from scenario.machine import HOST_NAME

pytestmark = pytest.mark.timeout(4000)


@pytest.fixture(scope="module")
def seen(installation: Installation) -> dict[str, str]:
    return installation.seen


def test_iso_boots_under_secure_boot(seen: dict[str, str]) -> None:
    assert "Secure boot enabled" in seen["kernel log"]


def test_all_nics_are_in_the_bond_and_the_bond_is_in_the_bridge(seen: dict[str, str]) -> None:
    assert len(seen["bond"].split()) == 2
    assert "bond0" in seen["bridge"].split()
    assert re.search(r"br0 .*10\.0\.2\.15/24", seen["addresses"])


def test_dhcp_gives_the_host_name(seen: dict[str, str]) -> None:
    assert seen["host name"].strip() == HOST_NAME


def test_console_says_addresses_name_mac_and_what_to_do(seen: dict[str, str]) -> None:
    console = seen["console"]
    assert "10.0.2.15" in console
    assert HOST_NAME in console
    assert "52:54:00:0a:00:01" in console
    assert "elemental install" in console


def test_nobody_gets_in_over_the_network_before_an_administrator_allows_it(
    seen: dict[str, str],
) -> None:
    assert set(seen["ssh"].split()) <= {"inactive"}
    # Neither sshd nor the web console.
    assert not re.search(r":(22|5800)\s", seen["listening"])


def test_no_unit_has_failed(seen: dict[str, str]) -> None:
    assert seen["failed"].strip() == ""


def test_release_names_the_image(seen: dict[str, str]) -> None:
    assert re.search(r"^IMAGE_TAG=\S+", seen["release"], re.MULTILINE)
