"""All checks of a tree, by name."""

from collections.abc import Callable
from pathlib import Path

from osimage.build.tree.steps import FILES
from osimage.check import files, system


def checks(root: Path, tools: Path) -> dict[str, Callable[[], list[str]]]:
    """Return each check by what holds if it finds nothing.

    Args:
        root: The tree.
        tools: A root with sbverify.
    """

    def units() -> list[str]:
        return sorted({*system.our_units(FILES), *system.package_units(root)})

    return {
        "there is one kernel": lambda: files.one_kernel(root),
        "no account has a password": lambda: files.no_password(root),
        "nothing makes two nodes the same": lambda: files.no_identity(root),
        "nothing of the build is left": lambda: files.no_left_over(root),
        "tree and initrd are within their budgets": lambda: files.sizes(root),
        "every file that ours name is there": lambda: files.named_files_exist(root, FILES),
        "not everybody can write a file": lambda: files.modes(root),
        "bytecode is used without a check": lambda: files.bytecode(root),
        "our pages and examples are there": lambda: files.pages_are_there(root),
        "the samples are valid": lambda: files.samples_parse(root),
        "every unit that is to start is there": lambda: files.units_are_there(root),
        "systemd accepts the units": lambda: system.units(root, units()),
        "udev accepts the rules": lambda: system.udev_rules(root, FILES),
        "our services are limited": lambda: system.exposure(root, units()),
        "nft accepts the firewall": lambda: system.firewall(root),
        "sshd takes no passwords": lambda: system.sshd(root),
        "the boot chain is signed": lambda: system.signatures(root, tools),
    }
