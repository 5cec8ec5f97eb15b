import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.images import CredentialConfig
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.source.credentials import (
    Credential,
    CredentialStore,
    SecretFile,
    loose_permissions,
    secret_problems,
)

SECRET = "hunter2"
URL = "https://mirror.example.org/x"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def basic(path: Path | str, host: str = "mirror.example.org", **more: object) -> CredentialConfig:
    return CredentialConfig(host=host, username="ci", password_file=str(path), **more)  # type: ignore[arg-type]


def found(config: CredentialConfig, namespace: str | None = None) -> Credential:
    credential = CredentialStore([config]).find(config.host, namespace)
    assert credential is not None
    return credential


def test_a_password_is_sent_as_basic_authentication(secret_file: Path) -> None:
    sign = found(basic(secret_file)).sign_http()
    assert sign is not None
    pair = base64.b64encode(b"ci:hunter2").decode()
    assert sign("GET", URL) == {"Authorization": f"Basic {pair}"}


def test_a_token_is_sent_as_a_bearer_token(secret_file: Path) -> None:
    config = CredentialConfig(host="mirror.example.org", token_file=str(secret_file))
    sign = found(config).sign_http()
    assert sign is not None
    assert sign("GET", URL) == {"Authorization": "Bearer hunter2"}
    assert found(config).sign_basic() is None


def test_an_entry_without_a_secret_signs_nothing() -> None:
    assert found(CredentialConfig(host="h", plain_http=True)).sign_http() is None


def test_a_rotated_secret_counts_at_the_next_request(secret_file: Path) -> None:
    sign = found(basic(secret_file)).sign_http()
    assert sign is not None
    before = sign("GET", URL)
    secret_file.write_text("other")
    assert sign("GET", URL) != before


@pytest.mark.parametrize("host", ["mirror.example.org", "MIRROR.example.org:443"])
def test_a_host_is_found_in_any_spelling(secret_file: Path, host: str) -> None:
    assert CredentialStore([basic(secret_file)]).find(host, "default") is not None


@pytest.mark.parametrize(
    "host", ["example.org", "x.mirror.example.org", "mirror.example.org:8443", "s3://mirror", ""]
)
def test_no_other_host_gets_the_credentials(secret_file: Path, host: str) -> None:
    assert CredentialStore([basic(secret_file)]).find(host, None) is None


def test_credentials_of_some_namespaces_are_for_no_others(secret_file: Path) -> None:
    store = CredentialStore([basic(secret_file, namespaces=("a", "b"))])
    assert store.find("mirror.example.org", "a") is store.find("mirror.example.org", "b")
    assert store.find("mirror.example.org", "c") is None
    assert store.find("mirror.example.org", None) is None


def test_an_entry_that_names_the_namespace_goes_first(secret_file: Path) -> None:
    everybody = basic(secret_file)
    team = CredentialConfig(
        host="mirror.example.org",
        namespaces=("team",),
        username="team",
        password_file=str(secret_file),
    )
    for entries in ((everybody, team), (team, everybody)):
        store = CredentialStore(entries)
        of_team = store.find("mirror.example.org", "team")
        assert of_team is not None
        assert of_team.basic is not None
        assert of_team.basic.username == "team"
        of_other = store.find("mirror.example.org", "other")
        assert of_other is not None
        assert of_other.scope != of_team.scope


def test_the_scope_tells_rights_apart_and_holds_no_secret(secret_file: Path) -> None:
    path = str(secret_file)
    entries = [
        basic(path),
        basic(path, namespaces=("a",)),
        basic(path, namespaces=("a", "b")),
        basic(path, host="other.example.org"),
        CredentialConfig(host="mirror.example.org", username="x", password_file=path),
        CredentialConfig(host="mirror.example.org", token_file=path),
        CredentialConfig(host="mirror.example.org", plain_http=True),
        CredentialConfig(host="s3://bucket", access_key_id="AK", secret_key_file=path),
        CredentialConfig(
            host="s3://bucket", access_key_id="AK", secret_key_file=path, endpoint="https://minio"
        ),
    ]
    scopes = [found(entry, (entry.namespaces or (None,))[0]).scope for entry in entries]
    assert len(set(scopes)) == len(entries)
    assert not any(SECRET in scope or path in scope for scope in scopes)


