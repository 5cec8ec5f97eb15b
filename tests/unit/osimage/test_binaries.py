import base64
import tomllib

import pytest

from osimage.build.binaries.lock import LOCK, parse, read
from osimage.build.binaries.nomad import check_signature, check_sums, dearmor
from osimage.build.errors import BuildError

LOCKED = read().nomad
KEY = LOCKED.key_fingerprint
SUBKEY = "0" * 40


def test_the_lock_of_the_image_is_right() -> None:
    lock = read()
    assert lock.nomad.version in lock.nomad.url
    assert lock.nomad.version in lock.nomad.sums
    assert lock.elemental.image == f"{lock.elemental.repository}:v{lock.elemental.version}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://releases", "http://releases"),
        ('sha256 = "c6', 'sha256 = "zz'),
        ("[elemental]", "[elementary]"),
        ('digest = ""', 'digest = "sha256:12"'),
        ("key_fingerprint", "finger"),
    ],
)
def test_a_wrong_lock_is_refused(old: str, new: str) -> None:
    text = LOCK.read_text()
    assert old in text
    tomllib.loads(text)
    with pytest.raises(BuildError, match=r"binaries\.toml is wrong"):
        parse(text.replace(old, new))


def test_a_signature_by_a_subkey_of_the_pinned_key_is_taken() -> None:
    status = (
        f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {SUBKEY[-16:]} HashiCorp\n"
        f"[GNUPG:] VALIDSIG {SUBKEY} 2026-08-12 17 0 4 0 1 8 00 {KEY}\n"
    )
    check_signature(status, LOCKED)


@pytest.mark.parametrize(
    "status",
    [
        "",
        f"[GNUPG:] GOODSIG {KEY} HashiCorp",
        f"[GNUPG:] VALIDSIG {KEY} 2026-08-12 17 0 4 0 1 8 00 {SUBKEY}",
        f"[GNUPG:] BADSIG {KEY}",
        f"[GNUPG:] NOTATION_DATA VALIDSIG {KEY}",
    ],
)
def test_every_other_signature_is_refused(status: str) -> None:
    with pytest.raises(BuildError, match="not signed by"):
        check_signature(status, LOCKED)


def test_the_signed_list_must_have_the_locked_checksum() -> None:
    name = LOCKED.url.rpartition("/")[2]
    check_sums(f"{'0' * 64}  other.zip\n{LOCKED.sha256}  {name}\n", LOCKED)
    for wrong in (f"{'0' * 64}  {name}\n", f"{LOCKED.sha256}  other.zip\n", ""):
        with pytest.raises(BuildError, match="signed checksums"):
            check_sums(wrong, LOCKED)


@pytest.mark.parametrize("verdict", ["REVKEYSIG", "EXPKEYSIG", "EXPSIG"])
def test_the_signature_of_a_key_that_is_not_good_any_more_is_refused(verdict: str) -> None:
    """Also after a good signature of somebody else."""
    status = (
        f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {SUBKEY[-16:]} other\n"
        f"[GNUPG:] VALIDSIG {SUBKEY} 2026-08-12 17 0 4 0 1 8 00 {SUBKEY}\n"
        f"[GNUPG:] NEWSIG\n[GNUPG:] {verdict} {KEY[-16:]} HashiCorp\n"
        f"[GNUPG:] VALIDSIG {KEY} 2026-08-12 17 0 4 0 1 8 00 {KEY}\n"
    )
    with pytest.raises(BuildError, match=f"revoked or expired .{verdict}"):
        check_signature(status, LOCKED)


@pytest.mark.parametrize("head", ["", "Version: 1\nComment: x y\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_armour_is_taken_off(head: str, end: str) -> None:
    body = base64.encodebytes(bytes(range(200))).decode()
    text = (
        f"words\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n{head}\n{body}=abcd\n"
        "-----END PGP PUBLIC KEY BLOCK-----\n"
    ).replace("\n", end)
    assert dearmor(text) == bytes(range(200))


@pytest.mark.parametrize(
    "page",
    [
        "<html>not found</html>",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n",
    ],
)
def test_a_page_without_a_key_is_refused(page: str) -> None:
    with pytest.raises(BuildError, match="no key"):
        dearmor(page)
