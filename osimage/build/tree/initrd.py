"""The initrd, and Elemental's own files in the root.

Owns the steps that need the Elemental CLI, and dracut. Does not own our own files, of which it
takes those that dracut reads (`goes_into_initrd`): changing another one makes no new initrd.

Without the CLI the root gets an initrd that boots it from a squashfs: for tests.

Sources: elemental-toolkit v2.3.2, pkg/action/init.go and pkg/features/embedded.
"""

import shutil
from pathlib import Path, PurePosixPath

from osimage.build.namespace import run_in
from osimage.build.stages import Stages, digest_of
from osimage.build.tree.lay import lay

# Without dracut-config (its module livenet needs curl in the initrd, and dracut stops), without
# grub-default-bootargs (SELinux), cloud-config-defaults (a default password on installed nodes).
FEATURES = (
    "elemental-rootfs", "elemental-sysroot", "grub-config", "elemental-setup",
    "cloud-config-essentials", "boot-assessment",
)  # fmt: skip

_MICROCODE = "usr/lib/firmware/intel-ucode"

_DIRECTORIES = (
    "etc/dracut.conf.d", "usr/lib/dracut", "etc/elemental", "etc/modprobe.d", "usr/lib/modprobe.d",
    "etc/modules-load.d", "usr/lib/modules-load.d", "etc/sysctl.d", "usr/lib/sysctl.d",
    "etc/udev", "usr/lib/udev", "etc/systemd/system.conf.d", "usr/lib/systemd/system.conf.d",
    "etc/systemd/journald.conf.d", "usr/lib/systemd/journald.conf.d", "etc/tmpfiles.d",
)  # fmt: skip
_FILES = ("etc/locale.conf", "etc/vconsole.conf", "etc/hosts", "etc/machine-info")

# The argument is `elemental` or `plain`. POSIX.
_STEPS = r"""set -eu
variant=$1
shift
set -- $@
kernel=$(ls /boot | sed -n 's/^vmlinuz-//p')
[ "$(echo "$kernel" | wc -w)" = 1 ] || { echo "not one kernel in /boot: $kernel" >&2; exit 1; }
ln -sfn "vmlinuz-$kernel" /boot/vmlinuz
rm -f /boot/initrd.img* /boot/elemental.initrd-*
if [ "$variant" = elemental ]; then
    /usr/bin/elemental --debug init --force --mkinitrd=false "$@" >&2
    # With these lines sysinit.target is reached in the initrd and not again in the real root: the
    # image's sysctl.d and tmpfiles.d would never be applied.
    unit=/etc/systemd/system/elemental-setup-pre-rootfs.service
    generator=/usr/lib/dracut/modules.d/10elemental-setup/oem-generator.sh
    grep -q '^Requires=basic.target$' "$unit" && grep -q 'Wants=basic.target' "$generator" || {
        echo "this Elemental CLI has other units than v2.3: check basic.target in $unit" >&2
        exit 1
    }
    sed -i '/^Requires=basic.target$/d' "$unit"
    sed -i '/Wants=basic.target/d' "$generator"
    # The partitions' labels are variables in a file on the ESP, which a power cut can damage. With
    # these lines GRUB finds the partitions all the same.
    menu=/etc/elemental/grub.cfg
    grep -q '^set oem_env_file=' "$menu" || {
        echo "this Elemental CLI has another boot menu than v2.3: check oem_env_file in $menu" >&2
        exit 1
    }
    labels='set state_label=COS_STATE\nset recovery_label=COS_RECOVERY\nset oem_label=COS_OEM\n'
    sed -i "/^set oem_env_file=/i $labels" "$menu"
    initrd=elemental.initrd-$kernel
else
    initrd=initrd-$kernel
fi
dracut --force "/boot/$initrd" "$kernel" >&2
ln -sfn "$initrd" /boot/initrd
# dracut does not fail if a module cannot be installed.
lsinitrd "/boot/$initrd" >/tmp/list
for wanted in 'bin/sh -> bash' dmsquash-live-root; do
    grep -q -- "$wanted" /tmp/list || { echo "the initrd has no $wanted" >&2; exit 1; }
done
if [ "$variant" = elemental ]; then
    for wanted in usr/bin/elemental elemental-sysroot-generator elemental-cmdline; do
        grep -q -- "$wanted" /tmp/list || { echo "the initrd has no $wanted" >&2; exit 1; }
    done
fi
"""


def goes_into_initrd(path: PurePosixPath) -> bool:
    """Tell whether dracut reads a file of our own, by its path below the root."""
    text = str(path)
    return text in _FILES or any(text.startswith(f"{name}/") for name in _DIRECTORIES)


def initrd_files(files: Path) -> list[Path]:
    """Return the files below `files` that dracut reads."""
    return sorted(
        path
        for path in files.rglob("*")
        if not path.is_dir() and goes_into_initrd(PurePosixPath(path.relative_to(files)))
    )


def make_with_initrd(
    stages: Stages, base: Path, files: Path, elemental: Path | None, epoch: int
) -> Path:
    """Return a copy of the root `base` with Elemental's files and an initrd.

    Args:
        stages: Where it is kept.
        base: The root, which is not changed.
        files: Our own files.
        elemental: The CLI; None for an initrd without it.
        epoch: The time of all files in the initrd.

    Raises:
        ProcessError: `elemental init` or dracut failed, or the initrd lacks what it needs.
    """
    ours = initrd_files(files)
    words = ["initrd 2", base.name, _STEPS, *FEATURES]
    if elemental is None:
        words.append("plain")
    inputs = [*ours, *([elemental] if elemental else [])]
    names = [str(path.relative_to(files)) for path in ours]

    def digest() -> str:
        return digest_of([*words, *names], files=inputs)

    def make(target: Path, scratch: Path) -> None:
        del scratch
        copy_root(base, target)
        lay(files, target, only=goes_into_initrd)
        _drop_second_copies(target / _MICROCODE)
        if elemental is not None:
            shutil.copyfile(elemental, target / "usr/bin/elemental")
            (target / "usr/bin/elemental").chmod(0o755)
        variant = "plain" if elemental is None else "elemental"
        run_in(
            target, ["sh", "-c", _STEPS, "steps", variant, " ".join(FEATURES)],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )  # fmt: skip

    kind = "initrd" if elemental is not None else "plain-initrd"
    return stages.get(
        kind, digest(), make, about="makes the initrd (half a minute)", look_again=digest
    )


def _drop_second_copies(directory: Path) -> None:
    """Keep one of each microcode: Debian has the same file for each CPU in it (6 MB)."""
    seen: set[bytes] = set()
    for path in sorted(directory.glob("*")):
        content = path.read_bytes()
        if content in seen:
            path.unlink()
        seen.add(content)


def copy_root(source: Path, target: Path) -> None:
    """Copy a root directory whole: owners, times, hard links, capabilities."""
    from qemu_node.host.process.command import run_blocking

    run_blocking(
        ["cp", "--archive", "--reflink=auto", "--no-target-directory", str(source), str(target)],
        timeout_s=600,
    )
