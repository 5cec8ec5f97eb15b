import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.images import CredentialConfig
from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.small import SmallAnswer
from qemu_node.images.registry.manifest import INDEX_TYPES, MANIFEST_TYPES, digest_of
from qemu_node.images.registry.oci import parse_token, resolve_oci
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.name import OciSource
from qemu_node.images.source.remote import Located

HOST = "registry.example.org"
LAYER = "sha256:" + "a" * 64
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "layers": [{"digest": LAYER, "size": 7}]}
).encode()
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPES[0],
        "manifests": [
            {
                "digest": digest_of(MANIFEST),
                "size": len(MANIFEST),
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        ],
    }
).encode()
TOKEN = json.dumps({"token": "t0ken"}).encode()


def challenge(value: str, *, is_foreign: bool = False) -> SmallAnswer:
    return SmallAnswer(
        status=401, headers={"www-authenticate": value}, body=b"", is_foreign=is_foreign
    )


def ok(body: bytes, *, is_foreign: bool = False) -> SmallAnswer:
    return SmallAnswer(status=200, headers={}, body=body, is_foreign=is_foreign)


@dataclass
class Asked:
    """A request as it would be sent."""

    url: str
    authorization: str | None
    accept: str | None
    max_bytes: int


@dataclass
class Script:
    """Gives answers in order and keeps what was asked."""

    answers: list[SmallAnswer]
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, file: HttpFile, *, max_bytes: int) -> SmallAnswer:
        headers = {} if file.sign is None else file.sign("GET", file.url)
        self.asked.append(Asked(file.url, headers.get("Authorization"), file.accept, max_bytes))
        return self.answers.pop(0)


@pytest.fixture
def credential(tmp_path: Path) -> Callable[..., Credential]:
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    path.chmod(0o600)

    def make(host: str = HOST, **settings: Any) -> Credential:
        kind = settings or {"username": "ci", "password_file": str(path)}
        kind = {name: str(path) if value == "FILE" else value for name, value in kind.items()}
        found = CredentialStore([CredentialConfig(host=host, **kind)]).find(host, None)
        assert found is not None
        return found

    return make


async def resolve(
    script: Script,
    reference: str = "1",
    credential: Credential | None = None,
    *,
    registry: str = HOST,
) -> Located:
    source = OciSource(registry, "team/image", reference)
    blob = await resolve_oci(source, credential, fetch_small=script)
    assert blob is not None
    return blob


async def test_a_tag_leads_to_the_digest_and_url_of_its_layer() -> None:
    script = Script([ok(MANIFEST)])
    blob = await resolve(script)
    assert str(blob.checksum) == LAYER
    assert blob.file.size_bytes == 7
    assert blob.version == digest_of(MANIFEST)
    assert blob.file.url == f"https://{HOST}/v2/team/image/blobs/{LAYER}"
    assert blob.file.shown == f"oci://{HOST}/team/image:1"
    assert blob.file.sign is None
    [asked] = script.asked
    assert asked.url == f"https://{HOST}/v2/team/image/manifests/1"
    assert asked.accept is not None
    assert set(asked.accept.split(", ")) == {*INDEX_TYPES, *MANIFEST_TYPES}
    assert asked.max_bytes == 4 << 20


async def test_an_index_leads_to_the_manifest_of_this_machine() -> None:
    script = Script([ok(INDEX), ok(MANIFEST)])
    blob = await resolve(script)
    assert str(blob.checksum) == LAYER
    assert blob.version == digest_of(INDEX)
    assert script.asked[1].url.endswith(f"/manifests/{digest_of(MANIFEST)}")


@pytest.mark.parametrize("body", [MANIFEST, INDEX])
async def test_a_reference_by_digest_is_checked(body: bytes) -> None:
    blob = await resolve(Script([ok(body), ok(MANIFEST)]), digest_of(body))
    assert blob.version == digest_of(body)
    with pytest.raises(ChecksumMismatchError):
        await resolve(Script([ok(body + b" "), ok(MANIFEST)]), digest_of(body))


async def test_the_manifest_that_an_index_names_is_checked() -> None:
    with pytest.raises(ChecksumMismatchError):
        await resolve(Script([ok(INDEX), ok(MANIFEST + b" ")]))


async def test_a_manifest_that_is_not_as_long_as_its_index_says_is_refused() -> None:
    size = f'"size": {len(MANIFEST)}'.encode()
    assert size in INDEX
    with pytest.raises(ChecksumMismatchError, match="its index says 7"):
        await resolve(Script([ok(INDEX.replace(size, b'"size": 7')), ok(MANIFEST)]))


