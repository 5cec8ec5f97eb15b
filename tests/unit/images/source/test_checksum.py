import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ImageError, JobError
from qemu_node.images.source.checksum import Algorithm, Checksum, find_in_sums, parse_checksum
from qemu_node.images.source.name import UrlSource

A256, B256 = "a" * 64, "b" * 64
A512 = "c" * 128
BASE64 = base64.b64encode(bytes.fromhex(A256)).decode()
SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
SIGNATURE = (
    f"-----BEGIN PGP SIGNATURE-----\n\n{'A' * 64}\n{'b' * 43}=\n=abcd\n"
    "-----END PGP SIGNATURE-----\n"
)
NAME = "debian-13-generic-amd64.qcow2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha256:{A256}", Checksum(Algorithm.SHA256, A256)),
        (f" SHA256:{A256.upper()} ", Checksum(Algorithm.SHA256, A256)),
        (f"sha512:{A512}", Checksum(Algorithm.SHA512, A512)),
    ],
)
def test_digest_is_understood(text: str, expected: Checksum) -> None:
    assert parse_checksum(text) == expected


def test_url_names_a_sums_file() -> None:
    source = parse_checksum("https://user:pw@example.org/SHA512SUMS")
    assert isinstance(source, UrlSource)
    assert str(source) == "https://example.org/SHA512SUMS"


@pytest.mark.parametrize(
    "text",
    [
        "", A256, f"md5:{'a' * 32}", f"sha1:{'a' * 40}", f"sha256:{A512}", f"sha512:{A256}",
        f"sha256:{'g' * 64}", "sha256:", "ftp://host/SHA256SUMS", "https:///SHA256SUMS",
    ],
)  # fmt: skip
def test_other_checksum_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="checksum"):
        parse_checksum(text)


@pytest.mark.parametrize(
    "sums",
    [
        f"{A256}  {NAME}\n",
        f"{A256} *{NAME}\r\n",
        f"{B256}  other.qcow2\n{A256}  {NAME}\n",
        f"{A256}  ./{NAME}\n",
        f"{A256}  images/{NAME}\n{B256}  images/other.qcow2",
        f"SHA256 ({NAME}) = {A256}\n",
        f"SHA256({NAME})= {A256.upper()}\n",
        f"# x\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSHA256 ({NAME}) = {A256}\n",
        f"MD5 ({NAME}) = {'d' * 32}\nSHA256 ({NAME}) = {A256}\n",
        f"{A512}  {NAME}\n{A256}  {NAME}\n",
        f"{B256}  old/{NAME}\n{A256}  {NAME}\n",
        f"{A256}\n",
        f"{A256} {NAME}\r\n{B256} other.qcow2\r\n",
        f"{A256}\t{NAME}\n",
        f"  {A256}  {NAME}  \n",
        f"{A256}  {NAME}\r{B256}  other\r",
        f"{A256}  {NAME}\0{B256}  other\0",
        f"\\{A256}  {NAME}\n",
        f"\\{A256} *dir\\\\x\\n/{NAME}\n",
        f"\\SHA256 ({NAME}) = {A256}\n",
        f"SHA2-256({NAME})= {A256}\n",
        f"SHA2-256 ({NAME}) = {A256}\n",
        f"sha256 ({NAME}) = {A256.upper()}\n",
        f"SHA3-256({NAME})= {B256}\nSHA256({NAME})= {A256}\n",
        f"SHA512/256 ({NAME}) = {B256}\nSHA256 ({NAME}) = {A256}\n",
        f"HMAC-SHA256({NAME})= {B256}\nSHA256({NAME})= {A256}\n",
        f"BLAKE2b (x) = {A512}\n{A256}  {NAME}\n",
        f"SHA2-256({NAME})= {':'.join(['aa'] * 32)}\n",
        f"{BASE64}  {NAME}\n",
        f"SHA256 ({NAME}) = {BASE64}\n",
        f"{BASE64}\n",
        f"{A256}  -\n",
        f"{A256} *stdin\n",
        f"SHA2-256(stdin)= {A256}\n",
        f"(stdin)= {A256}\n",
        f"SHA256 ({NAME})\t=  {A256}\n",
        f"{B256}  other\r\n\ufeff{A256}  {NAME}\r\n",
        f"# for {NAME}\n\n{A256}\n",
        f"Algorithm  Hash  Path\r\n---  ---  ---\r\nSHA256  {A256.upper()}  C:\\x\\{NAME}\r\n",
        f"Algorithm : SHA256\r\nHash      : {A256.upper()}\r\nPath      : C:\\{NAME}\r\n",
        f"{A256} *C:\\images\\{NAME}\r\n",
        f"{SIGNED}SHA256 ({NAME}) = {A256}\n{SIGNATURE}",
        f"{SIGNED}{A256}\n{SIGNATURE}",
        f"{SIGNED}\n{A256}  {NAME}\n{SIGNATURE}".replace("\n", "\r\n"),
    ],
)
def test_digest_is_found_in_a_sums_file(sums: str) -> None:
    assert find_in_sums(sums, NAME, "SUMS") == Checksum(Algorithm.SHA256, A256)


def test_sha512_is_found_where_it_is_the_only_one() -> None:
    sums = f"{A512}  {NAME}\n"
    assert find_in_sums(sums, NAME, "SUMS") == Checksum(Algorithm.SHA512, A512)


@pytest.mark.parametrize(
    "sums",
    [
        "",
        f"{A256}  other.qcow2\n",
        f"{A256}  prefix-{NAME}\n",
        f"SHA256 ({NAME}) = {A512}\n",
        f"{A256}\n{B256}\n",
        "<html>not found</html>",
        f"SHA3-256({NAME})= {A256}\n",
        f"MD5 ({NAME}) = {A256}\n",
        f"{A256[:-1]}  {NAME}\n",
        f"{A256}0  {NAME}\n",
        f"{A256}{NAME}\n",
        f"SHA256 ({NAME}) = {A256}  x\n",
        f"({NAME})= {A256}\n",
    ],
)
def test_file_that_is_not_listed_is_an_error_naming_it(sums: str) -> None:
    with pytest.raises(ImageError, match=f"http://h/SUMS lists no .*{NAME}"):
        find_in_sums(sums, NAME, "http://h/SUMS")


def test_contradictory_sums_file_is_an_error() -> None:
    with pytest.raises(ImageError, match="several"):
        find_in_sums(f"{A256}  a/{NAME}\n{B256}  b/{NAME}\n", NAME, "SUMS")


def test_escaped_name_means_the_characters_that_it_stands_for() -> None:
    assert find_in_sums(f"\\{A256}  a\\nb\\\\c\n", "a\nb\\c", "SUMS").digest == A256
    assert find_in_sums(f"{A256}  a\\nb\n", "a\\nb", "SUMS").digest == A256


@given(st.text(max_size=300), st.text(max_size=20))
def test_any_sums_file_gives_a_digest_or_an_image_error(text: str, name: str) -> None:
    try:
        checksum = find_in_sums(text, name, "SUMS")
    except ImageError:
        return
    assert len(checksum.digest) == checksum.algorithm.hex_chars
