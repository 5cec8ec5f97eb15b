from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.images import CredentialConfig
from qemu_node.images.errors import ImageDownloadError
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.name import S3Source
from qemu_node.images.source.s3 import object_url, s3_file

IMAGE = S3Source("bucket", "images/debian 13+x.qcow2")


def credential(**settings: str) -> Credential:
    entry = CredentialConfig(host="s3://bucket", **settings)  # type: ignore[arg-type]
    found = CredentialStore([entry]).find("s3://bucket", None)
    assert found is not None
    return found


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("bucket", "settings", "expected"),
    [
        ("bucket", None, "https://bucket.s3.amazonaws.com/a/b%20c.raw"),
        ("my.bucket", None, "https://s3.amazonaws.com/my.bucket/a/b%20c.raw"),
        ("bucket", {}, "https://bucket.s3.us-east-1.amazonaws.com/a/b%20c.raw"),
        (
            "bucket",
            {"region": "eu-west-1"},
            "https://bucket.s3.eu-west-1.amazonaws.com/a/b%20c.raw",
        ),
        (
            "my.bucket",
            {"region": "eu-west-1"},
            "https://s3.eu-west-1.amazonaws.com/my.bucket/a/b%20c.raw",
        ),
        (
            "bucket",
            {"endpoint": "http://10.0.0.5:9000/"},
            "http://10.0.0.5:9000/bucket/a/b%20c.raw",
        ),
    ],
)
def test_a_bucket_is_where_the_operator_says(
    bucket: str, settings: dict[str, str] | None, expected: str
) -> None:
    access = None if settings is None else credential(**settings).s3
    assert object_url(S3Source(bucket, "a/b c.raw"), access) == expected


@given(st.text(min_size=1, max_size=50))
def test_any_key_gives_a_url_of_the_bucket(key: str) -> None:
    key = key.encode(errors="replace").decode()
    url = object_url(S3Source("bucket", key), None)
    assert url.isascii()
    assert url.isprintable()
    assert url.startswith("https://bucket.s3.amazonaws.com/")
    assert not set("?# \\") & set(url)


def test_without_keys_the_object_is_asked_for_unsigned() -> None:
    assert s3_file(IMAGE, None).sign is None
    assert s3_file(IMAGE, credential(region="eu-west-1")).sign is None


def test_a_request_is_signed_anew_with_the_secret_of_now(secret_file: Path) -> None:
    now_s = iter([0.0, 1.0, 1.0])
    keys = credential(access_key_id="AKID", secret_key_file=str(secret_file), region="eu-west-1")
    file = s3_file(IMAGE, keys, clock=lambda: next(now_s))
    assert file.shown == "s3://bucket/images/debian 13+x.qcow2"
    assert file.sign is not None
    first = file.sign("GET", file.url)
    assert first["x-amz-date"] == "19700101T000000Z"
    assert "Credential=AKID/19700101/eu-west-1/s3/aws4_request" in first["Authorization"]
    second = file.sign("GET", file.url)
    assert second["x-amz-date"] == "19700101T000001Z"
    secret_file.write_text("other")
    assert file.sign("GET", file.url) != second


def test_a_session_token_goes_with_the_keys(secret_file: Path, tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.write_text("temporary\n")
    keys = credential(
        access_key_id="AKID", secret_key_file=str(secret_file), session_token_file=str(session)
    )
    file = s3_file(IMAGE, keys)
    assert file.sign is not None
    assert file.sign("GET", file.url)["x-amz-security-token"] == "temporary"


def test_keys_that_cannot_be_read_fail_the_request(tmp_path: Path) -> None:
    file = s3_file(
        IMAGE, credential(access_key_id="AKID", secret_key_file=str(tmp_path / "absent"))
    )
    assert file.sign is not None
    with pytest.raises(ImageDownloadError, match="absent"):
        file.sign("GET", file.url)
