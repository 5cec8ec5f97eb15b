import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from qemu_node.errors import GuestAgentError, HostError
from qemu_node.vm.life import healthserver
from qemu_node.vm.life.healthserver import HealthServer

HOST = "127.0.0.1"
WAIT_S = 60.0


class FakeAgent:
    """An agent that answers as the test says."""

    def __init__(self) -> None:
        self.pings = 0
        self.problem: str | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def ping(self, *, timeout_s: float) -> None:
        self.pings += 1
        await self.may_answer.wait()
        if self.problem is not None:
            raise GuestAgentError(self.problem)


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@asynccontextmanager
async def serving(agent: FakeAgent) -> AsyncIterator[int]:
    """Give the port on which a server answers for `agent`."""
    server = HealthServer(agent)  # type: ignore[arg-type]
    await server.listen(HOST, 0)
    assert server._server is not None
    try:
        yield server._server.sockets[0].getsockname()[1]
    finally:
        await server.close()


async def ask(port: int, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> str:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(request)
        async with asyncio.timeout(WAIT_S):
            return (await reader.read()).decode()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_an_agent_that_answers_is_healthy(agent: FakeAgent) -> None:
    async with serving(agent) as port:
        assert (await ask(port)).startswith("HTTP/1.1 200 OK\r\n")


async def test_an_agent_that_does_not_answer_is_unhealthy_with_the_reason(agent: FakeAgent) -> None:
    agent.problem = "it hangs"
    async with serving(agent) as port:
        answer = await ask(port)
    assert answer.startswith("HTTP/1.1 503 ")
    assert answer.endswith("it hangs\n")


async def test_one_answer_of_the_agent_serves_checks_that_come_at_the_same_time(
    agent: FakeAgent,
) -> None:
    async with serving(agent) as port:
        answers = await asyncio.gather(*(ask(port) for _ in range(5)))
    assert {answer[:12] for answer in answers} == {"HTTP/1.1 200"}
    assert agent.pings == 1


@pytest.mark.parametrize(
    ("request_", "answered"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405"),
        (b"\xff\xfe\r\n\r\n", "HTTP/1.1 405"),
        (b"x" * 100_000, ""),
        (b"HEAD / HTTP/1.1\r\n\r\n", "HTTP/1.1 200"),
    ],
)
async def test_what_is_no_check_does_not_reach_the_agent_or_is_cut_off(
    agent: FakeAgent, request_: bytes, answered: str
) -> None:
    async with serving(agent) as port:
        try:
            answer = await ask(port, request_)
        except ConnectionError:
            answer = ""
        assert answer.startswith(answered)
        assert (await ask(port)).startswith("HTTP/1.1 200")


async def test_silent_connections_are_ended_when_there_are_too_many_and_checks_are_answered(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthserver, "_REQUEST_TIMEOUT_S", 2 * WAIT_S)
    async with serving(agent) as port:
        silent = [
            await asyncio.open_connection(HOST, port)
            for _ in range(3 * healthserver._MAX_CONNECTIONS)
        ]
        assert (await ask(port)).startswith("HTTP/1.1 200")
        async with asyncio.timeout(WAIT_S):
            for reader, _ in silent[: 2 * healthserver._MAX_CONNECTIONS]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        for _, writer in silent:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_checks_that_wait_for_the_agent_are_bounded_as_well(agent: FakeAgent) -> None:
    agent.may_answer.clear()
    async with serving(agent) as port:
        asked = [asyncio.ensure_future(ask(port)) for _ in range(healthserver._MAX_CONNECTIONS + 1)]
        async with asyncio.timeout(WAIT_S):
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        agent.may_answer.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    lost = [answer for answer in answers if not isinstance(answer, str) or not answer]
    assert len(lost) == 1


async def test_a_port_that_is_taken_is_an_error_of_the_host(agent: FakeAgent) -> None:
    async with serving(agent) as port:
        with pytest.raises(HostError, match=f"cannot listen on {HOST}:{port}"):
            await HealthServer(agent).listen(HOST, port)  # type: ignore[arg-type]
