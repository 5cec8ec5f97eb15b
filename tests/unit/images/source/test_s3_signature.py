from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.source.credentials import S3Keys
from qemu_node.images.source.s3 import (
    EMPTY_PAYLOAD,
    UNSIGNED_PAYLOAD,
    SigningScope,
    amz_date,
    authorization,
    encode_path,
    s3_headers,
)

# "Examples: Signature Calculations" in the Amazon S3 API Reference.
S3_KEYS = S3Keys(
    access_key_id="AKIAIOSFODNN7EXAMPLE",
    secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
)
S3_TIME_S = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
S3_HOST = "https://examplebucket.s3.amazonaws.com"
US_EAST_1 = SigningScope(region="us-east-1")

# The AWS Signature Version 4 test suite (aws-sig-v4-test-suite), which signs Host and X-Amz-Date.
SUITE_KEYS = S3Keys(
    access_key_id="AKIDEXAMPLE",
    secret_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
)
SUITE_PLACE = SigningScope(region="us-east-1", service="service")
SUITE_DATE = {"X-Amz-Date": "20150830T123600Z"}


def signature(header: str) -> str:
    return header.rpartition("Signature=")[2]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        # get-vanilla-query-order-key-case
        (
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        # get-unreserved
        (
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        # get-utf8
        ("/ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    ],
)
def test_signatures_are_those_of_the_published_suite(url: str, expected: str) -> None:
    header = authorization(
        "GET", f"https://example.amazonaws.com{url}", SUITE_DATE, SUITE_KEYS, SUITE_PLACE
    )
    assert signature(header) == expected
    assert header.startswith(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, "
    )


def test_the_signature_with_a_session_token_is_that_of_the_suite() -> None:
    # get-vanilla-with-session-token
    token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
    header = authorization(
        "GET",
        "https://example.amazonaws.com/",
        {**SUITE_DATE, "X-Amz-Security-Token": token},
        SUITE_KEYS,
        SUITE_PLACE,
    )
    expected = "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"
    assert signature(header) == expected


@pytest.mark.parametrize(
    ("url", "more", "expected"),
    [
        (
            "/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "/?lifecycle",
            {},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?max-keys=2&prefix=J",
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signatures_are_those_of_the_examples_of_s3(
    url: str, more: dict[str, str], expected: str
) -> None:
    headers = {
        "x-amz-date": "20130524T000000Z",
        "x-amz-content-sha256": EMPTY_PAYLOAD,
        **more,
    }
    header = authorization("GET", f"{S3_HOST}{url}", headers, S3_KEYS, US_EAST_1)
    assert signature(header) == expected


def test_the_headers_for_s3_are_complete_and_sign_each_other() -> None:
    headers = s3_headers(
        "GET", f"{S3_HOST}/test.txt", S3_KEYS, US_EAST_1, S3_TIME_S, payload=EMPTY_PAYLOAD
    )
    assert headers["x-amz-date"] == "20130524T000000Z"
    assert headers["x-amz-content-sha256"] == EMPTY_PAYLOAD
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date," in headers["Authorization"]
    assert headers["Authorization"] == authorization(
        "GET",
        f"{S3_HOST}/test.txt",
        {name: value for name, value in headers.items() if name != "Authorization"},
        S3_KEYS,
        US_EAST_1,
    )


def test_a_body_is_left_unsigned_by_default() -> None:
    headers = s3_headers("GET", f"{S3_HOST}/x", S3_KEYS, US_EAST_1, S3_TIME_S)
    assert headers["x-amz-content-sha256"] == UNSIGNED_PAYLOAD


def test_a_session_token_is_sent_and_signed() -> None:
    keys = S3Keys(
        access_key_id=S3_KEYS.access_key_id,
        secret_key=S3_KEYS.secret_key,
        session_token="temporary",
    )
    headers = s3_headers("GET", f"{S3_HOST}/x", keys, US_EAST_1, S3_TIME_S)
    assert headers["x-amz-security-token"] == "temporary"
    assert "x-amz-date;x-amz-security-token," in headers["Authorization"]


def test_keys_show_no_secret_as_text() -> None:
    keys = S3Keys(access_key_id="AKID", secret_key="hunter2", session_token="hunter3")
    assert "hunter" not in repr(keys)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://h:443/x", "https://h/x"),
        ("http://h:80/x", "http://h/x"),
        ("https://H/x", "https://h/x"),
    ],
)
def test_the_signed_host_is_the_one_that_a_client_sends(url: str, same: str) -> None:
    signed = [authorization("GET", u, SUITE_DATE, SUITE_KEYS, SUITE_PLACE) for u in (url, same)]
    assert signed[0] == signed[1]


def test_a_port_of_its_own_is_part_of_the_signed_host() -> None:
    urls = ("http://h:9000/x", "http://h/x")
    signed = {authorization("GET", url, SUITE_DATE, SUITE_KEYS, SUITE_PLACE) for url in urls}
    assert len(signed) == 2


@given(st.text())
def test_a_path_is_encoded_once_however_often_it_is_asked(text: str) -> None:
    path = "/" + text.encode(errors="replace").decode()
    encoded = encode_path(path.replace("%", "%25"))
    assert encoded.isascii()
    assert encode_path(encoded) == encoded
    assert unquote_to_bytes(encoded) == path.encode()


@given(st.text(), st.floats(min_value=0, max_value=4e9))
def test_any_url_gives_one_line(text: str, now_s: float) -> None:
    url = f"https://h/{text.encode(errors='replace').decode()}"
    try:
        urlsplit(url)
    except ValueError:
        return
    headers = s3_headers("GET", url, S3_KEYS, US_EAST_1, now_s)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert len(amz_date(now_s)) == len("20130524T000000Z")
