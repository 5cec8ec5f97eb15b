"""The plugin process seen from the agent's side: handshake, calls, signals, ends."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_plugin
from fakes.fake_plugin import FakeBase, FakeDriver

import qemu_node
from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.process import command, identity, pidfd
from qemu_node.nomad.agent.calls import GoPluginCalls, driver_calls
from qemu_node.nomad.agent.pluginclient import LogEntry, PluginClient
from qemu_node.nomad.plugin import running
from qemu_node.nomad.plugin.grpcstatus import PluginError
from qemu_node.nomad.plugin.rpc import CHANNEL_OPTIONS, grpc, methods_of, unix_target
from qemu_node.nomad.plugin.server import PluginServer
from qemu_node.nomad.proto import base_pb2, driver_pb2, goplugin_pb2

_DEADLINE_S = 60.0
_SRC = str(Path(qemu_node.__file__).parents[1])


def _argv(run_dir: Path, mode: str = "serve") -> list[str]:
    return [sys.executable, str(fake_plugin.__file__), str(run_dir), mode]


async def _launch(
    run_dir: Path,
    mode: str = "serve",
    *,
    on_log: Callable[[LogEntry], None] | None = None,
    timeout_s: float = _DEADLINE_S,
) -> PluginClient:
    env = dict(command.SAFE_ENV) | {"PYTHONPATH": _SRC}
    return await PluginClient.launch(
        _argv(run_dir, mode), env=env, on_log=on_log, timeout_s=timeout_s
    )


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.02)


def _open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def _failure(call: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        await call
    return caught.value


def _start(job_name: str = "", task_id: str = "t") -> driver_pb2.StartTaskRequest:
    return driver_pb2.StartTaskRequest(task=driver_pb2.TaskConfig(id=task_id, job_name=job_name))


@pytest.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[PluginClient]:
    async with await _launch(tmp_path) as client:
        yield client


@contextlib.asynccontextmanager
async def _served(
    driver: FakeDriver, tmp_path: Path
) -> AsyncIterator[tuple[PluginServer, grpc.aio.Channel]]:
    """Serve `driver` in this process and give a channel to it."""
    server = PluginServer(FakeBase(), driver, on_shutdown=lambda: None)
    socket = tmp_path / "plugin.sock"
    await server.start(socket)
    async with grpc.aio.insecure_channel(unix_target(socket), options=CHANNEL_OPTIONS) as channel:
        try:
            yield server, channel
        finally:
            await server.stop()


# The process


async def test_plugin_shakes_hands_answers_and_ends_when_asked(tmp_path: Path) -> None:
    client = await _launch(tmp_path)
    info = await client.base.plugin_info(base_pb2.PluginInfoRequest())
    assert (info.name, info.type) == ("vm", base_pb2.DRIVER)
    # Not killed, as go-plugin does after 2 s; without an answer each start of an agent costs that.
    assert await client.shutdown() == 0
    assert list((tmp_path / "plugin").iterdir()) == []


async def test_socket_directory_is_ours_alone(plugin: PluginClient, tmp_path: Path) -> None:
    directory = tmp_path / "plugin" / str(plugin.process.pid)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "plugin.sock").is_socket()


async def test_run_directory_may_hold_what_a_uri_cannot(tmp_path: Path) -> None:
    run_dir = tmp_path / "a b%20ü"
    run_dir.mkdir()
    async with await _launch(run_dir) as client:
        await client.driver.init(driver_pb2.InitRequest())


async def test_a_plugin_that_cannot_make_its_run_directory_listens_elsewhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for impossible in (tmp_path / "file" / "run", tmp_path / ("x" * 100), Path("/proc/nowhere")):
        async with await _launch(impossible) as client:
            info = await client.base.plugin_info(base_pb2.PluginInfoRequest())
            assert info.name == "vm"
            assert await client.shutdown() == 0


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    ("node_toml", "said"),
    [
        (
            '[paths]\nrun = "{file}/run"\ndata = "{root}/d"\n',
            "cannot make {file}/run: something else is there",
        ),
        (
            '[paths]\nrun = "{root}/r"\ndata = "{file}/data"\n',
            "cannot make {file}/data: something else is there",
        ),
        ("paths = 5\n", "paths"),
        ("[", "is not TOML"),
        (None, "no such file"),
    ],
)
async def test_a_node_toml_that_is_wrong_in_any_way_is_told_in_the_health_of_a_plugin_that_runs(
    short_tmp_path: Path, node_toml: str | None, said: str
) -> None:
    names = {"root": str(short_tmp_path), "file": str(short_tmp_path / "file")}
    (short_tmp_path / "file").touch()
    path = short_tmp_path / "node.toml"
    if node_toml is not None:
        path.write_text(node_toml.format_map(names))
    argv = [sys.executable, "-m", "qemu_node", "--config", str(path), "driver"]
    env = dict(command.SAFE_ENV) | {"PYTHONPATH": _SRC}
    async with await PluginClient.launch(argv, env=env, timeout_s=_DEADLINE_S) as client:
        await client.driver.init(driver_pb2.InitRequest())
        stream = client.driver.fingerprint(driver_pb2.FingerprintRequest())
        async with asyncio.timeout(_DEADLINE_S):
            health = await anext(aiter(stream))
        assert health.health == driver_pb2.FingerprintResponse.UNHEALTHY
        assert said.format_map(names) in health.health_description
        assert await client.shutdown() == 0


async def test_sigterm_ends_the_plugin_cleanly(tmp_path: Path) -> None:
    async with await _launch(tmp_path) as client:
        pidfd.send_signal(client.process, signal.SIGTERM)
        assert await asyncio.wait_for(client.wait_ended(), _DEADLINE_S) == 0
    assert list((tmp_path / "plugin").iterdir()) == []


async def test_sigint_is_ignored(plugin: PluginClient) -> None:
    for _ in range(3):
        pidfd.send_signal(plugin.process, signal.SIGINT)
    await plugin.driver.init(driver_pb2.InitRequest())
    assert identity.is_alive(plugin.process)


async def test_next_plugin_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    async with await _launch(tmp_path) as client:
        pidfd.send_signal(client.process, signal.SIGKILL)
        assert await asyncio.wait_for(client.wait_ended(), _DEADLINE_S) == -signal.SIGKILL
    dead = tmp_path / "plugin" / str(client.process.pid)
    assert dead.exists()
    async with await _launch(tmp_path):
        assert not dead.exists()


async def test_open_call_ends_unavailable_when_the_plugin_dies(plugin: PluginClient) -> None:
    # Nomad takes UNAVAILABLE of a dead plugin for a reason to recover, others for the task's end.
    await plugin.driver.start_task(_start())
    wait = plugin.driver.wait_task(driver_pb2.WaitTaskRequest(task_id="t"))
    async with asyncio.TaskGroup() as group:
        failure = group.create_task(_failure(wait))
        await plugin.driver.init(driver_pb2.InitRequest())
        pidfd.send_signal(plugin.process, signal.SIGKILL)
    assert failure.result().code is grpc.StatusCode.UNAVAILABLE


async def test_stubborn_plugin_is_killed(tmp_path: Path) -> None:
    client = await _launch(tmp_path, "stubborn")
    assert await client.shutdown() == -signal.SIGKILL
    assert await client.shutdown() == -signal.SIGKILL


async def test_stray_output_of_a_library_goes_to_the_log(tmp_path: Path) -> None:
    entries: list[LogEntry] = []
    async with await _launch(tmp_path, "chatty", on_log=entries.append) as client:
        await client.driver.init(driver_pb2.InitRequest())
    assert {"@level": "debug", "@message": "stray line"} in entries


async def test_log_lines_reach_the_caller_with_their_fields(tmp_path: Path) -> None:
    entries: list[LogEntry] = []
    async with await _launch(tmp_path, on_log=entries.append):
        pass
    serving = next(entry for entry in entries if entry["@message"] == "plugin is serving")
    assert serving["@level"] == "info"
    assert serving["socket"].endswith("/plugin.sock")


async def test_plugin_outlives_a_reader_of_its_log(tmp_path: Path) -> None:
    client = await _launch(tmp_path)
    client._stderr.close()
    for _ in range(20):
        await _failure(client.driver.start_task(_start("fault")))
    await client.driver.init(driver_pb2.InitRequest())
    assert await client.shutdown() == 0


async def test_plugin_does_not_wait_for_a_reader_of_its_log(tmp_path: Path) -> None:
    client = await _launch(tmp_path)
    asyncio.get_running_loop().remove_reader(client._stderr._fd)
    async with asyncio.timeout(_DEADLINE_S):
        for _ in range(200):  # each logs a traceback: far more than a pipe holds
            await _failure(client.driver.start_task(_start("fault")))
    assert await client.shutdown() == 0


async def test_call_after_the_end_fails_like_one_to_a_dead_plugin(tmp_path: Path) -> None:
    client = await _launch(tmp_path)
    await client.shutdown()
    error = await _failure(client.driver.init(driver_pb2.InitRequest()))
    assert error.code is grpc.StatusCode.UNAVAILABLE


# Plugins that do not come up


async def test_program_started_by_hand_exits_1_with_a_hint(tmp_path: Path) -> None:
    env = dict(command.SAFE_ENV) | {"PYTHONPATH": _SRC}
    done = await command.run(_argv(tmp_path), env=env, check=False)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"qemu-node run" in done.stderr


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("exit", r"exit code 4: cannot go on"),
        ("garbage", r"not a handshake line: 'hello'"),
        ("tls", r"wants TLS"),
    ],
)
async def test_plugin_without_a_handshake_is_ended_with_its_last_words(
    tmp_path: Path, mode: str, message: str
) -> None:
    with pytest.raises(NodeError, match=message):
        await _launch(tmp_path, mode)


async def test_silent_plugin_is_given_up_in_time(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"no answer within 0\.5 s"):
        await _launch(tmp_path, "silent", timeout_s=0.5)


async def test_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    before = _open_descriptors()
    with pytest.raises(MissingPartError, match="no-such-program"):
        await PluginClient.launch([str(tmp_path / "no-such-program")], env={})
    assert _open_descriptors() <= before


# Errors


@pytest.mark.parametrize(
    ("job_name", "code", "recoverable", "text"),
    [
        ("job", grpc.StatusCode.FAILED_PRECONDITION, False, "vm: the image is missing (name one)"),
        ("host", grpc.StatusCode.FAILED_PRECONDITION, True, "vm: disk full éé"),
        ("fault", grpc.StatusCode.INTERNAL, None, "vm: internal error"),
    ],
)
async def test_error_of_the_driver_arrives_with_its_kind(
    plugin: PluginClient,
    job_name: str,
    code: grpc.StatusCode,
    recoverable: bool | None,
    text: str,
) -> None:
    error = await _failure(plugin.driver.start_task(_start(job_name)))
    assert (error.code, error.recoverable) == (code, recoverable)
    assert error.text.startswith(text)


async def test_unknown_task_is_not_found_in_nomad_s_words(plugin: PluginClient) -> None:
    error = await _failure(plugin.driver.wait_task(driver_pb2.WaitTaskRequest(task_id="no")))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.text == "task not found for given id"


@pytest.mark.parametrize("method", ["signal_task", "create_network", "destroy_network"])
async def test_calls_beyond_the_capabilities_are_unimplemented(
    plugin: PluginClient, method: str
) -> None:
    requests: dict[str, Any] = {
        "signal_task": driver_pb2.SignalTaskRequest(),
        "create_network": driver_pb2.CreateNetworkRequest(),
        "destroy_network": driver_pb2.DestroyNetworkRequest(),
    }
    error = await _failure(getattr(plugin.driver, method)(requests[method]))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED


async def test_rpc_of_a_newer_agent_is_unimplemented(tmp_path: Path) -> None:
    async with _served(FakeDriver(), tmp_path) as (_, channel):
        call: Any = channel.unary_unary("/hashicorp.nomad.plugins.drivers.proto.Driver/Hibernate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stream_that_fails_gives_first_what_it_had(plugin: PluginClient) -> None:
    stream = plugin.driver.task_stats(driver_pb2.TaskStatsRequest(task_id="t"))
    assert (await anext(stream)).stats.id == "t"
    with pytest.raises(PluginError, match="vm: no more"):
        await anext(stream)


# Calls


async def test_hundreds_of_waits_do_not_hold_up_other_calls(tmp_path: Path) -> None:
    driver = FakeDriver()
    async with _served(driver, tmp_path) as (_, channel):
        calls = driver_calls(channel)
        await calls.start_task(_start())
        request = driver_pb2.WaitTaskRequest(task_id="t")
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(calls.wait_task(request)) for _ in range(300)]
            await _until(lambda: driver.waiting == 300)
            async with asyncio.timeout(10):
                await calls.init(driver_pb2.InitRequest())
            assert not any(wait.done() for wait in waits)
            await calls.stop_task(driver_pb2.StopTaskRequest(task_id="t"))
        assert {wait.result().result.exit_code for wait in waits} == {3}


async def test_call_that_is_given_up_is_cancelled_in_the_driver(tmp_path: Path) -> None:
    driver = FakeDriver()
    async with _served(driver, tmp_path) as (_, channel):
        calls = driver_calls(channel)
        await calls.start_task(_start())
        waiting = asyncio.ensure_future(calls.wait_task(driver_pb2.WaitTaskRequest(task_id="t")))
        await _until(lambda: driver.waiting == 1)
        waiting.cancel()
        await _until(lambda: driver.waiting == 0)


async def test_stream_that_is_given_up_is_closed_in_the_driver(tmp_path: Path) -> None:
    driver = FakeDriver()
    async with _served(driver, tmp_path) as (_, channel):
        stream = driver_calls(channel).fingerprint(driver_pb2.FingerprintRequest())
        reply = await anext(stream)
        assert reply.health == driver_pb2.FingerprintResponse.HEALTHY
        assert reply.attributes["driver.vm"].bool_val
        await stream.aclose()  # type: ignore[attr-defined]
        await _until(lambda: driver.closed_streams == ["fingerprint"])


async def test_stopping_the_server_lets_calls_undo_what_they_began(tmp_path: Path) -> None:
    driver = FakeDriver(undo_s=0.1)
    async with _served(driver, tmp_path) as (server, channel):
        calls = driver_calls(channel)
        async with asyncio.TaskGroup() as group:
            failure = group.create_task(_failure(calls.start_task(_start("slow", "s"))))
            await calls.init(driver_pb2.InitRequest())
            await server.stop()
            assert driver.undone == ["s"]
        assert failure.result().code is grpc.StatusCode.UNAVAILABLE


async def test_message_of_many_megabytes_passes(tmp_path: Path) -> None:
    async with _served(FakeDriver(), tmp_path) as (_, channel):
        config = driver_pb2.TaskConfig(id="t", env={"BIG": "x" * (8 << 20)})
        reply = await driver_calls(channel).start_task(driver_pb2.StartTaskRequest(task=config))
        assert reply.handle.config == config
        assert reply.handle.driver_state == b"\0\xff"


async def test_exec_streams_in_both_directions(plugin: PluginClient) -> None:
    request = driver_pb2.ExecTaskStreamingRequest
    operation = driver_pb2.ExecTaskStreamingIOOperation

    async def requests() -> AsyncIterator[driver_pb2.ExecTaskStreamingRequest]:
        yield request(setup=request.Setup(task_id="t", command=["cat"]))
        yield request()  # a heartbeat
        yield request(stdin=operation(data=b"hello"))
        yield request(stdin=operation(close=True))

    replies = [reply async for reply in plugin.driver.exec_task_streaming(requests())]
    assert [reply.stdout.data for reply in replies] == [b"hello", b""]
    assert (replies[-1].exited, replies[-1].result.exit_code) == (True, 7)


# What go-plugin itself calls


async def test_health_check_says_serving(tmp_path: Path) -> None:
    async with _served(FakeDriver(), tmp_path) as (_, channel):
        assert await GoPluginCalls(channel).is_serving()


@pytest.mark.parametrize(
    ("service", "rpc"), [("GRPCStdio", "StreamStdio"), ("GRPCBroker", "StartStream")]
)
async def test_stdio_and_broker_are_held_open(tmp_path: Path, service: str, rpc: str) -> None:
    method = methods_of(goplugin_pb2.DESCRIPTOR.services_by_name[service])[rpc]
    async with _served(FakeDriver(), tmp_path) as (_, channel):
        open_call: Any = (
            channel.stream_stream if method.is_client_streaming else channel.unary_stream
        )
        call = open_call(method.path)(iter([b""]) if method.is_client_streaming else b"")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), 0.5)
        call.cancel()


async def test_plugins_of_agents_are_found_and_ended_and_those_of_run_are_not(
    tmp_path: Path,
) -> None:
    async with await _launch(tmp_path):
        (of_nomad,) = running.find_plugins(tmp_path)
        async with await _launch(tmp_path, running.STOP_WITH_PARENT) as of_run:
            (tmp_path / "plugin" / "1.lock").touch()  # left by a dead plugin
            assert running.find_plugins(tmp_path) == [of_nomad]
            assert await running.end_plugins([of_nomad], timeout_s=_DEADLINE_S) == []
            assert running.find_plugins(tmp_path) == []
            await of_run.base.plugin_info(base_pb2.PluginInfoRequest())


async def test_plugin_that_ignores_the_signal_is_reported(tmp_path: Path) -> None:
    async with await _launch(tmp_path, "stubborn"):
        (found,) = running.find_plugins(tmp_path)
        assert await running.end_plugins([found], timeout_s=0.1) == [found]
        pidfd.send_signal(found, signal.SIGKILL)
        await pidfd.wait_gone(found)


def test_no_plugin_is_found_where_none_has_run(tmp_path: Path) -> None:
    assert running.find_plugins(tmp_path) == []
