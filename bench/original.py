"""The project this one replaces, measured side by side: its wrapper under Nomad's `qemu` driver.

Owns what is asked of it and the figures; `apart` runs it, in namespaces of its own. There are no
goals here: the figures are what others are compared with.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.apart import DATA, VNC, OriginalRun
from bench.rig.node import CannotRunError
from bench.setting import OriginalFigures, Setting
from bench.table import Figure
from qemu_node.host.process import command
from qemu_node.units import MIB

NAME = "original"

WRAPPER = Path("scripts") / "qemu-system-custom"
_TIMEOUT_S = 300.0

_TOOLS = ("bash", "curl", "flock", "hexdump", "ip", "mount", "qemu-img", "unshare")
"""What the wrapper and its namespaces need of the machine."""

_FIRMWARE = (
    Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
    Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
)
"""Files that the wrapper names."""


async def measure(setting: Setting) -> list[Figure]:
    """Return the original's figures and leave them to the benches that follow.

    Raises:
        CannotRunError: no checkout, or something it needs is missing.
        ProcessError: it did not run; its last words are in the message.
    """
    directory = setting.original_dir
    if directory is None:
        raise CannotRunError("no checkout of the original; name one: --original DIR")
    wrapper = directory.resolve() / WRAPPER
    if not wrapper.is_file():
        raise CannotRunError(f"{directory} holds no {WRAPPER}")
    nomad = setting.require_nomad()
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    missing += [str(path) for path in _FIRMWARE if not path.exists()]
    if missing:
        raise CannotRunError(f"the original needs {', '.join(missing)}")
    with _directories() as root:
        # fmt: off
        done = await command.run(
            [
                "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                "--", sys.executable, "-m", "bench.apart", str(root), str(wrapper), str(nomad),
            ],
            env=os.environ,
            timeout_s=_TIMEOUT_S,
        )
        # fmt: on
    run = msgspec.json.decode(done.stdout, type=OriginalRun)
    setting.original = OriginalFigures(
        helpers_private_bytes=run.helpers_private_bytes,
        qemu_private_bytes=run.qemu_private_bytes,
        origin="measured in this run",
    )
    return _figures(run)


@contextmanager
def _directories() -> Generator[Path]:
    """Give a directory to mount on, with those that the wrapper names; all as before in the end."""
    made = [path for path in (DATA, VNC) if not path.exists()]
    with tempfile.TemporaryDirectory(prefix="qn-original-") as root:
        for path in made:
            path.mkdir()
        try:
            yield Path(root)
        finally:
            for path in made:
                path.rmdir()


def _figures(run: OriginalRun) -> list[Figure]:
    def figure(what: str, unit: str, value: float) -> Figure:
        return Figure(bench=NAME, what=what, unit=unit, samples=(value,))

    first_s, last_s = min(run.delays_s), max(run.delays_s)
    return [
        figure("`nomad job run` to the first VM's monitor", "s", first_s),
        figure(f"… to the monitor of the last of {len(run.delays_s)}", "s", last_s),
        figure("last / first", "", last_s / first_s),
        figure("processes a VM beside QEMU", "", run.helpers),
        figure("private memory of a VM's helpers", "MiB", run.helpers_private_bytes / MIB),
        figure("private memory of its QEMU", "MiB", run.qemu_private_bytes / MIB),
    ]
