"""GRUB's variables, as the image's grub2-editenv changes them for Elemental."""

from pathlib import Path

import pytest

from osimage.build.namespace import run_in

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(1800)]


def _say(tree: Path, script: str) -> str:
    """Return what a script prints that changes the file `env`, in an empty directory."""
    done = run_in(tree, ["sh", "-euc", f"cd /tmp; {script}"])
    return done.stdout.decode()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("rm -f env", id="missing"),
        pytest.param(": >env", id="empty"),
        pytest.param("echo garbage >env", id="garbage"),
        pytest.param("head -c 1024 /dev/zero >env", id="zeros"),
    ],
)
def test_a_damaged_block_is_made_anew(tree: Path, damage: str) -> None:
    said = _say(
        tree,
        f"{damage}; grub2-editenv env set a=1; grub2-editenv env set b='2 3'; "
        "grub2-editenv env unset a; grub-editenv env list; stat -c %s env",
    )
    assert said == "b=2 3\n1024\n"


def test_a_power_cut_before_the_change_loses_nothing(tree: Path) -> None:
    said = _say(
        tree,
        "grub-editenv env create; grub2-editenv env set a=1; ls -i env >before; "
        "mkdir cut; printf '#!/bin/sh\\nexit 1\\n' >cut/dd; chmod +x cut/dd; "
        "! PATH=/tmp/cut:$PATH grub2-editenv env set a=2; grub-editenv env list; "
        "grub2-editenv env set a=2; ls -i env | cmp - before; grub-editenv env list",
    )
    assert said == "a=1\na=2\n"


def test_listing_and_failing_are_as_grubs_own(tree: Path) -> None:
    said = _say(
        tree,
        ": >env; ! grub2-editenv env list 2>/dev/null; stat -c %s env; "
        "grub2-editenv env create; grub2-editenv env set a=1; grub2-editenv env list; "
        "! grub2-editenv /nowhere/env set a=1 2>/dev/null; ls /nowhere 2>/dev/null || echo none",
    )
    assert said == "0\na=1\nnone\n"
