import base64
from pathlib import Path

import pytest
from fakes.fake_qga import FakeProgram, FakeQga

from qemu_node.errors import GuestAgentError
from qemu_node.qga import agent as commands
from qemu_node.qga.agent import INPUT_MAX_BYTES, GuestAgent
from qemu_node.qga.agentsession import AgentTimeoutError
from qemu_node.qga.replies import GuestInterface
from qemu_node.qga.wire import AgentRefusedError

LONG_S = 20.0
FOR_EVER_S = 3600.0
"""Longer than a test may take."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qga.sock"


@pytest.fixture
def agent(path: Path, tmp_path: Path) -> GuestAgent:
    return GuestAgent(path, tmp_path / "qga.lock")


async def test_questions_get_typed_answers(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, disabled=["guest-exec"]):
        await agent.ping()
        info = await agent.info()
        assert "guest-ping" in info.enabled
        assert "guest-exec" not in info.enabled
        assert (await agent.osinfo()).pretty_name == "Debian GNU/Linux 13"
        assert await agent.host_name() == "guest"
        loopback, nic = await agent.network_interfaces()
        assert loopback.mac == ""
        assert nic == GuestInterface(
            name="enp1s0",
            mac="52:54:00:12:34:56",
            addresses=("10.0.2.15", "fe80::5054:ff:fe12:3456"),
        )


async def test_name_and_addresses_take_one_session(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path) as guest:
        name, interfaces = await agent.network_identity()
        assert guest.connections == 1
        assert (name, interfaces) == (await agent.host_name(), await agent.network_interfaces())
        assert guest.connections == 3


async def test_text_of_the_guest_is_made_safe(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, replies={"guest-get-host-name": {"host-name": "\x1b[2Jx\u202e\n"}}):
        assert await agent.host_name() == "?[2Jx??"


async def test_ping_without_an_agent_times_out(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, sync="silent"):
        with pytest.raises(AgentTimeoutError, match="does not answer"):
            await agent.ping(timeout_s=0.2)


# Shutdown


async def test_shutdown_needs_no_answer(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path) as guest:
        await agent.shutdown(timeout_s=FOR_EVER_S)
        assert guest.shutdown_mode == "powerdown"


async def test_shutdown_waits_no_longer_than_it_may(
    path: Path, agent: GuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_REFUSAL_WAIT_S", FOR_EVER_S)
    async with FakeQga(path) as guest:
        await agent.shutdown("reboot", timeout_s=0.5)
        assert guest.shutdown_mode == "reboot"


async def test_shutdown_is_done_when_qemu_goes_away(
    path: Path, agent: GuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_REFUSAL_WAIT_S", FOR_EVER_S)
    async with FakeQga(path, hang_up=["guest-shutdown"]):
        await agent.shutdown(timeout_s=FOR_EVER_S)


async def test_refused_shutdown_is_told(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, errors={"guest-shutdown": "child process has failed"}):
        with pytest.raises(AgentRefusedError, match=r"guest-shutdown failed .* process has failed"):
            await agent.shutdown(timeout_s=LONG_S)


async def test_shutdown_without_an_agent_is_an_error(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, sync="silent"):
        with pytest.raises(AgentTimeoutError):
            await agent.shutdown(timeout_s=0.2)


# Programs


async def test_program_gives_output_and_exit_code(path: Path, agent: GuestAgent) -> None:
    program = FakeProgram(exit_code=3, stdout=b"\x00out\xff", stderr=b"err", polls=2)
    async with FakeQga(path, programs={"uptime": program}) as guest:
        result = await agent.run(
            ["uptime", "-p", "ü"], input=b"\xffin", env=["A=1"], timeout_s=LONG_S
        )
        assert (result.exit_code, result.signal) == (3, None)
        assert (result.stdout, result.stderr, result.truncated) == (b"\x00out\xff", b"err", False)
        request = next(item for item in guest.received if item["execute"] == "guest-exec")
        assert request["arguments"] == {
            "path": "uptime",
            "arg": ["-p", "ü"],
            "env": ["A=1"],
            "input-data": base64.b64encode(b"\xffin").decode(),
            "capture-output": True,
        }


async def test_program_ended_by_a_signal(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, programs={"x": FakeProgram(signal=9)}):
        result = await agent.run(["x"], timeout_s=LONG_S)
    assert (result.exit_code, result.signal) == (137, 9)


async def test_cut_output_is_marked(path: Path, agent: GuestAgent) -> None:
    program = FakeProgram(stdout=b"x" * (3 << 20), truncated=True)
    async with FakeQga(path, programs={"x": program}):
        result = await agent.run(["x"], timeout_s=LONG_S)
    assert result.truncated
    assert len(result.stdout) == 3 << 20


async def test_unknown_program_is_told_in_the_guests_words(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path):
        with pytest.raises(AgentRefusedError, match=r"guest-exec failed in the guest: .*'no nope'"):
            await agent.run(["nope"], timeout_s=LONG_S)


async def test_disabled_exec_is_told_with_a_hint(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, disabled=["guest-exec"], programs={"x": FakeProgram()}) as guest:
        with pytest.raises(GuestAgentError, match="has guest-exec disabled") as caught:
            await agent.run(["x"], timeout_s=LONG_S)
        assert caught.value.hint is not None
        assert guest.commands == ["guest-info"]


async def test_timeout_says_that_the_program_may_still_run(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, programs={"sleep": FakeProgram(polls=-1)}):
        with pytest.raises(AgentTimeoutError, match=r"within 0\.5 s; it may still be running"):
            await agent.run(["sleep", "9"], timeout_s=0.5)


async def test_others_get_their_turn_while_a_program_runs(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(path, programs={"x": FakeProgram(polls=3)}) as guest:
        await agent.run(["x"], timeout_s=LONG_S)
        assert guest.connections == 5


async def test_program_that_the_agent_forgot_is_told(path: Path, agent: GuestAgent) -> None:
    async with FakeQga(
        path,
        programs={"x": FakeProgram()},
        errors={"guest-exec-status": "Invalid parameter 'pid'"},
    ):
        with pytest.raises(GuestAgentError, match=r"lost track of the command, .* 'pid'"):
            await agent.run(["x"], timeout_s=LONG_S)


async def test_nothing_is_sent_for_no_command_or_too_much_input(
    path: Path, agent: GuestAgent
) -> None:
    async with FakeQga(path) as guest:
        with pytest.raises(GuestAgentError, match="no command"):
            await agent.run([], timeout_s=LONG_S)
        with pytest.raises(GuestAgentError, match="longer than 16 MiB"):
            await agent.run(["x"], input=bytes(INPUT_MAX_BYTES + 1), timeout_s=LONG_S)
        assert guest.connections == 0
