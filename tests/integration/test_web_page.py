"""What docs/api.md tells to type works as it stands there."""

import os
import re
import shutil
from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import running_api

from qemu_node.config.node import Paths
from qemu_node.host.process import command

_PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("jq") is None, reason="curl or jq is missing"
)
async def test_the_session_of_the_page_is_as_it_says(short_tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    record = make_record(paths)
    directory = publish(paths, record)
    logs = Path(record.alloc_dir) / "alloc" / "logs"
    logs.mkdir(parents=True)
    (logs / "web.stdout.0").write_text("first\n" + "last\n" * 10)
    async with (
        FakeQmp(directory.socket("console"), replies={"system_reset": {}}),
        FakeQga(directory.socket("qga")),
        running_api(paths) as api,
    ):
        api.guard.needed_token = "token"
        console = str(api.client.make_url("")).rstrip("/")
        env = dict(os.environ) | {"CONSOLE": console, "NOMAD_TOKEN": "token", "NO_PROXY": "*"}
        done = await command.run(["sh", "-eu", "-c", script], env=env, timeout_s=60)
    printed = done.stdout.decode()
    assert printed.startswith(f"{VM_ID}\tshop\tunmanaged\t127.0.0.1:20080 → 80\n")
    for text in (
        '"running"',
        '"power"',
        "Debian GNU/Linux 13",
        "\nlast\n",
        "it boots again",
        "event: session",
        "event: snapshot",
    ):
        assert text in printed
    assert "first" not in printed
