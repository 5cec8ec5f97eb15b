"""Which VMs of this node have changed, as the kernel reports it.

Owns the watches on the run directory, on vm.json and on usage.json. Does not own what is in them.

The daemon may enter a VM's run directory and not list it (`VMDirectory`), so the two files
themselves are watched, each until its first change: the driver replaces them. A file that is not
there yet is looked for again and again; that is the case while a VM starts. A QEMU that its guest
has taken over may put files there, and costs at most one look a second.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from qemu_node.config.node import Paths
from qemu_node.host.inotify import Change, Inotify, Mask
from qemu_node.vm.names import VM_ID
from qemu_node.vm.record.directory import VMDirectory

log = logging.getLogger(__name__)

_DIRECTORY = (
    Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.ONLYDIR
)
_FILE = (
    Mask.ATTRIB
    | Mask.CLOSE_WRITE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.DONT_FOLLOW
    | Mask.ONESHOT
)
_SOON_S = 0.05
"""Changes that belong together, as those of a start, are told once."""
_PAUSE_S = 1.0
"""Between two looks at one VM."""
_POLL_S = 0.5
_SLOW_POLL_S = 10.0
"""For usage.json, which a driver writes every 20 s, and for what cannot be watched."""

_POLLED = -1


class Follower:
    """Tells which VMs have changed: appeared, written a file, or gone."""

    def __init__(self, paths: Paths, on_change: Callable[[str], None]) -> None:
        """Call `on_change` with the vm_id of each that changes, soon after, and maybe too often.

        Raises:
            OSError: the kernel gives us no inotify.
        """
        self._paths = paths
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._inotify = Inotify(self._take)
        self._root: int | None = None
        self._owners: dict[int, tuple[str, str]] = {}
        """Watch → vm_id and file."""
        self._watched: dict[str, dict[str, int]] = {}
        """vm_id → file → its watch, `_POLLED` if it cannot be watched; all VMs that there are."""
        self._files: dict[str, tuple[Path, Path]] = {}
        """vm_id → the two files: paths take longer to make than to look at."""
        self._due: dict[str, asyncio.TimerHandle] = {}
        self._last: dict[str, float] = {}
        self._failed: set[str] = set()
        """Those of whom the last change could not be told."""

    def known(self) -> set[str]:
        """Return the VMs that have a run directory."""
        return set(self._watched)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        slow_at = 0.0
        while True:
            if self._root is None:
                self._begin()
            now = self._loop.time()
            if is_slow := now >= slow_at:
                slow_at = now + _SLOW_POLL_S
            for vm_id, files in list(self._watched.items()):
                is_done = _is_complete(files) and vm_id not in self._failed
                if "vm.json" not in files or (is_slow and not is_done):
                    self._look(vm_id)
            await asyncio.sleep(_POLL_S)

    async def begin(self) -> None:
        """Watch what is there now; each VM is told before this returns."""
        for vm_id in self._find():
            self._look(vm_id)
            # There may be hundreds.
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop. Idempotent."""
        self._inotify.close()
        for handle in self._due.values():
            handle.cancel()
        self._due.clear()

    # The run directory

    def _begin(self) -> None:
        """Watch the run directory, if it is there, and look at all VMs."""
        for vm_id in self._find():
            self._look(vm_id)

    def _find(self) -> set[str]:
        """Watch the run directory and return what is in it; what is not there any more is told."""
        directory = self._paths.vm_run_dir
        try:
            self._root = self._inotify.watch(directory, _DIRECTORY)
            names = [entry.name for entry in directory.iterdir()]
        except OSError as exc:
            # Before the first VM of a boot there is none.
            log.debug("run directory not watched", extra={"error": str(exc)})
            self._root, names = None, []
        found = {name for name in names if VM_ID.fullmatch(name)}
        for vm_id in self._watched.keys() - found:
            self._forget(vm_id)
        return found

    def _take(self, change: Change) -> None:
        if change.mask & Mask.Q_OVERFLOW:
            self._begin()
        elif change.watch == self._root:
            if change.mask & (Mask.DELETE_SELF | Mask.IGNORED):
                self._root = None
                self._begin()
            elif VM_ID.fullmatch(change.name):
                if change.mask & (Mask.DELETE | Mask.MOVED_FROM):
                    self._forget(change.name)
                else:
                    self._look(change.name)
        elif (owner := self._owners.pop(change.watch, None)) is not None:
            vm_id, name = owner
            if vm_id in self._watched:
                self._watched[vm_id].pop(name, None)
                self._look_soon(vm_id)

    # One VM

    def _look_soon(self, vm_id: str) -> None:
        if vm_id in self._due:
            return
        next_s = self._last.get(vm_id, -_PAUSE_S) + _PAUSE_S - self._loop.time()
        self._due[vm_id] = self._loop.call_later(max(next_s, _SOON_S), self._look, vm_id)

    def _look(self, vm_id: str) -> None:
        """Watch a VM's files, then tell that it may have changed; it may be new."""
        if handle := self._due.pop(vm_id, None):
            handle.cancel()
        self._last[vm_id] = self._loop.time()
        is_new = vm_id not in self._watched
        watched = self._watched.setdefault(vm_id, {})
        before = len(watched)
        if is_new:
            directory = VMDirectory.of(self._paths, vm_id)
            self._files[vm_id] = (directory.vm_json, directory.usage_json)
        for path in self._files[vm_id]:
            if watched.get(path.name, _POLLED) != _POLLED:
                continue
            try:
                watch = watched[path.name] = self._inotify.watch(path, _FILE)
            except FileNotFoundError:
                watched.pop(path.name, None)
            except OSError as exc:
                log.debug("file not watched", extra={"error": str(exc)})
                watched[path.name] = _POLLED
            else:
                self._owners[watch] = (vm_id, path.name)
        is_other = is_new or len(watched) != before
        is_unsure = _POLLED in watched.values() or vm_id in self._failed
        if is_other or is_unsure or "vm.json" not in watched:
            self._tell(vm_id)

    def _forget(self, vm_id: str) -> None:
        for watch in self._watched.pop(vm_id, {}).values():
            if self._owners.pop(watch, None) is not None:
                self._inotify.unwatch(watch)
        if handle := self._due.pop(vm_id, None):
            handle.cancel()
        self._last.pop(vm_id, None)
        self._files.pop(vm_id, None)
        self._tell(vm_id)
        self._failed.discard(vm_id)

    def _tell(self, vm_id: str) -> None:
        """Tell of a change; one that could not be looked at is told again later.

        An error that left this would end `run`, and new VMs would never be noticed.
        """
        self._failed.discard(vm_id)
        try:
            self._on_change(vm_id)
        except OSError as exc:
            # No descriptor is free, for example.
            self._failed.add(vm_id)
            log.warning("VM not looked at", extra={"vm_id": vm_id, "error": str(exc)})
        except Exception:
            self._failed.add(vm_id)
            log.exception("VM not looked at", extra={"vm_id": vm_id})


def _is_complete(files: dict[str, int]) -> bool:
    return "usage.json" in files and _POLLED not in files.values()