def test_the_scope_does_not_depend_on_order_or_rotation(secret_file: Path) -> None:
    before = found(basic(secret_file, namespaces=("a", "b")), "a").scope
    secret_file.write_text("other")
    assert found(basic(secret_file, namespaces=("b", "a")), "a").scope == before


def test_no_secret_is_sent_over_plain_http(secret_file: Path) -> None:
    sign = found(basic(secret_file)).sign_http()
    assert sign is not None
    with pytest.raises(ImageRefusedError, match="plain http"):
        sign("GET", "http://mirror.example.org/x")


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000/x", "http://[::1]/", "http://localhost/"])
def test_this_machine_is_told_the_secret_over_http(secret_file: Path, url: str) -> None:
    sign = found(basic(secret_file)).sign_http()
    assert sign is not None
    assert "Authorization" in sign("GET", url)


def test_the_operator_may_allow_plain_http(secret_file: Path) -> None:
    sign = found(basic(secret_file, plain_http=True)).sign_http()
    assert sign is not None
    assert "Authorization" in sign("GET", "http://mirror.example.org/x")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "one line"),
        (b"\n", "one line"),
        (b"a\nb\n", "one line"),
        (b"a\x00b", "one line"),
        (b"a\r\nX-Evil: 1", "one line"),
        (b"\xff\xfe", "not text"),
        (b"x" * 70_000, "too large"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_and_not_shown(
    secret_file: Path, content: bytes, problem: str
) -> None:
    secret_file.write_bytes(content)
    with pytest.raises(ImageDownloadError, match=problem) as error:
        SecretFile(str(secret_file)).read()
    assert str(secret_file) in str(error.value)
    assert len(str(error.value)) < 200 + len(str(secret_file))


def test_a_missing_secret_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(ImageDownloadError, match="No such file") as error:
        SecretFile(str(tmp_path / "absent")).read()
    assert error.value.retry


def test_a_pipe_is_no_secret_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ImageDownloadError, match="not a regular file"):
        SecretFile(str(path)).read()


def test_a_secret_that_others_can_read_is_reported_once(
    secret_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret_file.chmod(0o644)
    secret = SecretFile(str(secret_file))
    assert secret.read() == secret.read() == SECRET
    assert [record.message for record in caplog.records] == ["secret file is not protected"]
    assert SECRET not in caplog.text


def test_what_is_wrong_with_secrets_is_said_once_per_file(
    secret_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert secret_problems([basic(secret_file)]) == []
    secret_file.chmod(0o644)
    entries = [basic(secret_file), basic(secret_file, "h"), basic(tmp_path / "absent", "i")]
    [loose, missing] = secret_problems(entries)
    assert "mode is 0644" in loose
    assert "absent cannot be read" in missing
    assert SECRET not in loose + missing
    assert not caplog.records


@pytest.mark.parametrize(("mode", "is_loose"), [(0o600, False), (0o640, False), (0o644, True)])
def test_the_mode_of_a_secret_is_judged(secret_file: Path, mode: int, is_loose: bool) -> None:
    secret_file.chmod(mode)
    assert bool(loose_permissions(secret_file.stat())) is is_loose


def test_the_owner_of_a_secret_is_judged(secret_file: Path) -> None:
    seen = list(secret_file.stat())
    seen[4] = 54321
    assert loose_permissions(os.stat_result(seen)) == ["it belongs to user 54321"]


def test_credentials_show_no_secret_as_text(secret_file: Path) -> None:
    credential = found(basic(secret_file))
    sign = credential.sign_http()
    assert sign is not None
    sign("GET", URL)
    assert SECRET not in f"{credential!r} {sign!r}"


@given(st.text(max_size=40), st.none() | st.text(max_size=10))
def test_any_host_may_be_asked_for(host: str, namespace: str | None) -> None:
    store = CredentialStore([CredentialConfig(host="h", plain_http=True)])
    assert (store.find(host, namespace) is not None) == (host.lower() in ("h", "h:443"))
