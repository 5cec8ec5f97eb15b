"""Checks of the files of a tree: pure but for reading it. Nothing of the tree is run."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import hcl2

from osimage.build.tree import units
from osimage.build.tree.tidy import size_of
from qemu_node.config.node import load
from qemu_node.errors import NodeError

TREE_MAX_BYTES = 1_100_000_000
INITRD_MAX_BYTES = 50_000_000

# An identity in the image would be the same on all nodes.
_IDENTITIES = (
    "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/ssh/ssh_host_*",
    "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "root/.ssh/*",
    "etc/ssl/private/*",
)  # fmt: skip
_LEFT_OVERS = (
    "etc/apt/sources.list*/*", "var/lib/apt/lists/*", "var/cache/apt/*", "var/log/*.log",
    "boot/initrd.img*", "etc/.pwd.lock", "tmp/*", "run/*", "dev/*", "etc/resolv.conf",
)  # fmt: skip
_DOC = "usr/share/doc/qemu-node"
_PAGES = (
    f"{_DOC}/docs/os.md", f"{_DOC}/docs/cluster.md", f"{_DOC}/examples/debian-cloud.nomad.hcl",
    f"{_DOC}/examples/seed.toml", f"{_DOC}/examples/prometheus.yml", f"{_DOC}/docs/metrics.md",
    f"{_DOC}/alerts/qemu-node.yml", f"{_DOC}/dashboards/qemu-node.json",
)  # fmt: skip
_LOCKED = re.compile(r"[!*]+")
_PATH = re.compile(
    r"(?<![\w/.$}*-])/(?:usr/(?:bin|sbin|lib|libexec|share|local)|etc/elemental|system/oem)/[\w./@+-]+"
)
_ELEMENTAL = "/usr/bin/elemental"
_UNCHECKED_HASH = b"\x01\x00\x00\x00"


def one_kernel(root: Path) -> list[str]:
    """There is one kernel, with its modules and its initrd, under the names Elemental looks for."""
    kernels = sorted(path.name for path in (root / "boot").glob("vmlinuz-*"))
    modules = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
    found = []
    if len(kernels) != 1 or [f"vmlinuz-{name}" for name in modules] != kernels:
        found.append(f"not one kernel: {kernels} in /boot, modules of {modules}")
    for name in ("vmlinuz", "initrd"):
        link = root / "boot" / name
        if not (link.is_symlink() and not link.readlink().is_absolute() and link.is_file()):
            found.append(f"/boot/{name} is no link to a file beside it")
    return found


def no_password(root: Path) -> list[str]:
    """No account has a password, an empty one included."""
    return [
        f"the account {name} has a password"
        for line in (root / "etc/shadow").read_text().splitlines()
        for name, word in [line.split(":")[:2]]
        if not _LOCKED.fullmatch(word)
    ]


def no_identity(root: Path) -> list[str]:
    """Nothing in the image would make two nodes the same."""
    return [f"/{path.relative_to(root)} is in the image" for path in _matching(root, _IDENTITIES)]


def no_left_over(root: Path) -> list[str]:
    """Nothing of the build is in the image."""
    return [f"/{path.relative_to(root)} is left over" for path in _matching(root, _LEFT_OVERS)]


def _matching(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(root.glob(pattern))


def units_are_there(root: Path) -> list[str]:
    """Each unit that is to start is in the image."""
    return [f"there is no {unit}" for unit in units.missing(root, units.read_presets(root))]


def sizes(root: Path) -> list[str]:
    """Tree and initrd are within their budgets."""
    found = []
    if (size := size_of(root)) > TREE_MAX_BYTES:
        found.append(f"the tree has {size / 1e6:.0f} MB, more than {TREE_MAX_BYTES / 1e6:.0f}")
    if (size := (root / "boot/initrd").stat().st_size) > INITRD_MAX_BYTES:
        found.append(f"the initrd has {size / 1e6:.0f} MB, more than {INITRD_MAX_BYTES / 1e6:.0f}")
    return found


def named_files_exist(root: Path, files: Path) -> list[str]:
    """Each path of the image that one of our files names is in the image.

    Args:
        root: The tree.
        files: Our own files (`osimage/files`).
    """
    # A tree for tests has no Elemental.
    has_elemental = (root / "etc/elemental/grub.cfg").exists()
    found = []
    for source in sorted(files.rglob("*")):
        if not source.is_file() or source.is_symlink():
            continue
        for number, line in enumerate(_text(source).splitlines(), start=1):
            if line.lstrip().startswith("#") and not line.startswith("#!"):
                continue
            for path in _PATH.findall(line):
                if path == _ELEMENTAL and not has_elemental:
                    continue
                if not _is_there(root, path.rstrip(".")):
                    name = source.relative_to(files)
                    found.append(f"/{name}:{number}: {path} is not in the image")
    return found


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _is_there(root: Path, path: str) -> bool:
    """Tell whether a path is there, links followed as in the image."""
    target = root / path.lstrip("/")
    return os.path.lexists(target) or any(target.parent.glob(f"{target.name}*"))


def pages_are_there(root: Path) -> list[str]:
    """The pages that errors name, and the examples that pages name, are in the image."""
    return [f"there is no /{name}" for name in _PAGES if not (root / name).is_file()]


def modes(root: Path) -> list[str]:
    """No file can be written by everybody, and no directory but sticky ones."""
    found = []
    for parent, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = os.path.join(parent, name)  # noqa: PTH118 - tens of thousands of files
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode) or not mode & stat.S_IWOTH:
                continue
            if not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
                found.append(f"/{os.path.relpath(path, root)} can be written by everybody")
    return found


def bytecode(root: Path) -> list[str]:
    """Each module of our own environment has bytecode that Python uses without a check."""
    found = []
    (site,) = (root / "usr/lib/qemu-node/venv/lib").glob("python3.*/site-packages")
    (version,) = re.findall(r"python3\.(\d+)", site.parent.name)
    for source in site.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-3{version}.pyc"
        if not compiled.exists():
            found.append(f"/{source.relative_to(root)} has no bytecode")
        elif compiled.read_bytes()[4:8] != _UNCHECKED_HASH:
            found.append(f"/{compiled.relative_to(root)} is checked at each start")
    return found[:20]


def samples_parse(root: Path) -> list[str]:
    """The sample configuration of Nomad is HCL, and that of ours is valid."""
    found = []
    directory = root / "usr/share/nomad"
    for path in sorted(directory.glob("*.hcl")):
        try:
            with path.open() as file:
                hcl2.load(file)
        except Exception as exc:  # whatever the parser raises
            found.append(f"/{path.relative_to(root)} is no HCL: {exc}")
    for path in (directory / "node.toml", root / "etc/qemu-node/node.toml"):
        if path.exists():
            try:
                load(path)
            except NodeError as exc:
                found.append(f"/{path.relative_to(root)}: {exc}")
    return found
