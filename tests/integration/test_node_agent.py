"""The node's own agent, asked by its API: what it answers, and what it does not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qemu_node.nodeos.agent import client
from qemu_node.nodeos.agent.client import (
    AgentError,
    AgentRefusedError,
    Identity,
    LocalAgent,
    NodeInfo,
    NotAClientError,
    list_nodes,
    read_identity,
    read_node,
)
from qemu_node.nodeos.agent.config import AgentConfig
from qemu_node.nodeos.paths import NodePaths

NODE = {
    "ID": "n1",
    "Name": "node1",
    "SchedulingEligibility": "ineligible",
    "DrainStrategy": {"Deadline": 60},
    "Drivers": {"vm": {"Detected": True, "Healthy": True}},
    "LastDrain": {"Status": "draining", "Meta": None},
    "Unknown": [1],
}


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[LocalAgent, list[bytes]]]:
    """Serve one answer to every request; give the agent, and the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        try:
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield LocalAgent(AgentConfig(http_port=port), "secret"), requests


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)) + body


async def test_the_node_is_read_with_its_own_secret() -> None:
    async with answering(http("200 OK", json.dumps(NODE).encode())) as (agent, requests):
        node = await read_node(agent, "n1")
    assert requests[0].startswith(b"GET /v1/node/n1 ")
    assert b"X-Nomad-Token: secret" in requests[0]
    assert (node.is_eligible, node.is_draining, node.runs_vms) == (False, True, True)


async def test_a_refusal_keeps_its_status_and_nomads_words() -> None:
    async with answering(http("403 Forbidden", b"Permission denied\n")) as (agent, _):
        with pytest.raises(AgentRefusedError, match="403 Permission denied") as refused:
            await list_nodes(agent)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-garbage\r\n",
        http("200 OK", b"<html>"),
        http("200 OK", b"[]"),
        http("200 OK", b"[" * 100_000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
    ],
)
async def test_an_answer_that_is_none_is_an_error(answer: bytes) -> None:
    async with answering(answer) as (agent, _):
        with pytest.raises(AgentError):
            await read_node(agent, "n1")


async def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ANSWER_MAX_BYTES", 1000)
    async with answering(http("200 OK", b"x" * 5000)) as (agent, _):
        with pytest.raises(AgentError, match="too long"):
            await read_node(agent, "n1")


async def test_an_agent_that_does_not_run_is_named_with_what_to_do() -> None:
    async with answering(b"") as (agent, _):
        pass
    with pytest.raises(AgentError, match="Nomad does not answer") as silent:
        await agent.put("/v1/node/n1/drain", {}, NodeInfo)
    assert "systemctl status nomad" in (silent.value.hint or "")


def test_the_identity_is_what_the_agent_wrote(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    with pytest.raises(NotAClientError, match="no client of Nomad"):
        read_identity(paths)
    paths.nomad_node_id.parent.mkdir(parents=True)
    paths.nomad_node_id.write_text("n1")
    paths.nomad_node_secret.write_text("")
    with pytest.raises(NotAClientError):
        read_identity(paths)
    paths.nomad_node_secret.write_text("s\n")
    assert read_identity(paths) == Identity(node_id="n1", secret="s")
