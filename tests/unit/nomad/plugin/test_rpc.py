import os
from pathlib import Path

import pytest

from qemu_node.nomad.plugin.rpc import methods_of, unix_target
from qemu_node.nomad.plugin.service import DriverService
from qemu_node.nomad.proto import driver_pb2

_DRIVER = driver_pb2.DESCRIPTOR.services_by_name["Driver"]


def test_every_rpc_of_the_driver_has_a_method_in_the_interface() -> None:
    names = {method.python_name for method in methods_of(_DRIVER).values()}
    own = {name for name in vars(DriverService) if not name.startswith("_")}
    assert own == names


def test_method_knows_its_path_messages_and_directions() -> None:
    method = methods_of(_DRIVER)["ExecTaskStreaming"]
    assert method.path == "/hashicorp.nomad.plugins.drivers.proto.Driver/ExecTaskStreaming"
    assert method.python_name == "exec_task_streaming"
    assert method.request is driver_pb2.ExecTaskStreamingRequest
    assert method.is_client_streaming
    assert method.is_server_streaming


def test_fork_support_of_grpc_is_off() -> None:
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/run/qemu-node/plugin/1/plugin.sock", "unix:/run/qemu-node/plugin/1/plugin.sock"),
        ("/run/a b%c/s", "unix:/run/a%20b%25c/s"),
    ],
)
def test_socket_path_is_escaped_as_a_uri(path: str, target: str) -> None:
    assert unix_target(Path(path)) == target
