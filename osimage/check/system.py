"""Checks that programs make, such as systemd of its units, udev of its rules, nft of the firewall.

The programs of the tree run in the tree, without a network. Nothing is changed there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from osimage.build.namespace import run_in

MAX_EXPOSURE = 3.0
"""`systemd-analyze security` of services that are ours alone; 10 is a service without limits."""

# What starts VMs, or writes the system's disk: installation, upgrade, reset, and what a boot means
# for the images.
_POWERFUL = re.compile(
    r"(nomad|qemu-node-(vms|install|reset|os-note|os-upgrade)|elemental-.*)\.service"
)
_SIGNERS = {
    "usr/lib/elemental/bootloader/shimx64.efi": "Microsoft Corporation UEFI CA 2011",
    "usr/lib/elemental/bootloader/grubx64.efi": "Debian Secure Boot CA",
    "usr/lib/elemental/bootloader/mmx64.efi": "Debian Secure Boot CA",
    "boot/vmlinuz": "Debian Secure Boot CA",
}
# Documentation, which dpkg does not install here.
_LEFT_OUT = re.compile(r" /usr/share/(doc|bug|lintian)/")
_SIGNED_PACKAGES = ("shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed")


def our_units(files: Path) -> list[str]:
    """Return the names of the units below `files`."""
    directory = files / "usr/lib/systemd/system"
    kinds = (".service", ".mount", ".path", ".timer", ".target", ".socket")
    return sorted(path.name for path in directory.iterdir() if path.suffix in kinds)


def package_units(root: Path) -> list[str]:
    """Return the names of the units of our Debian package."""
    listing = root / "var/lib/dpkg/info/qemu-node.list"
    paths = listing.read_text().splitlines() if listing.exists() else []
    return sorted(path.rpartition("/")[2] for path in paths if "/systemd/system/" in path)


def units(root: Path, names: Sequence[str]) -> list[str]:
    """Systemd can load the units, and what they start is there.

    Says nothing of units that they only order themselves after, which may be missing.
    """
    done = run_in(
        root,
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *names],
        check=False,
    )
    words = (done.stdout + done.stderr).decode(errors="replace")
    return [] if done.returncode == 0 else words.strip().splitlines()


def udev_rules(root: Path, files: Path) -> list[str]:
    """Udev can read our rules.

    Args:
        root: The tree.
        files: Our own files (`osimage/files`).
    """
    names = sorted(path.name for path in (files / "usr/lib/udev/rules.d").iterdir())
    rules = [f"/usr/lib/udev/rules.d/{name}" for name in names]
    done = run_in(root, ["udevadm", "verify", *rules], check=False)
    words = (done.stdout + done.stderr).decode(errors="replace")
    return [] if done.returncode == 0 else words.strip().splitlines()


def exposure(root: Path, names: Sequence[str]) -> list[str]:
    """Our services may do no more than they need, but for those whose work is the whole node."""
    found = []
    for name in names:
        if not name.endswith(".service") or _POWERFUL.fullmatch(name) or "@" in name:
            continue
        done = run_in(
            root,
            ["systemd-analyze", "security", "--offline=yes", "--no-pager", name],
            check=False,
        )
        words = done.stdout.decode(errors="replace")
        value = re.search(r"exposure level for \S+: ([0-9.]+)", words)
        if value is None or float(value[1]) > MAX_EXPOSURE:
            found.append(f"{name}: exposure {value[1] if value else words[-200:]}")
    return found


def firewall(root: Path) -> list[str]:
    """Nft accepts the rules."""
    done = run_in(
        root, ["unshare", "--net", "nft", "--check", "--file", "/etc/nftables.conf"], check=False
    )
    return [] if done.returncode == 0 else done.stderr.decode(errors="replace").splitlines()


def sshd(root: Path) -> list[str]:
    """Sshd accepts its configuration, and lets nobody in by a password."""
    script = (
        "mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /run/key </dev/null && "
        "sshd -T -h /run/key"
    )
    done = run_in(root, ["sh", "-c", script], check=False)
    if done.returncode != 0:
        return done.stderr.decode(errors="replace").splitlines()
    said = done.stdout.decode().lower().splitlines()
    wanted = ("passwordauthentication no", "permitemptypasswords no")
    return [f"sshd does not say: {line}" for line in wanted if line not in said]


def signatures(root: Path, tools: Path) -> list[str]:
    """Each link of the boot chain is signed by whom the one before trusts, and as Debian ships it.

    Args:
        root: The tree.
        tools: A root with sbverify.
    """
    found = []
    for name, signer in _SIGNERS.items():
        path = (root / name).resolve()
        listing = run_in(
            tools,
            ["sbverify", "--list", f"/run/in/{path.name}"],
            binds={path.parent: "/run/in"}, check=False,
        )  # fmt: skip
        if signer not in listing.stdout.decode(errors="replace"):
            found.append(f"/{name} is not signed by {signer}")
    kernels = [
        path.name.removesuffix(".list")
        for path in (root / "var/lib/dpkg/info").glob("linux-image-*-amd64.list")
    ]
    done = run_in(root, ["dpkg", "--verify", *_SIGNED_PACKAGES, *kernels], check=False)
    lines = done.stdout.decode().splitlines()
    return found + [line for line in lines if not _LEFT_OUT.search(line)]
