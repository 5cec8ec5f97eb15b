import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.source.name import url_source
from qemu_node.images.source.presigned import without_signature

OBJECT = "https://images.example.org/debian/13.qcow2"
AMAZON = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20261130%2Feu-central-1%2Fs3%2F"
    "aws4_request&X-Amz-Date={n}&X-Amz-Expires=3600&X-Amz-SignedHeaders=host"
    "&X-Amz-Security-Token=token{n}&X-Amz-Signature=abc{n}"
)
GOOGLE = (
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b.iam%2F20261130%2Fauto%2Fstorage%2F"
    "goog4_request&X-Goog-Date={n}&X-Goog-Expires=60&X-Goog-SignedHeaders=host&X-Goog-Signature={n}"
)
AZURE = "sv=2022-11-02&st={n}&se={n}&sr=b&sp=r&spr=https&skoid=1&sktid=2&skt=3&ske=4&sig=a%2F{n}"
SIGNATURES = [
    AMAZON,
    AMAZON.lower(),
    GOOGLE,
    AZURE,
    "AWSAccessKeyId=AKID&Expires={n}&Signature=a%3D{n}",
    "GoogleAccessId=a%40b.iam&Expires={n}&Signature={n}",
    "Expires={n}&Signature={n}&Key-Pair-Id=K1",
    "Policy={n}&Signature={n}&Key-Pair-Id=K1",
]


def key(url: str, scope: str = "") -> str:
    return url_source(url, "image").key(scope)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_new_signature_names_the_same_object(signature: str) -> None:
    first, second = (f"{OBJECT}?{signature.format(n=n)}" for n in (1, 2))
    assert without_signature(first) == OBJECT
    assert key(first) == key(second)
    assert key(first, "a") != key(second, "b")
    assert url_source(first, "image").signature != url_source(second, "image").signature


@pytest.mark.parametrize("signature", SIGNATURES)
def test_what_else_the_query_names_is_part_of_the_key(signature: str) -> None:
    query = signature.format(n=1)
    assert without_signature(f"{OBJECT}?versionId=7&{query}&x=1") == f"{OBJECT}?versionId=7&x=1"
    assert key(f"{OBJECT}?versionId=7&{query}") != key(f"{OBJECT}?versionId=8&{query}")


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_url_without_its_signature_is_another_source(signature: str) -> None:
    assert key(OBJECT) != key(f"{OBJECT}?{signature.format(n=1)}")
    assert url_source(OBJECT, "image").signature is None


@pytest.mark.parametrize(
    "query",
    [
        "sig=1",
        "sv=2&sig=1&si=a",
        "Signature=1",
        "Expires=1&Signature=1",
        "X-Amz-Date=1",
        "token=1",
        "",
    ],
)
def test_other_secrets_stay_part_of_the_key(query: str) -> None:
    assert without_signature(f"{OBJECT}?{query}") is None
    assert url_source(f"{OBJECT}?{query}", "image").signature is None


@given(st.text())
def test_any_text_has_a_signature_or_none(text: str) -> None:
    found = without_signature(f"{OBJECT}?{text}")
    assert found is None or (found.startswith(OBJECT) and len(found) <= len(text) + len(OBJECT))
