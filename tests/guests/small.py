"""The small guest: Debian's signed boot chain, busybox and the guest agent in a few megabytes.

Owns the image's content and layout. Does not own its use: `fixtures` hands it to tests.

It boots under Secure Boot, plain UEFI and BIOS, reads the config drive and answers as a guest
agent; `small_init.sh` says what a test can make it do. One FAT partition holds everything; the
system runs from its initramfs.
"""

from pathlib import Path

from guests import cache, packages
from guests.initramfs import Initramfs

from qemu_node.host.process.command import SAFE_ENV, run_blocking

_INIT = Path(__file__).with_name("small_init.sh")
_PACKAGES = (
    "linux-image-cloud-amd64", "shim-signed", "grub-efi-amd64-signed", "syslinux",
    "syslinux-common", "busybox-static", "qemu-guest-agent",
)  # fmt: skip
_MODULES = (
    "virtio_scsi", "sd_mod", "sr_mod", "virtio_blk", "isofs", "ahci", "virtio_net", "virtio_rng",
    "virtio_balloon", "virtio_mem", "pvpanic_pci", "button", "evdev", "efivarfs",
)  # fmt: skip
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_AGENT_LIBRARIES = (
    "libc.so.6", "libm.so.6", "libudev.so.1", "libnuma.so.1", "liburing.so.2", "libglib-2.0.so.0",
    "libgmodule-2.0.so.0", "libpcre2-8.so.0", "libatomic.so.1", "libcap.so.2",
)  # fmt: skip

_ESP_START_SECTOR = 2048
_ESP_MIB = 48
_MEMORY_OPTIONS = "swiotlb=512 memhp_default_state=online_movable"
# The kernel's timer check fails on a busy host without KVM, and may end in a panic.
_COMMAND_LINE = f"console=ttyS0 loglevel=4 no_timer_check {_MEMORY_OPTIONS}"
_GRUB_CONFIG = f"set timeout=0\nlinux /vmlinuz {_COMMAND_LINE}\ninitrd /initrd\nboot\n"
_SYSLINUX_CONFIG = (
    f"default small\nlabel small\n linux /vmlinuz\n initrd /initrd\n append {_COMMAND_LINE}\n"
)

_SHUTDOWN = b"""#!/bin/sh
# The guest agent runs this as `shutdown -P|-H|-r +0 MESSAGE`.
echo "small guest: $*" >/dev/console
case "$*" in
    *-r*) reboot -f ;;
    *-H*) halt -f ;;
    *) poweroff -f ;;
esac
"""
_ACPI_POWER = b"""#!/bin/sh
echo "small guest: power button" >/dev/console
poweroff -f
"""
_UDHCPC = b"""#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/${mask:-24}" dev "$interface"
ip route replace default via "${router%% *}"
echo "nameserver ${dns%% *}" >/etc/resolv.conf
"""
_OS_RELEASE = b"""ID=small-guest
NAME="Small guest"
PRETTY_NAME="Small guest (Debian 13 kernel, busybox)"
VERSION_ID="13"
"""


def build(directory: Path) -> Path:
    """Return the small guest's qcow2 image in `directory`; built there unless it is kept already.

    Raises:
        MissingPartError: mmdebstrap, mtools, dosfstools, fdisk or qemu-utils is not installed.
        ProcessError: one of them failed, for example because the Debian mirror is out of reach.
    """
    here = Path(__file__).parent
    sources = [here / name for name in ("small.py", "small_init.sh", "initramfs.py", "packages.py")]
    return cache.cached(directory, "small", cache.fingerprint(sources), ".qcow2", _make)


def _make(target: Path, scratch: Path) -> None:
    """Make the image `target`."""
    root = scratch / "root"
    packages.extract(_PACKAGES, root)
    (scratch / "initrd").write_bytes(_initramfs(root).to_cpio())
    esp = _make_esp(root, scratch)
    disk = _make_disk(root, esp, scratch)
    run_blocking(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(disk), str(target)])


