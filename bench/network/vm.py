"""`python -m bench.network.vm`: runs `bench.network.inside` in the tests' VM; prints its output.

For machines whose own kernel filters no VLANs on bridges. The VM has Debian's kernel, under TCG:
its times are long, and what counts are ratios within the run.
"""

import sys
import tempfile
from pathlib import Path

from guests import cache
from guests.testvm import TestVM

from qemu_node.errors import NodeError

_SOURCES = ("src", "tests", "bench", "pyproject.toml")
_COMMAND = """
PYTHONPATH="$PYTHONPATH:/test/tests" python3 -m bench.network.inside >/results/network.json
"""
_TIMEOUT_S = 540.0


def main() -> None:
    """Run the VM once."""
    uv = str(cache.REPO / ".tools" / "bin" / "uv")
    vm = TestVM.prepare(cache.cache_dir(), uv)
    files = {name: cache.REPO / name for name in _SOURCES}
    with tempfile.TemporaryDirectory(prefix="qn-bench-") as work:
        # An attach is the work of two threads, which one thread for both CPUs would slow down.
        outcome = vm.run(_COMMAND, files, Path(work), timeout_s=_TIMEOUT_S, threads="multi")
        if outcome.exit_code != 0:
            sys.exit(f"in the VM: {outcome.output.strip()}")
        print((outcome.results / "network.json").read_text())


if __name__ == "__main__":
    try:
        main()
    except (NodeError, OSError, AssertionError) as exc:
        sys.exit(str(exc))
