"""Made-up VMs for the page, and pictures of their screens."""

import io
import random
import zlib

from PIL import Image, ImageDraw

from qemu_node.units import GIB, MIB
from qemu_node.web.fleet.model import EndView, MemoryView, VMView

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
    """Return a small picture of the screen of `vm`."""
    data = io.BytesIO()
    picture_of(vm, width=640, height=400).resize((320, 200)).save(data, "JPEG", quality=80)
    return data.getvalue()


def picture_of(vm: VMView, *, width: int, height: int) -> Image.Image:
    """Return a picture that looks like a screen of `vm`."""
    chance = random.Random(vm.vm_id)
    if vm.os == "windows":
        image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        image = Image.blend(image, Image.new("RGB", (width, height), (20, 90, 190)), 0.75)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, height - 12, width, height), fill=(18, 24, 34))
        draw.rectangle((40, 30, width - 70, height - 50), fill=(243, 245, 248))
        draw.rectangle((40, 30, width - 70, 42), fill=(46, 56, 70))
        for row in range(7):
            length = chance.randrange(60, 180)
            draw.rectangle((50, 52 + 12 * row, 50 + length, 57 + 12 * row), fill=(190, 200, 210))
    else:
        image = Image.new("RGB", (width, height), (6, 9, 12))
        draw = ImageDraw.Draw(image)
        lines = [
            f"[    {chance.uniform(0, 9):.6f}] {text}"
            for text in chance.sample(
                (
                    "systemd[1]: Reached target multi-user",
                    "virtio_net virtio0 enp1s0: renamed",
                    "EXT4-fs (vda2): mounted filesystem",
                    "Memory: 2031616K/2096628K available",
                    "random: crng init done",
                    "NET: Registered PF_VSOCK",
                    "virtio-mem: plugged 1536 MiB",
                    "clocksource: Switched to kvm-clock",
                    "qemu-guest-agent: started",
                    "sshd[412]: Server listening on ::",
                ),
                chance.randrange(4, 10),
            )
        ]
        lines += ["", f"{vm.host_name} login: _"]
        for row, words in enumerate(lines):
            draw.text((6, 6 + row * 14), words, fill=(176, 190, 200))
    return image