def _initramfs(root: Path) -> Initramfs:
    """Return the guest's whole system."""
    archive = Initramfs()
    for directory in ("dev", "proc", "sys", "root", "var/run", "mnt"):
        archive.add_directory(directory)
    busybox = (root / "usr/bin/busybox").read_bytes()
    archive.add_file("bin/busybox", busybox, mode=0o755)
    listing = run_blocking([str(root / "usr/bin/busybox"), "--list"]).stdout.decode().split()
    for applet in set(listing) - {"busybox"}:
        archive.add_link(f"bin/{applet}", "busybox")
    archive.add_file("usr/sbin/qemu-ga", (root / "usr/sbin/qemu-ga").read_bytes(), mode=0o755)
    for library in _AGENT_LIBRARIES:
        source = root / _LIBRARIES / library
        if source.exists():
            archive.add_file(f"{_LIBRARIES}/{library}", source.read_bytes(), mode=0o755)
    loader = (root / _LIBRARIES / "ld-linux-x86-64.so.2").read_bytes()
    archive.add_file("lib64/ld-linux-x86-64.so.2", loader, mode=0o755)
    archive.add_modules(root, _MODULES)
    archive.add_file("init", _INIT.read_bytes(), mode=0o755)
    archive.add_file("sbin/shutdown", _SHUTDOWN, mode=0o755)
    archive.add_file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nexec /etc/acpi/power\n", mode=0o755)
    archive.add_file("etc/acpi/power", _ACPI_POWER, mode=0o755)
    archive.add_file("etc/udhcpc", _UDHCPC, mode=0o755)
    archive.add_file("etc/os-release", _OS_RELEASE)
    archive.add_file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    return archive


def _make_esp(root: Path, scratch: Path) -> Path:
    """Return a FAT image with the kernel and the loaders of UEFI and BIOS."""
    esp = scratch / "esp.img"
    with esp.open("wb") as file:
        file.truncate(_ESP_MIB << 20)
    # BIOS loaders find their own sectors through the partition's offset in the boot sector.
    sectors = str(_ESP_MIB * 2048)
    _mtools("mformat", esp, "-T", sectors, "-H", str(_ESP_START_SECTOR), "-v", "SMALL", "::")
    _mtools("mmd", esp, "::EFI", "::EFI/BOOT", "::EFI/debian")
    (kernel,) = root.glob("boot/vmlinuz-*")
    (scratch / "grub.cfg").write_text(_GRUB_CONFIG)
    (scratch / "syslinux.cfg").write_text(_SYSLINUX_CONFIG)
    signed_grub = root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    for source, destination in (
        (kernel, "vmlinuz"),
        (scratch / "initrd", "initrd"),
        (root / "usr/lib/shim/shimx64.efi.signed", "EFI/BOOT/BOOTX64.EFI"),
        (signed_grub, "EFI/BOOT/grubx64.efi"),
        (scratch / "grub.cfg", "EFI/debian/grub.cfg"),
        (scratch / "syslinux.cfg", "syslinux.cfg"),
    ):
        _mtools("mcopy", esp, str(source), f"::{destination}")
    # The program of another Debian release, on the C library it came with.
    loader = root / _LIBRARIES / "ld-linux-x86-64.so.2"
    libraries = str(root / _LIBRARIES)
    syslinux = str(root / "usr/bin/syslinux")
    argv = [str(loader), "--library-path", libraries, syslinux, "--install", str(esp)]
    run_blocking(argv, env=SAFE_ENV | {"TMPDIR": str(scratch)})
    return esp


def _make_disk(root: Path, esp: Path, scratch: Path) -> Path:
    """Return a raw disk image: GPT, the boot code of a BIOS, and `esp` as its only partition."""
    disk = scratch / "disk.img"
    with disk.open("wb") as file:
        file.truncate((_ESP_MIB + 2) << 20)
    partition = f"start={_ESP_START_SECTOR}, size={_ESP_MIB}MiB, type=U, attrs=LegacyBIOSBootable"
    table = f"label: gpt\n{partition}\n".encode()
    run_blocking(["sfdisk", "--quiet", str(disk)], stdin=table)
    with disk.open("r+b") as file:
        # Ends before the protective MBR's own table at offset 440.
        file.write((root / "usr/lib/syslinux/mbr/gptmbr.bin").read_bytes()[:440])
        file.seek(_ESP_START_SECTOR * 512)
        file.write(esp.read_bytes())
    return disk


def _mtools(tool: str, image: Path, *arguments: str) -> None:
    """Run one of the mtools on a FAT image file."""
    run_blocking([tool, "-i", str(image), *arguments], env=SAFE_ENV | {"MTOOLS_SKIP_CHECK": "1"})
