import json
from pathlib import Path

from qemu_node.run.jobfile.reader import JobSource, load_job

JOB = {
    "ID": "web",
    "TaskGroups": [
        {"Name": "web", "Tasks": [{"Name": "vm", "Driver": "vm", "Config": {"image": "x"}}]}
    ],
}


def test_a_json_job_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    path.write_text(json.dumps(JOB), encoding="utf-8-sig")
    job = load_job(JobSource(path=path, env={}))
    assert [group.name for group in job.groups] == ["web"]
