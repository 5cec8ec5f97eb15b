"""`qemu-node os install`: the installation of a node, by a person or by a seed.

Owns the options, the questions to a person and what is printed. Does not own the installation
(`nodeos.setup`).
"""

import asyncio
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.nodeos.settings import read_archive
from qemu_node.cli.terminal import say
from qemu_node.errors import AS_ROOT, ConfigError, HostError, MissingPartError, NodeError
from qemu_node.nodeos.paths import NodePaths

if TYPE_CHECKING:
    from qemu_node.nodeos.setup.install import Installation
    from qemu_node.nodeos.setup.login import Login
    from qemu_node.nodeos.setup.seed import Seed
    from qemu_node.nodeos.setup.source import FoundSeed

_HOW = "to erase it, type `elemental install --wipe {disk}`"
_POWER_S = 60.0

# Options of `elemental install` that are passed on (elemental 2.3: cmd/install.go, cmd/flags.go).
_PASSED_VALUES = (
    ("--system", ""),
    ("--recovery-system.uri", ""),
    ("--cloud-init", "-c"),
    ("--cloud-init-paths", ""),
    ("--snapshot-labels", ""),
    ("--squash-compression", "-x"),
)
_PASSED_FLAGS = ("--disable-boot-entry", "--eject-cd", "--verify", "--squash-no-compression")


def _name(option: str) -> str:
    return "passed_" + option.strip("-").replace("-", "_").replace(".", "_")


def _passed_on(command: click.Command) -> click.Command:
    """Add the options of `elemental install` to `command`."""
    for option, short in _PASSED_VALUES:
        names = [option, _name(option), *filter(None, [short])]
        command.params.append(click.Option(names, multiple=True, hidden=True))
    for flag in _PASSED_FLAGS:
        command.params.append(click.Option([flag, _name(flag)], is_flag=True, hidden=True))
    return command


@_passed_on
@click.command(
    short_help="Install the node's system on a disk.",
    help="""Install the running live system on DISK, which is erased.

    A disk that is not empty is refused, unless --wipe is given. The node gets the SSH keys and the
    password that root has on the live system: type `passwd` before, or be asked for a password.
    With --seed the answers come from a seed.toml (docs/os-install.md).

    Options of `elemental install` are passed on: --system, --cloud-init, --eject-cd and others.""",
    epilog="""\b
Examples:
  elemental install /dev/sda
  elemental install --wipe --data /dev/nvme0n1 --reboot /dev/sda
  elemental install --seed /root/seed.toml
""",
)
@click.argument("disk", required=False)
@click.option("--wipe", is_flag=True, help="Erase the disk even if it is not empty.")
@click.option("--data", "data_disk", metavar="DISK", help="The disk of /data; formatted if empty.")
@click.option("--data-here", is_flag=True, help="Put /data on the rest of the system's disk.")
@click.option(
    "--seed",
    "seed_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A seed.toml with the answers; the files in config/ beside it go to /data/config.",
)
@click.option(
    "--restore",
    "archive",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Give the node the configuration that `qemu-node os save` has written.",
)
@click.option("--no-login", is_flag=True, help="Install a node to which nobody can log in.")
@click.option("--reboot", is_flag=True, help="Reboot afterwards.")
@click.option("--poweroff", is_flag=True, help="Power off afterwards.")
@click.option("--dry-run", is_flag=True, help="Check everything and change nothing.")
@click.option("--debug", is_flag=True, help="Let Elemental say more.")
@click.option("--unattended", is_flag=True, hidden=True, help="Find the seed; for the unit.")
@pass_node
def install(
    paths: NodePaths,
    /,
    disk: str | None,
    wipe: bool,
    data_disk: str | None,
    data_here: bool,
    seed_path: Path | None,
    archive: Path | None,
    no_login: bool,
    reboot: bool,
    poweroff: bool,
    dry_run: bool,
    debug: bool,
    unattended: bool,
    **passed: object,
) -> None:
    """Install the node's system."""
    if reboot and poweroff:
        raise click.UsageError("give --reboot or --poweroff, not both")
    if data_disk and data_here:
        raise click.UsageError("give --data or --data-here, not both")
    options = passed_options(passed)
    _require_live(paths)
    after = "reboot" if reboot else "poweroff" if poweroff else "stay"
    if unattended:
        _run_unattended(paths)
        return
    if seed_path is not None:
        if disk or wipe or data_disk or data_here or archive:
            raise click.UsageError("a seed says all: leave DISK, --data and --restore out")
        found = _read_file(seed_path)
        installation, seed = _by_seed(found, paths, options=options, debug=debug)
        after = after if after != "stay" else seed.after
    elif disk is None:
        raise click.UsageError(
            "say on which disk: `elemental install /dev/sda`; `lsblk` lists them"
        )
    else:
        installation = _by_person(
            paths, disk, wipe=wipe, data_disk=data_disk, data_here=data_here, options=options,
            debug=debug, archive=archive,
            asks=not (no_login or archive or "--cloud-init" in options or dry_run),
        )  # fmt: skip
    for line in installation.describe():
        say(line)
    if not dry_run:
        _install(installation, paths)
        _finish(after)


def passed_options(passed: dict[str, object]) -> tuple[str, ...]:
    """Return the options that Elemental gets, as they were given: pure."""
    words: list[str] = []
    for option, _ in _PASSED_VALUES:
        values = passed.get(_name(option))
        for value in values if isinstance(values, tuple) else ():
            words += [option, str(value)]
    words += [flag for flag in _PASSED_FLAGS if passed.get(_name(flag))]
    return tuple(words)


