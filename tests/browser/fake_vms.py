"""Made-up VMs for the page, and pictures of their screens."""

import os
import random
import zlib

from PIL import Image, ImageDraw, ImageFont, ImageOps

from qemu_node.units import GIB, MIB
from qemu_node.web.fleet.model import EndView, MemoryView, VMView
from qemu_node.web.viewer.screen.jpeg import make_thumbnail

SIZE = (960, 600)
"""Of a screen."""

_JOBS = (
    ("web", "default", "frontend", "debian-13"),
    ("shop-api", "default", "api", "debian-13"),
    ("postgres", "data", "db", "ubuntu-24.04"),
    ("redis", "data", "cache", "alpine-3.22"),
    ("build-runner", "ci", "runner", "debian-13"),
    ("windows-desktop", "office", "desktop", "windows-11"),
    ("mail", "office", "relay", "debian-12"),
    ("gateway", "network", "edge", "openwrt-24"),
)


_ICONS = ((56, 189, 248), (250, 204, 21), (167, 139, 250), (52, 211, 153))
_NAMES = ("Virtanen & Co", "Nordic Timber", "Lahti Works", "Harbour Supply", "Korhonen Oy")
_KERNEL = (
    "virtio_net virtio0 enp1s0: renamed from eth0",
    "EXT4-fs (vda2): mounted filesystem with ordered data mode",
    "Memory: 2031616K/2096628K available (16384K kernel code)",
    "random: crng init done",
    "NET: Registered PF_VSOCK protocol family",
    "virtio-mem virtio3: plugged size: 1536 MiB",
    "clocksource: Switched to clocksource kvm-clock",
    "systemd[1]: Started qemu-guest-agent.service - QEMU Guest Agent",
    "systemd[1]: Reached target multi-user.target - Multi-User System",
    "sshd[412]: Server listening on :: port 22.",
)


def make_vms(count: int) -> list[VMView]:
    """Return so many VMs; always the same ones."""
    chance = random.Random(5800)
    return [_vm(number, chance) for number in range(count)]


def _vm(number: int, chance: random.Random) -> VMView:
    job, namespace, group, image = _JOBS[number % len(_JOBS)]
    index = number // len(_JOBS)
    high = chance.choice((512 * MIB, 2 * GIB, 4 * GIB, 16 * GIB))
    plugged = int(high * chance.choice((0.5, 0.75, 1)))
    state, end = "running", None
    if number % 41 == 7:
        state = "paused"
    elif number % 61 == 11:
        state = "disk-full"
    elif number % 29 == 13:
        state = "ended"
        is_failure = number % 2 == 1
        reason = "the guest's kernel panicked" if is_failure else "the guest shut down"
        end = EndView(at="2026-11-30T18:12:09Z", reason=reason, is_failure=is_failure, exit_code=0)
    return VMView(
        vm_id=f"{job[:12]}-{zlib.crc32(b'%d' % number):08x}{number:04x}",
        alloc_id=f"{zlib.crc32(b'a%d' % number):08x}-7a0b-4c1d-9e2f-{number:012x}",
        namespace=namespace,
        job=job,
        group=group,
        task="vm",
        index=index,
        node="node-7",
        state=state,
        os="windows" if "windows" in job else "linux",
        image=image,
        vcpus=chance.choice((1, 2, 4, 8)),
        created_at="2026-11-28T06:30:00Z",
        uptime_s=None if end else chance.uniform(300, 4e6),
        cpu_pct=None if end else round(chance.paretovariate(1.2) * 3 % 180, 1),
        memory=MemoryView(
            min_bytes=high // 4,
            max_bytes=high,
            plugged_bytes=plugged,
            used_bytes=int(plugged * chance.uniform(0.25, 0.92)),
            pss_bytes=int(plugged * 0.6),
            merged_bytes=int(plugged * 0.1),
        ),
        host_name=f"{job}-{index}",
        addresses=(f"10.20.{number // 250}.{number % 250 + 1}", "fd00::1"),
        vlans=(100 + number % len(_JOBS),),
        agent_age_s=3.0,
        viewers=1 if number == 2 else 0,
        thumbnail="1",
        end=end,
    )


