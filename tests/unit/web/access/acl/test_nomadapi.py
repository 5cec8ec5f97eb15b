"""Nomad's API as the console asks it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qemu_node.errors import ConfigError
from qemu_node.web.access.acl.nomadapi import (
    NomadApi,
    NomadError,
    NomadRefusedError,
    NomadServer,
    bases_of_node,
    quoted,
)


async def ask(answer: web.Response, token: str | None = "t") -> tuple[Any, web.Request]:
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return answer

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    async with TestServer(app) as server:
        address = str(server.make_url("/"))
        async with NomadApi(NomadServer(address=address)) as api:
            found = await api.get(f"/v1/x/{quoted('a/b?c')}?n=1", dict[str, int], token=token)
    return found, seen[0]


async def test_the_users_token_is_in_the_header_and_names_are_quoted() -> None:
    found, request = await ask(web.json_response({"a": 1}))
    assert found == {"a": 1}
    assert request.headers["X-Nomad-Token"] == "t"
    assert request.raw_path == "/v1/x/a%2Fb%3Fc?n=1"


async def test_without_a_token_there_is_no_header() -> None:
    _, request = await ask(web.json_response({}), token=None)
    assert "X-Nomad-Token" not in request.headers


async def test_an_error_of_nomad_has_its_status_and_no_control_characters() -> None:
    with pytest.raises(NomadRefusedError) as refused:
        await ask(web.Response(status=403, text="no\x1b[31m"))
    assert refused.value.status == 403
    assert "\x1b" not in str(refused.value)


async def test_a_redirect_is_not_followed() -> None:
    with pytest.raises(NomadRefusedError):
        await ask(web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"}))


@pytest.mark.parametrize("text", ["x", "[]", '{"a": "b"}', "[" * 100_000])
async def test_an_answer_that_makes_no_sense_is_no_answer(text: str) -> None:
    with pytest.raises(NomadError):
        await ask(web.Response(text=text))


async def test_only_a_large_question_may_have_a_large_answer() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response({"a" * (3 << 20): 1})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    async with (
        TestServer(app) as server,
        NomadApi(NomadServer(address=str(server.make_url("/")))) as api,
    ):
        assert await api.get_large("/v1/allocations", dict[str, int], token=None)
        for question in (
            api.get("/v1/acl/token/self", dict[str, int], token=None),
            api.post("/v1/acl/token/onetime", {}, dict[str, int], token=None),
            api.read("/v1/client/fs/logs/a", token=None),
        ):
            with pytest.raises(NomadError, match="too long"):
                await question


async def test_few_large_answers_are_in_memory_at_once_and_small_ones_come_meanwhile() -> None:
    asked: list[str] = []
    began = asyncio.Semaphore(0)
    may_answer = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/v1/allocations":
            asked.append(request.path)
            began.release()
            await may_answer.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    async with (
        TestServer(app) as server,
        NomadApi(NomadServer(address=str(server.make_url("/")))) as api,
        asyncio.TaskGroup() as group,
    ):
        large = [
            group.create_task(api.get_large("/v1/allocations", dict[str, int], token=None))
            for _ in range(5)
        ]
        for _ in range(2):
            await began.acquire()
        for _ in range(3):
            assert await api.get("/v1/acl/token/self", dict[str, int], token=None) == {}
        assert len(asked) == 2
        may_answer.set()
    assert [task.result() for task in large] == [{}] * 5
    assert len(asked) == 5


async def test_a_token_that_cannot_be_in_a_header_is_not_sent() -> None:
    with pytest.raises(NomadError):
        await ask(web.json_response({}), token="a\r\nX-Evil: 1")


async def test_an_agent_that_is_not_there_says_what_to_do() -> None:
    async with NomadApi(NomadServer(address="http://127.0.0.1:1")) as api:
        with pytest.raises(NomadError) as failed:
            await api.get("/v1/x", dict[str, int], token=None)
    assert failed.value.hint


def test_a_ca_that_is_missing_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        NomadApi(NomadServer(address="https://127.0.0.1:4646", ca_file=tmp_path / "none"))


def test_the_agent_of_a_node_may_listen_on_any_of_its_addresses() -> None:
    assert bases_of_node("https://127.0.0.1:4646", ["10.0.0.5", "2001:db8::1"]) == [
        "https://127.0.0.1:4646",
        "https://10.0.0.5:4646",
        "https://[2001:db8::1]:4646",
    ]
