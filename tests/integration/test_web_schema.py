"""The API against its own document: what a client of the document could send, and is answered."""

import os
import sys
from pathlib import Path

import pytest
from fakes.fake_qga import FakeProgram, FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import running_api

from qemu_node.config.node import Paths
from qemu_node.host.process import command

pytestmark = pytest.mark.timeout(900)

_REPLIES: dict[str, object] = {
    "guest-get-fsinfo": [{"mountpoint": "/", "name": "sda1", "type": "ext4"}],
    "guest-get-users": [{"user": "anna", "login-time": 1.5}],
    "guest-get-load": {"load1m": 0.5, "load5m": 1, "load15m": 2},
}


async def test_no_request_that_a_client_can_make_up_is_answered_against_the_document(
    short_tmp_path: Path,
) -> None:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    record = make_record(paths)
    directory = publish(paths, record)
    (Path(record.alloc_dir) / "alloc" / "logs").mkdir(parents=True)
    programs = {"true": FakeProgram()}
    async with (
        FakeQmp(directory.socket("console"), replies={"system_reset": {}}, obeys_powerdown=False),
        FakeQga(directory.socket("qga"), replies=_REPLIES, programs=programs),
        running_api(paths) as api,
    ):
        api.guard.needed_token = "token"
        url = str(api.client.make_url("/api/v1/openapi.json"))
        config = short_tmp_path / "schemathesis.toml"
        # A stream of events does not end, and a stop would end this process, which plays QEMU.
        config.write_text(
            f"""
            [parameters]
            vm_id = "{VM_ID}"
            [checks.negative_data_rejection]
            # 413: a body larger than any request needs is not read to its end.
            expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422]
            [[operations]]
            include-path = "/api/v1/events"
            enabled = false
            [[operations]]
            include-path = "/api/v1/vms/{{vm_id}}/stop"
            enabled = false
            """
        )
        # fmt: off
        argv = [
            # It leaves a cache where it runs.
            "env", "--chdir", str(short_tmp_path),
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", url,
            "--generation-database", "none",
            "--checks", "all", "--max-examples", "15", "--seed", "1", "--workers", "1",
            "--request-timeout", "30", "--no-color", "--header", "X-Nomad-Token: token",
        ]
        # fmt: on
        done = await command.run(
            argv, timeout_s=800, check=False, env=dict(os.environ) | {"TMPDIR": str(short_tmp_path)}
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        # Without the stream, the stop, and the document, which it does not ask for twice.
        tested = len(api.routes) - 3
        assert f"Tested: {tested}" in done.stdout.decode()
