"""Fixtures of the guests that tests boot, and what is kept of a test that failed.

Owns when a guest is built: once, for all test processes of this machine. Does not own how.
"""

import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest
from guests import cache, debian, small
from guests.testvm import TestVM

from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import ProcessError

_T = TypeVar("_T")
_KEPT_PATTERNS = ("*.log", "*.log.*", "*.stderr*", "*.stdout*", "argv*", "vm.json", "output.txt")
_KEPT_MAX_BYTES = 4 << 20


@pytest.fixture(scope="session")
def small_guest_image() -> Path:
    """Return the qcow2 image of the small guest; see `guests.small`."""
    return built(lambda: small.build(cache.cache_dir()))


@pytest.fixture(scope="session")
def debian_guest_image() -> Path:
    """Return the qcow2 image that `make demo` boots."""
    return built(debian.build)


@pytest.fixture(scope="session")
def test_vm() -> TestVM:
    """Return the VM with Debian's kernel, systemd and cgroup v2; see `guests.testvm`."""
    uv = shutil.which("uv", path=f"{cache.REPO}/.tools/bin:{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("uv is not installed (make setup)")
    return built(lambda: TestVM.prepare(cache.cache_dir(), uv))


def built(build: Callable[[], _T]) -> _T:
    """Return what `build` makes; skip where this machine cannot build it, fail in CI."""
    try:
        return build()
    except (MissingPartError, ProcessError) as exc:
        reason = f"cannot build what the test needs: {exc}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Copy the logs of a failed test to the cache directory and say where they are."""
    report = yield
    funcargs: dict[str, object] = getattr(item, "funcargs", {})
    if report.when != "setup" and report.failed:
        kept = cache.cache_dir() / "failures" / re.sub(r"[^\w.-]+", "_", item.nodeid)[-120:]
        directories = {value for value in funcargs.values() if isinstance(value, Path)}
        if _keep(sorted(path for path in directories if path.is_dir()), kept):
            report.sections.append(("logs kept", str(kept)))
    return report


def _keep(directories: list[Path], kept: Path) -> int:
    """Copy the ends of logs below `directories` into `kept`, flat; return how many."""
    sources = {
        path
        for directory in directories
        for pattern in _KEPT_PATTERNS
        for path in directory.rglob(pattern)
        if path.is_file() and not path.is_symlink()
    }
    if sources:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
    for number, source in enumerate(sorted(sources)):
        (kept / f"{number:02}-{source.name}").write_bytes(_end_of(source))
    return len(sources)


def _end_of(path: Path) -> bytes:
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _KEPT_MAX_BYTES))
        # A serial log begins with a hole of terabytes.
        return log.read(_KEPT_MAX_BYTES).lstrip(b"\0")
