"""`scripts/setup.sh` where packages cannot be had: a few lines, the last of them ours."""

import os
from pathlib import Path

import pytest
from guests.cache import REPO

from qemu_node.host.process.command import run

pytestmark = [pytest.mark.needs_root]

# Instead of the machine's own: nothing is installed here, and no mirror answers.
_APT = """#!/bin/sh
case " $* " in
    *" update "*) echo "E: Failed to fetch http://mirror.example/InRelease  no name"; exit 100 ;;
esac
for n in $(seq 100); do echo "E: Failed to fetch http://mirror.example/$n.deb  no name"; done
exit 100
"""


async def test_a_setup_without_network_ends_in_a_few_lines_that_say_what_to_look_at(
    tmp_path: Path,
) -> None:
    for name, text in (("apt-get", _APT), ("dpkg", "#!/bin/sh\n"), ("dpkg-query", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = dict(os.environ) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = await run([str(REPO / "scripts" / "setup.sh")], env=env, timeout_s=60, check=False)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert len(lines) < 10
    assert "going on with those that are there" in " ".join(lines)
    assert lines[-1].startswith("setup: apt could not install the packages, see above; check the")
