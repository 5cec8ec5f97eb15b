import importlib

import pytest


@pytest.mark.parametrize(
    ("earlier", "now", "name"),
    [
        ("run.jobapi", "run.jobfile.job", "job_from_api"),
        ("run.jobfile_hcl", "run.jobfile.builtin", "parse_hcl_job"),
        ("images.configdrive", "configdrive.content", "complete"),
    ],
)
def test_scripts_that_use_an_earlier_name_go_on_working(earlier: str, now: str, name: str) -> None:
    modules = [importlib.import_module(f"qemu_node.{module}") for module in (earlier, now)]
    assert getattr(modules[0], name) is getattr(modules[1], name)