async def test_an_index_of_indexes_is_refused() -> None:
    outer = INDEX.replace(digest_of(MANIFEST).encode(), digest_of(INDEX).encode())
    outer = outer.replace(f'"size": {len(MANIFEST)}'.encode(), f'"size": {len(INDEX)}'.encode())
    with pytest.raises(ImageRefusedError, match="0 layers"):
        await resolve(Script([ok(outer), ok(INDEX)]))


async def test_anybody_gets_a_token_for_a_public_image() -> None:
    script = Script(
        [
            challenge(
                'Bearer realm="https://auth.example.org/token?x=1#y",service="the registry",'
                'scope="repository:team/image:pull,push"'
            ),
            ok(TOKEN),
            ok(INDEX),
            ok(MANIFEST),
        ]
    )
    blob = await resolve(script)
    token = urlsplit(script.asked[1].url)
    assert token.netloc == "auth.example.org"
    assert parse_qs(token.query) == {
        "x": ["1"],
        "service": ["the registry"],
        "scope": ["repository:team/image:pull"],
    }
    assert token.fragment == ""
    sent = [asked.authorization for asked in script.asked]
    assert sent == [None, None, "Bearer t0ken", "Bearer t0ken"]
    assert blob.file.sign is not None
    assert blob.file.sign("GET", blob.file.url) == {"Authorization": "Bearer t0ken"}
    assert "t0ken" not in repr(blob)


async def test_a_token_that_ran_out_is_renewed_for_the_blob() -> None:
    bearer = challenge('Bearer realm="https://auth.example.org/token"')
    script = Script([bearer, ok(TOKEN), ok(MANIFEST), ok(TOKEN.replace(b"t0ken", b"newer"))])
    blob = await resolve(script)
    assert blob.file.sign is not None
    assert blob.file.renew is not None
    await blob.file.renew()
    assert blob.file.sign("GET", blob.file.url) == {"Authorization": "Bearer newer"}
    assert script.asked[3].url == script.asked[1].url


async def test_what_is_no_token_is_not_renewed(credential: Callable[..., Credential]) -> None:
    basic = await resolve(Script([challenge("Basic"), ok(MANIFEST)]), credential=credential())
    public = await resolve(Script([ok(MANIFEST)]))
    assert (basic.file.renew, public.file.renew) == (None, None)


async def test_the_operators_user_gets_a_token_where_the_registry_says(
    credential: Callable[..., Credential],
) -> None:
    script = Script(
        [challenge('Bearer realm="https://auth.example.org/token"'), ok(TOKEN), ok(MANIFEST)]
    )
    await resolve(script, credential=credential())
    sent = [asked.authorization for asked in script.asked]
    assert sent == [None, "Basic Y2k6aHVudGVyMg==", "Bearer t0ken"]


async def test_a_registry_may_ask_for_the_password_itself(
    credential: Callable[..., Credential],
) -> None:
    script = Script([challenge('Basic realm="registry"'), ok(MANIFEST)])
    blob = await resolve(script, credential=credential())
    assert script.asked[1].authorization == "Basic Y2k6aHVudGVyMg=="
    assert blob.file.sign is not None


async def test_an_operators_token_is_sent_at_once(credential: Callable[..., Credential]) -> None:
    script = Script([ok(MANIFEST)])
    await resolve(script, credential=credential(token_file="FILE"))
    assert script.asked[0].authorization == "Bearer hunter2"


async def test_a_token_that_is_not_accepted_is_not_tried_again(
    credential: Callable[..., Credential],
) -> None:
    script = Script([challenge('Bearer realm="https://auth.example.org/token"')])
    with pytest.raises(ImageRefusedError, match="does not accept") as error:
        await resolve(script, credential=credential(token_file="FILE"))
    assert error.value.is_denial


async def test_a_registry_that_never_has_enough_is_given_up() -> None:
    again = challenge('Bearer realm="https://auth.example.org/token"')
    script = Script([again, ok(TOKEN), again, ok(TOKEN), again])
    with pytest.raises(ImageRefusedError, match="does not accept") as error:
        await resolve(script)
    assert error.value.is_denial
    assert len(script.asked) == 3


