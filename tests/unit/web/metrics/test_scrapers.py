"""Who gets the figures: each refusal is an attack."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from fakes.console import VM, Console, make_browser, running_console
from fakes.fake_nomad import READ, namespaces, token_id

from qemu_node.errors import ConfigError
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.metrics.scrapers import Scrapers, read_token

SECRET = "a1" * 32
OTHER_SECRET = "b2" * 32
NODE_TOKEN, JOB_TOKEN = token_id(1), token_id(2)
OF_NODE = {"Node": {"Policy": "read"}}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o640)
    return path


@contextlib.asynccontextmanager
async def asking(
    settings: AccessSettings | None = None,
) -> AsyncGenerator[tuple[Console, ClientSession]]:
    async with running_console(settings) as console, make_browser() as client:
        console.nomad.policies = {"node": OF_NODE, "job": namespaces(default=READ)}
        console.nomad.add_token(NODE_TOKEN, Policies=["node"])
        console.nomad.add_token(JOB_TOKEN, Policies=["job"])
        yield console, client


async def status(
    console: Console, client: ClientSession, path: str = "/metrics", **headers: str
) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(f"{console.origin}{path}", headers=named) as reply:
        return reply.status


async def test_whoever_has_nothing_is_told_what_to_do() -> None:
    async with asking() as (console, client):
        async with client.get(f"{console.origin}/metrics") as reply:
            assert reply.status == 401
            hint = (await reply.json())["hint"]
        assert "web.metrics_token_file" in hint
        assert "credentials_file" in hint


async def test_a_token_of_nomad_needs_the_node_and_not_a_namespace() -> None:
    async with asking() as (console, client):
        assert await status(console, client, X_Nomad_Token=NODE_TOKEN) == 204
        assert await status(console, client, Authorization=f"Bearer {NODE_TOKEN}") == 204
        assert await status(console, client, X_Nomad_Token=JOB_TOKEN) == 403
        assert await status(console, client, X_Nomad_Token=token_id(9)) == 401


async def test_a_login_with_the_right_may_look_as_well() -> None:
    async with asking() as (console, client):
        await console.log_in(client, token=NODE_TOKEN)
        assert await status(console, client) == 204
    async with asking() as (console, client):
        await console.log_in(client, token=JOB_TOKEN)
        assert await status(console, client) == 403


async def test_a_program_on_the_node_needs_nothing() -> None:
    async with asking(AccessSettings(metrics_on_loopback=True)) as (console, client):
        assert await status(console, client) == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "192.0.2.1"},
        {"Forwarded": "for=192.0.2.1"},
        {"X_Real_IP": "192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"X_Nomad_Token": "wrong"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"X_Nomad_Token": JOB_TOKEN},
    ],
)
async def test_what_only_comes_through_the_node_is_not_of_the_node(
    headers: dict[str, str],
) -> None:
    async with asking(AccessSettings(metrics_on_loopback=True)) as (console, client):
        assert await status(console, client, **headers) in (401, 403, 421)


@pytest.mark.parametrize("remote", ["192.0.2.1", "10.0.2.15", "::ffff:192.0.2.1", "", "fe80::1"])
async def test_another_machine_is_not_the_node(remote: str) -> None:
    scrapers = Scrapers(AccessSettings(metrics_on_loopback=True))
    request = make_mocked_request("GET", "/metrics").clone(remote=remote)
    assert await scrapers.find(request) is None


async def test_the_token_of_the_file_is_good_for_figures_and_for_nothing_else(
    token_file: Path,
) -> None:
    settings = AccessSettings(metrics_token_file=token_file)
    async with asking(settings) as (console, client):
        bearer = f"Bearer {SECRET}"
        assert await status(console, client, Authorization=bearer) == 204
        assert await status(console, client, X_Nomad_Token=SECRET) == 204
        for path in ("/api/v1/vms", "/api/v1/node", "/api/v1/events", "/api/v1/session"):
            assert await status(console, client, path, Authorization=bearer) == 401
        url = f"{console.origin}/api/v1/vms/{VM.vm_id}/reset"
        headers = {"Authorization": bearer, "X-QN": "1"}
        async with client.post(url, headers=headers) as reply:
            assert reply.status == 401
        url = f"{console.origin}/api/v1/login"
        async with client.post(url, json={"token": SECRET}, headers=console.headers()) as reply:
            assert reply.status == 401
        assert not client.cookie_jar


@pytest.mark.parametrize(
    "wrong", ["", SECRET[:-1], SECRET + "0", SECRET.upper(), OTHER_SECRET, "ä" * 32, "*"]
)
async def test_another_token_is_not_good(token_file: Path, wrong: str) -> None:
    settings = AccessSettings(metrics_token_file=token_file, metrics_on_loopback=True)
    async with asking(settings) as (console, client):
        assert await status(console, client, Authorization=f"Bearer {wrong}") == 401


async def test_two_tokens_and_a_token_in_the_address_are_refused(token_file: Path) -> None:
    settings = AccessSettings(metrics_token_file=token_file)
    async with asking(settings) as (console, client):
        assert await status(console, client, f"/metrics?token={SECRET}") == 400
        headers = [("X-Nomad-Token", "x"), ("X-Nomad-Token", SECRET)]
        async with client.get(f"{console.origin}/metrics", headers=headers) as reply:
            assert reply.status == 400


async def test_guessing_has_to_wait(token_file: Path) -> None:
    settings = AccessSettings(metrics_token_file=token_file)
    async with asking(settings) as (console, client):
        answers = [await status(console, client, Authorization=f"Bearer {n}") for n in range(12)]
        assert answers[0] == 401
        assert answers[-1] == 429
        assert await status(console, client, Authorization=f"Bearer {SECRET}") == 204


async def test_a_new_token_counts_at_once_and_the_old_one_no_more(token_file: Path) -> None:
    settings = AccessSettings(metrics_token_file=token_file)
    async with asking(settings) as (console, client):
        assert await status(console, client, Authorization=f"Bearer {SECRET}") == 204
        token_file.write_text(OTHER_SECRET)
        assert await status(console, client, Authorization=f"Bearer {SECRET}") == 401
        assert await status(console, client, Authorization=f"Bearer {OTHER_SECRET}") == 204
        token_file.unlink()
        assert await status(console, client, Authorization=f"Bearer {OTHER_SECRET}") == 401


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (SECRET, 0o644, "others may"),
        (SECRET, 0o660, "others may"),
        ("a" * 31, 0o600, "less than 32"),
        ("", 0o600, "less than 32"),
        (" " * 40, 0o600, "less than 32"),
        ("ä" * 40, 0o600, "ASCII"),
    ],
)
async def test_a_file_that_is_not_safe_lets_nobody_in(
    token_file: Path, text: str, mode: int, problem: str
) -> None:
    token_file.write_text(text)
    token_file.chmod(mode)
    with pytest.raises(ConfigError, match=problem):
        read_token(token_file)
    async with asking(AccessSettings(metrics_token_file=token_file)) as (console, client):
        assert await status(console, client, Authorization=f"Bearer {text.strip()}") == 401


def test_a_directory_and_a_missing_file_are_no_token(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError):
            read_token(path)
