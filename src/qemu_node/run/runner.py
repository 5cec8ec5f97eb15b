"""A session with what it needs: its directory, the driver's process, signals.

Owns acquiring these and releasing them in reverse order. The driver reads a pipe whose other end
only this process holds: when this process ends, also by SIGKILL, the driver reads the end of file,
stops the VMs that it started, and exits.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.node import NodeConfig
from qemu_node.errors import HostError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.nomad.agent.pluginclient import LogEntry, PluginClient
from qemu_node.nomad.plugin.running import STOP_WITH_PARENT
from qemu_node.run.allocation.allocdir import SessionDir, sweep
from qemu_node.run.allocation.placement import own_cpus, pick_free_ports, place
from qemu_node.run.driverlink import DriverLink
from qemu_node.run.guestwatch import AgentWatch
from qemu_node.run.jobfile.job import Job
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.run.session import Session, SessionOptions, SessionResult
from qemu_node.run.webconsole import WebConsole

log = logging.getLogger(__name__)
driver_log = logging.getLogger("qemu_node.driver")

_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}
_LAST_STOP_S = 60.0
_WAIT_FOR_DRIVER = "waiting for the driver's test guest"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Where and how to run a job."""

    config: NodeConfig
    config_path: Path | None
    """The node.toml that the driver reads too; None: the default one."""
    options: SessionOptions
    has_web_console: bool = False
    """Whether the web console is served meanwhile."""


async def run_job(
    job: Job, settings: RunSettings, on_event: Callable[[RunEvent], None]
) -> SessionResult:
    """Run the VMs of `job` until all have ended or a signal stops them.

    Raises:
        NodeError: no VM could be started; nothing is left behind.
    """
    _announce(job, on_event)
    placements = place(job, free_ports=pick_free_ports, cpus=own_cpus())
    for placement in placements:
        on_event(RunEvent(kind=EventKind.STEP, message=_WAIT_FOR_DRIVER, vm=placement.vm))
    paths = settings.config.paths
    root = Path(paths.data) / "run"
    try:
        for left_over in await asyncio.to_thread(sweep, root, vm_run_dir=paths.vm_run_dir):
            log.info("removed a left-over session", extra={"path": str(left_over)})
        session_dir = SessionDir.create(root)
    except HostError as exc:
        raise HostError(str(exc), hint=exc.hint or paths.data_advice) from exc
    console = WebConsole([placement.vm for placement in placements], on_event)
    try:
        async with _driver(settings.config_path) as driver, TaskOwner("web console") as tasks:
            if settings.has_web_console:
                _ = tasks.start(console.serve(settings.config), name="web console")
            session = Session(
                driver,
                placements,
                session_dir=session_dir.path,
                node_id=str(uuid.uuid4()),
                vm_run_dir=paths.vm_run_dir,
                watch=AgentWatch,
                on_event=console.see,
                options=settings.options,
            )
            with _signals_to(session.request_stop):
                return await session.run()
    finally:
        session_dir.remove()


def _announce(job: Job, on_event: Callable[[RunEvent], None]) -> None:
    for skipped in job.skipped:
        on_event(RunEvent(kind=EventKind.NOTE, message=f"skipped: {skipped}"))
    for note in job.notes:
        on_event(RunEvent(kind=EventKind.NOTE, message=note))


def driver_argv(config_path: Path | None) -> list[str]:
    """Return the driver's command line; it makes its socket before SetConfig names node.toml."""
    named = [] if config_path is None else ["--config", str(config_path.absolute())]
    # -m alone would import from the working directory first, which may be anyone's.
    isolation = "-I" if sys.flags.isolated else "-P"
    return [sys.executable, isolation, "-m", "qemu_node", *named, "driver", STOP_WITH_PARENT]


@contextlib.asynccontextmanager
async def _driver(config_path: Path | None) -> AsyncIterator[DriverLink]:
    """Start the driver's process as an agent does, and end it after the block."""
    reading_end, writing_end = os.pipe()
    try:
        client = await PluginClient.launch(
            driver_argv(config_path),
            env=os.environ,  # an agent passes on its own, too
            stdin_fd=reading_end,
            on_log=_log_driver,
        )
    except BaseException:
        os.close(writing_end)
        raise
    finally:
        os.close(reading_end)
    try:
        yield DriverLink(client.base, client.driver, config_path=config_path)
    except BaseException:
        # No VM may outlive the session: when the pipe is closed, the driver stops all VMs.
        os.close(writing_end)
        writing_end = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_STOP_S):
                await client.wait_ended()
        raise
    finally:
        await client.shutdown()
        if writing_end >= 0:
            os.close(writing_end)


def _log_driver(entry: LogEntry) -> None:
    level = _LEVELS.get(str(entry.get("@level", "")), logging.DEBUG)
    fields = {key: value for key, value in entry.items() if not key.startswith("@")}
    driver_log.log(level, "%s %s", entry.get("@message", ""), fields or "")


@contextlib.contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    """Inside the block, call `stop` for every signal that asks this process to end."""
    loop = asyncio.get_running_loop()
    for signum in _SIGNALS:
        loop.add_signal_handler(signum, stop)
    try:
        yield
    finally:
        for signum in _SIGNALS:
            loop.remove_signal_handler(signum)