async def test_a_token_service_that_denies_is_named(
    credential: Callable[..., Credential],
) -> None:
    script = Script(
        [challenge('Bearer realm="https://auth.example.org/token"'), challenge("Basic")]
    )
    with pytest.raises(ImageRefusedError, match=r"auth\.example\.org does not accept") as error:
        await resolve(script, credential=credential())
    assert error.value.is_denial
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "an unknown way"),
        ("Negotiate", "an unknown way"),
        ('Basic realm="x"', "a user and a password"),
        ("Bearer", "no valid token service"),
        ('Bearer realm="token"', "no valid token service"),
        ('Bearer realm="file:///etc/shadow"', "no valid token service"),
        ('Bearer realm="https://"', "no valid token service"),
        ('Bearer realm="https://user:pw@h/t"', "no valid token service"),
        ('Bearer realm="https://h:99999/t"', "no valid token service"),
        ('Bearer realm="https://h/a b"', "no valid token service"),
        ('Bearer realm="https://h/\x7f"', "no valid token service"),
        ('Bearer realm="https://é/"', "no valid token service"),
        ('Bearer realm="http://auth.example.org/token"', "without https"),
        (f'Bearer realm="http://{HOST}/token"', "without https"),
    ],
)
async def test_a_challenge_that_cannot_be_answered_is_refused(value: str, reason: str) -> None:
    script = Script([challenge(value)])
    with pytest.raises(ImageRefusedError, match=reason):
        await resolve(script)
    assert len(script.asked) == 1


async def test_whom_a_redirect_led_to_learns_nothing(
    credential: Callable[..., Credential],
) -> None:
    script = Script([challenge('Bearer realm="https://evil.example.com/"', is_foreign=True)])
    with pytest.raises(ImageRefusedError, match="another host"):
        await resolve(script, credential=credential())
    assert len(script.asked) == 1


async def test_a_token_of_whom_a_redirect_led_to_is_not_taken() -> None:
    script = Script(
        [challenge('Bearer realm="https://auth.example.org/"'), ok(TOKEN, is_foreign=True)]
    )
    with pytest.raises(ImageRefusedError, match="contains no token"):
        await resolve(script)


async def test_over_http_a_foreign_token_service_gets_no_password(
    credential: Callable[..., Credential],
) -> None:
    plain = credential(plain_http=True, username="ci", password_file="FILE")
    for realm, sent in (
        ("https://auth.example.org/", None),
        ("http://auth.example.org/", None),
        (f"http://{HOST}:5001/", "Basic Y2k6aHVudGVyMg=="),
        (f"https://{HOST}/", "Basic Y2k6aHVudGVyMg=="),
    ):
        script = Script([challenge(f'Bearer realm="{realm}"'), ok(TOKEN), ok(MANIFEST)])
        await resolve(script, credential=plain)
        assert script.asked[0].url.startswith("http://")
        assert script.asked[1].authorization == sent


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("registry.example.org:5000", "https://registry.example.org:5000/"),
        ("10.0.0.5:5000", "https://10.0.0.5:5000/"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/"),
        ("localhost:5000", "http://localhost:5000/"),
        ("[::1]:5000", "http://[::1]:5000/"),
        ("docker.io", "https://registry-1.docker.io/"),
    ],
)
async def test_http_is_spoken_to_this_machine_only(registry: str, base: str) -> None:
    script = Script([ok(MANIFEST)])
    await resolve(script, registry=registry)
    assert script.asked[0].url.startswith(base)


async def test_http_is_spoken_where_the_operator_says(
    credential: Callable[..., Credential],
) -> None:
    script = Script([ok(MANIFEST)])
    await resolve(script, credential=credential(plain_http=True))
    assert script.asked[0].url.startswith(f"http://{HOST}/")


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b'{"token": "a.b-c_d~e+f/g="}', "a.b-c_d~e+f/g="),
        (b'{"access_token": "a", "expires_in": 300}', "a"),
        (b'{"token": null, "access_token": "a"}', "a"),
        (b'{"token": ""}', None),
        (b"{}", None),
        (b'{"token": 1}', None),
        (b'{"token": "a b"}', None),
        (b'{"token": "a\\n"}', None),
        (b'{"token": "a\\r\\nX-Evil: 1"}', None),
        (b'{"token": "' + b"a" * 40_000 + b'"}', None),
        (b"[" * 50_000, None),
        (b"<html>", None),
    ],
)
def test_a_token_is_one_that_can_be_sent(body: bytes, token: str | None) -> None:
    assert parse_token(body) == token


@given(
    st.binary(max_size=100) | st.text(max_size=50).map(lambda t: json.dumps({"token": t}).encode())
)
def test_any_answer_gives_a_token_or_none(body: bytes) -> None:
    token = parse_token(body)
    assert token is None or (token.isascii() and token.isprintable() and " " not in token)
