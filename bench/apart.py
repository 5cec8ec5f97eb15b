"""`python -m bench.apart DIRECTORY WRAPPER NOMAD`: the original's VMs, in namespaces of their own.

To be started by `unshare` with new mount, network and process namespaces: the wrapper keeps its
state under /data, names /usr/bin/qemu-system-x86_64 and a bridge br0, and leaves TAPs and files
behind. All of that is mounted over or made here and is removed with the namespaces. Prints an
`OriginalRun` as JSON.

The wrapper itself is run unchanged. What it cannot have without KVM and VLAN filtering is changed
below it: QEMU is a script that runs the real one under TCG, without vhost, paused before the first
instruction; `bridge vlan` and the setting of vlan_filtering do nothing. Each makes it quicker, not
slower, and takes no memory away.
"""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from bench.rig import procs
from bench.rig.agent import Agent, JobFailedError, nomad_agent, time_job
from bench.rig.jobtext import job_text
from qemu_node.errors import NodeError
from qemu_node.host.process import command, identity
from qemu_node.units import MIB

DATA = Path("/data")
VNC = Path("/tmp/vnc")
"""Directories that the wrapper names; they are mounted over."""

_VMS = 8
_TASK = "vm"
_QEMU = Path("/usr/bin/qemu-system-x86_64")

_TASK_MEMORY_MIB = 1536
_GUEST_RAM_MIB = 256
"""The wrapper keeps 1 GiB of the task's memory; of the rest this much is plugged in."""

_SETTLE_S = 2.0

_QEMU_SCRIPT = """\
#!/bin/bash
args=()
while (( $# )); do
  case "$1" in
    -version|--version) exec "{real}" -version ;;
    -enable-kvm) ;;
    -cpu) args+=(-cpu max,-cx16); shift ;;
    *) arg="${{1/accel=kvm/accel=tcg}}"; args+=("${{arg/,vhost=on/}}") ;;
  esac
  shift
done
exec "{real}" "${{args[@]}}" -S
"""

_IP_SCRIPT = """\
#!/bin/sh
case "$*" in *vlan_filtering*) exit 0 ;; esac
exec {real} "$@"
"""

_CONFIG = """\
image_path        = "{url}"
emulator          = "qemu-system-custom"
machine_type      = "q35"
accelerator       = "kvm"
graceful_shutdown = true
args = ["-mem-min", "{ram_mib}", "-smp", "1", "-vlan", "1001"]
"""


class OriginalRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the original's VMs took. Means over the VMs, sizes in bytes."""

    delays_s: tuple[float, ...]
    """From `nomad job run` to each VM's monitor socket, first VM first."""
    helpers: float
    """Processes a VM beside QEMU."""
    helpers_private_bytes: float
    qemu_private_bytes: float


async def main(root: Path, wrapper: Path, nomad: Path) -> None:
    """Run the original's job once and print the figures; all it writes is below `root`."""
    real_qemu = await _prepare(root, wrapper)
    async with (
        _image_server(root) as url,
        nomad_agent(nomad, root, driver="qemu", data_dir=DATA / "nomad") as agent,
    ):
        run = await _run(agent, root, url, real_qemu)
    print(msgspec.json.encode(run).decode())


async def _prepare(root: Path, wrapper: Path) -> Path:
    """Mount and make what the wrapper expects of its host; return the real QEMU."""
    await _call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for target in (DATA, VNC):
        source = root / target.name
        source.mkdir()
        await _call("mount", "--bind", str(source), str(target))
    # QEMU looks for its modules and firmware at the places they have from its own directory.
    real_qemu = root / "usr" / "bin" / _QEMU.name
    real_qemu.parent.mkdir(parents=True)
    real_qemu.touch()
    for name in ("lib", "share"):
        (root / "usr" / name).symlink_to(f"/usr/{name}")
    await _call("mount", "--bind", str(_QEMU), str(real_qemu))
    commands = root / "bin"
    commands.mkdir()
    scripts = {
        "qemu": _QEMU_SCRIPT.format(real=real_qemu),
        "ip": _IP_SCRIPT.format(real=shutil.which("ip")),
        "bridge": "#!/bin/sh\n",
    }
    for name, text in scripts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    shutil.copy(wrapper, commands / wrapper.name)
    (commands / wrapper.name).chmod(0o755)
    await _call("mount", "--bind", str(commands / "qemu"), str(_QEMU))
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"
    await _call("ip", "link", "set", "lo", "up")
    await _call("ip", "link", "add", "br0", "type", "bridge")
    await _call("ip", "link", "set", "br0", "up")
    return real_qemu


async def _call(*argv: str) -> None:
    _ = await command.run(argv)


@asynccontextmanager
async def _image_server(root: Path) -> AsyncGenerator[str]:
    """Give the URL of an empty image, served with an ETag as the wrapper wants."""
    image = root / "image.qcow2"
    await _call("qemu-img", "create", "-q", "-f", "qcow2", str(image), "1G")

    async def serve(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(image)

    app = web.Application()
    app.router.add_get("/image.qcow2", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        # Closed with the site.
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/image.qcow2"
    finally:
        await runner.cleanup()


async def _run(agent: Agent, root: Path, url: str, real_qemu: Path) -> OriginalRun:
    job_file = root / "bench.nomad.hcl"
    text = job_text(
        "bench",
        _CONFIG.format(url=url, ram_mib=_GUEST_RAM_MIB),
        driver="qemu",
        task=_TASK,
        count=_VMS,
        kill_timeout="1s",
        cpu=100,
        memory_mib=_TASK_MEMORY_MIB,
    )
    job_file.write_text(text)
    allocations = DATA / "nomad" / "alloc"

    def made_at() -> list[float]:
        return [path.stat().st_mtime for path in allocations.glob(f"*/{_TASK}/qm.sock")]

    try:
        timed = await time_job(agent, job_file, "bench", made_at, _VMS)
    except JobFailedError as exc:
        words = {log.read_text()[-1500:] for log in allocations.glob("*/alloc/logs/*.stderr.0")}
        raise JobFailedError(f"{exc}; the wrapper said: {' '.join(words)}") from None
    # The last QEMU has only just made its socket.
    await asyncio.sleep(_SETTLE_S)
    started = set(procs.descendants(agent.child.process.pid))
    qemus = {pid for pid in started if identity.command_line(pid)[:1] == [str(real_qemu)]}
    qemu_bytes = sum(
        procs.private_bytes(pid, guest_ram_bytes=_GUEST_RAM_MIB * MIB) for pid in qemus
    )
    helper_bytes = sum(procs.private_bytes(pid) for pid in started - qemus)
    return OriginalRun(
        delays_s=timed.delays_s,
        helpers=len(started - qemus) / _VMS,
        helpers_private_bytes=helper_bytes / _VMS,
        qemu_private_bytes=qemu_bytes / len(qemus),
    )


if __name__ == "__main__":
    try:
        asyncio.run(main(*map(Path, sys.argv[1:])))
    except (JobFailedError, NodeError, OSError) as exc:
        sys.exit(str(exc))
