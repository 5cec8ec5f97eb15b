import importlib.util
from pathlib import Path
from types import ModuleType

from qemu_node.nomad.proto import base_pb2, driver_pb2, goplugin_pb2, health_pb2, structs_pb2

_REPOSITORY = Path(__file__).resolve().parents[3]


def _tool() -> ModuleType:
    path = _REPOSITORY / "tools" / "regenerate_proto.py"
    spec = importlib.util.spec_from_file_location("regenerate_proto", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_modules_are_what_the_proto_files_give() -> None:
    assert _tool().differences() == []


def test_service_names_are_the_paths_that_an_agent_calls() -> None:
    services = [
        service.full_name
        for file in (base_pb2, driver_pb2, goplugin_pb2, health_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    ]
    assert sorted(services) == [
        "grpc.health.v1.Health",
        "hashicorp.nomad.plugins.base.proto.BasePlugin",
        "hashicorp.nomad.plugins.drivers.proto.Driver",
        "plugin.GRPCBroker",
        "plugin.GRPCController",
        "plugin.GRPCStdio",
    ]


def test_recoverable_error_has_the_name_that_go_resolves() -> None:
    name = structs_pb2.RecoverableError.DESCRIPTOR.full_name
    assert name == "hashicorp.nomad.plugins.shared.structs.RecoverableError"


def test_disabled_log_collection_is_field_eight() -> None:
    capabilities = driver_pb2.DriverCapabilities(disable_log_collection=True)
    assert capabilities.SerializeToString() == bytes([8 << 3, 1])


def test_fields_of_a_newer_agent_survive_a_handle_s_round_trip() -> None:
    unknown = bytes([0b11111_010, 0x1F, 2]) + b"hi"
    config = driver_pb2.TaskConfig.FromString(b"\x0a\x01a" + unknown)
    assert driver_pb2.TaskConfig.FromString(config.SerializeToString()).id == "a"
    assert unknown in config.SerializeToString()