def jpeg_of(vm: VMView) -> bytes:
    """Return the small picture that the console makes of the screen of `vm`."""
    image = picture_of(vm)
    fd = os.memfd_create("picture")
    try:
        os.write(fd, b"P6\n%d %d\n255\n" % image.size + image.tobytes())
        return make_thumbnail(fd, None).jpeg
    finally:
        os.close(fd)


def picture_of(vm: VMView) -> Image.Image:
    """Return a picture that looks like a screen of `vm`."""
    chance = random.Random(vm.vm_id)
    return _desktop(chance) if vm.os == "windows" else _text_console(vm, chance)


def _desktop(chance: random.Random) -> Image.Image:
    width, height = SIZE
    ground = Image.linear_gradient("L").rotate(35, expand=True).resize((2 * width, 2 * height))
    ground = ground.crop((width // 2, height // 2, width // 2 + width, height // 2 + height))
    image = ImageOps.colorize(ground, (9, 30, 78), (96, 164, 232), (28, 98, 190))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    small = ImageFont.load_default(13)
    draw.rectangle((0, height - 34, width, height), fill=(17, 24, 39))
    for n in range(4):
        draw.rounded_rectangle(
            (14 + 38 * n, height - 29, 38 + 38 * n, height - 5), 5, fill=_ICONS[n % len(_ICONS)]
        )
    draw.text((width - 58, height - 26), "18:42", font=small, fill=(226, 232, 240))
    for n, name in enumerate(("Files", "Reports", "Mail")):
        draw.rounded_rectangle((30, 26 + 92 * n, 72, 68 + 92 * n), 8, fill=_ICONS[n])
        draw.text((51, 80 + 92 * n), name, font=small, fill=(255, 255, 255), anchor="mm")
    left, top, right, bottom = 150, 52, width - 90, height - 92
    draw.rectangle((left + 5, top + 7, right + 5, bottom + 7), fill=(14, 36, 78))
    draw.rectangle((left, top, right, bottom), fill=(248, 250, 252))
    draw.rectangle((left, top, right, top + 34), fill=(30, 41, 59))
    draw.text((left + 14, top + 8), "Orders of this week", font=font, fill=(241, 245, 249))
    for n, colour in enumerate(((251, 191, 36), (74, 222, 128), (248, 113, 113))):
        draw.ellipse((right - 70 + 20 * n, top + 11, right - 58 + 20 * n, top + 23), fill=colour)
    for row in range((bottom - top - 60) // 27):
        y = top + 48 + 27 * row
        if row % 2:
            draw.rectangle((left + 1, y - 5, right - 1, y + 21), fill=(238, 242, 247))
        number = chance.randrange(1000, 9999)
        words = (f"{4100 + row}", chance.choice(_NAMES), f"{number / 10:.2f}")
        for x, text in zip((left + 18, left + 120, right - 120), words, strict=True):
            draw.text((x, y), text, font=small, fill=(51, 65, 85))
    return image


def _text_console(vm: VMView, chance: random.Random) -> Image.Image:
    """Return a console of 8 by 16 pixels a letter, without shades, as a kernel draws it."""
    image = Image.new("RGB", SIZE)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    font = ImageFont.load_default_imagefont()
    clock = 0.0
    lines = []
    for text in chance.sample(_KERNEL, chance.randrange(6, len(_KERNEL))):
        clock += chance.uniform(0.1, 0.9)
        lines.append(f"[{clock:12.6f}] {text}")
    lines += ["", f"Debian GNU/Linux 13 {vm.host_name} tty1", "", f"{vm.host_name} login: _"]
    for row, words in enumerate(lines):
        draw.text((4, 2 + 16 * row), words, font=font, fill=(170, 170, 170))
    return image