def _require_live(paths: NodePaths) -> None:
    from qemu_node.nodeos.boot import BootMode, read_boot

    if os.geteuid() != 0:
        raise MissingPartError("an installation writes to disks", hint=AS_ROOT)
    if read_boot(paths).mode is not BootMode.LIVE:
        raise HostError("this is not the live system", hint="boot the ISO, and install from there")


def _by_person(
    paths: NodePaths,
    disk: str,
    *,
    wipe: bool,
    data_disk: str | None,
    data_here: bool,
    options: Sequence[str],
    debug: bool,
    archive: Path | None,
    asks: bool,
) -> "Installation":
    from qemu_node.nodeos.setup.choice import Choice, choose_disks, named_disk
    from qemu_node.nodeos.setup.disks import read_disks
    from qemu_node.nodeos.setup.install import Installation
    from qemu_node.nodeos.setup.login import read_login
    from qemu_node.nodeos.setup.seed import DataPattern
    from qemu_node.nodeos.setup.staging import merge

    def choose() -> Choice:
        disks = read_disks()
        system = named_disk(disk, os.path.realpath(disk), disks)
        data = named_disk(data_disk, os.path.realpath(data_disk), disks) if data_disk else None
        pattern = DataPattern(same_disk=True) if data_here else None
        return choose_disks(system, disks, wipe=wipe, data=data, data_pattern=pattern, how=_HOW)

    choice = choose()
    login = read_login(paths.root)
    if asks and not login.is_possible:
        login = _ask_login()
        # A person takes minutes to answer. Meanwhile a seed may have installed the node there.
        choice = choose()
    settings = merge(None, login)
    if archive is not None:
        saved = read_archive(archive)
        settings = dataclasses.replace(settings, config=saved.config, oem=saved.oem)
    return Installation(choice=choice, settings=settings, options=tuple(options), is_debug=debug)


def _ask_login() -> "Login":
    """Return a password that a person types.

    Raises:
        ConfigError: nobody is there to ask.
    """
    from qemu_node.nodeos.setup.login import LIVE_PASSWORD, Login, hash_password

    if not sys.stdin.isatty():
        raise ConfigError(
            "nobody could log in to the node: root has no key, and only the live system's password",
            hint="set one with `passwd` or put a key into /root/.ssh/authorized_keys, or give "
            "--no-login",
        )
    click.echo("Nobody could log in to the node yet: root has no key and no password of its own.")
    while True:
        password = click.prompt(
            "Password of root on the node's console", hide_input=True, confirmation_prompt=True
        )
        if password != LIVE_PASSWORD:
            return Login(password_hash=hash_password(password))
        click.echo("Everybody knows that one: choose another.")


def _by_seed(
    found: "FoundSeed", paths: NodePaths, *, options: Sequence[str] = (), debug: bool = False
) -> "tuple[Installation, Seed]":
    from qemu_node.nodeos.setup.disks import read_disks
    from qemu_node.nodeos.setup.install import Installation
    from qemu_node.nodeos.setup.login import read_login
    from qemu_node.nodeos.setup.probe import find_leftover
    from qemu_node.nodeos.setup.seed import parse_seed
    from qemu_node.nodeos.setup.staging import merge
    from qemu_node.nodeos.setup.unattended import choose_by_seed

    seed = parse_seed(found.data, found.origin)
    settings = merge(seed, read_login(paths.root), beside=found.beside, raw=found.data)
    choice = choose_by_seed(seed, read_disks(), lambda disk: find_leftover(disk, found.data))
    installation = Installation(
        choice=choice, settings=settings, options=tuple(options), is_debug=debug
    )
    return installation, seed


def _read_file(path: Path) -> "FoundSeed":
    from qemu_node.nodeos.setup.source import Machine, SeedPlace, read_directory

    place = SeedPlace(device=str(path.parent), path=path.name)
    return read_directory(path.parent, place, Machine())


def _run_unattended(paths: NodePaths) -> None:
    """Install by the seed that is found; without one there is nothing to do."""
    from qemu_node.nodeos.setup.source import read_machine, read_seed, seed_place
    from qemu_node.nodeos.setup.unattended import AlreadyInstalledError

    place = seed_place((paths.root / "proc/cmdline").read_text(errors="replace"))
    found = asyncio.run(read_seed(place, read_machine(paths.root), dev=paths.root / "dev"))
    if found is None:
        click.echo("there is no seed: the installation waits for a person")
        return
    say(f"installing by the seed {found.origin}")
    try:
        installation, seed = _by_seed(found, paths)
    except AlreadyInstalledError as exc:
        say(exc.explain())
        return
    for line in installation.describe():
        say(line)
    _install(installation, paths)
    _finish(seed.after)


def _install(installation: "Installation", paths: NodePaths) -> None:
    from qemu_node.nodeos.setup.install import run_installation

    asyncio.run(run_installation(installation, paths))
    click.echo(f"The node is installed on {installation.choice.system.path}.")


def _finish(after: str) -> None:
    """Do what is wanted after an installation."""
    from qemu_node.host.process.command import run_blocking

    if after == "stay":
        click.echo("Remove the medium and reboot: `systemctl reboot`.")
        return
    try:
        run_blocking(["systemctl", "--no-block", after], timeout_s=_POWER_S)
    except NodeError as exc:
        raise HostError(f"the node is installed, but: {exc}", hint=f"systemctl {after}") from exc
