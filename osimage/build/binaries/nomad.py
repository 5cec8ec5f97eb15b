"""Nomad: the release's archive, whose checksum HashiCorp has signed.

Source: developer.hashicorp.com, "Verify HashiCorp binary downloads"; gpg's doc/DETAILS, "VALIDSIG".
"""

import base64
import binascii
import hashlib
import re
import zipfile
from pathlib import Path

from osimage.build.binaries.download import download, sha256_of
from osimage.build.binaries.lock import NomadLock
from osimage.build.errors import BuildError
from osimage.build.namespace import run_in
from osimage.build.stages import Stages, digest_of

_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_ARCHIVE = "nomad.zip"
_PROGRAM = "nomad"
_VERDICTS = ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG")


def fetch_nomad(stages: Stages, tools: Path, lock: NomadLock) -> Path:
    """Return the program of the pinned release, downloaded once and checked at each use.

    The archive stays beside the program: the lock file has its checksum, and not the program's.

    Raises:
        BuildError: it cannot be fetched, or is not what the lock file and the signature say.
    """

    def make(target: Path, scratch: Path) -> None:
        target.mkdir()
        archive = target / _ARCHIVE
        check_sums(_signed_sums(tools, lock, scratch), lock)
        got = download(lock.url, archive)
        if got != lock.sha256:
            raise BuildError(f"{lock.url} has sha256 {got}, not {lock.sha256} of binaries.toml")
        try:
            with zipfile.ZipFile(archive) as unpacked:
                unpacked.extract(_PROGRAM, target)
        except (KeyError, zipfile.BadZipFile) as exc:
            raise BuildError(f"{lock.url} is no archive with {_PROGRAM}: {exc}") from exc
        (target / _PROGRAM).chmod(0o755)

    kept = stages.get(
        "nomad", digest_of(["nomad 2", repr(lock)]), make, about=f"downloads Nomad {lock.version}",
        is_sound=lambda entry: is_of_archive(entry, lock),
    )  # fmt: skip
    return kept / _PROGRAM


def is_of_archive(entry: Path, lock: NomadLock) -> bool:
    """Tell whether an entry's archive is the pinned one, and its program what is in that."""
    archive = entry / _ARCHIVE
    try:
        if sha256_of(archive) != lock.sha256:
            return False
        with zipfile.ZipFile(archive) as unpacked, unpacked.open(_PROGRAM) as member:
            total = hashlib.sha256()
            while chunk := member.read(_CHUNK_BYTES):
                total.update(chunk)
        return total.hexdigest() == sha256_of(entry / _PROGRAM)
    except FileNotFoundError:
        return False


def _signed_sums(tools: Path, lock: NomadLock, scratch: Path) -> str:
    """Return the release's list of checksums, after its signature was checked."""
    for url, name in ((lock.sums, "sums"), (f"{lock.sums}.sig", "sig"), (lock.key, "key.asc")):
        download(url, scratch / name, max_bytes=_SMALL_BYTES)
    armoured = (scratch / "key.asc").read_text(errors="replace")
    (scratch / "key.gpg").write_bytes(dearmor(armoured))
    done = run_in(
        tools,
        ["gpgv", "--status-fd", "1", "--keyring", "/work/key.gpg", "/work/sig", "/work/sums"],
        binds={scratch: "/work"}, check=False,
    )  # fmt: skip
    check_signature(done.stdout.decode(errors="replace"), lock)
    return (scratch / "sums").read_text()


def dearmor(text: str) -> bytes:
    """Return the bytes in an ASCII-armoured block (RFC 9580, 6.2); its checksum is not needed.

    Raises:
        BuildError: there is no such block.
    """
    found = re.search(
        r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+: [^\r\n]*\r?\n)*\r?\n"
        r"([A-Za-z0-9+/=\r\n]+?)(?:\r?\n=[A-Za-z0-9+/]{4})?\r?\n-----END",
        text,
    )
    try:
        if found is not None:
            return base64.b64decode(found[1])
    except binascii.Error:
        pass
    raise BuildError("the address of HashiCorp's key in binaries.toml has no key")


def check_signature(status: str, lock: NomadLock) -> None:
    """Raise unless gpgv's status lines say that the pinned key signed, and is still good.

    Raises:
        BuildError: it did not, or it is revoked or expired.
    """
    verdict = ""
    for line in status.splitlines():
        mark, *words = line.split()
        if mark != "[GNUPG:]" or not words:
            continue
        if words[0] == "NEWSIG":
            verdict = ""
        elif words[0] in _VERDICTS:
            verdict = words[0]
        # The last word is the primary key; the first fingerprint may be a subkey's.
        elif words[0] == "VALIDSIG" and words[-1] == lock.key_fingerprint:
            # It comes for a revoked or expired key too.
            if verdict == "GOODSIG":
                return
            raise BuildError(
                f"{lock.sums} is signed by the key {lock.key_fingerprint}, which is revoked or "
                f"expired ({verdict or 'no verdict'} of gpgv)",
                hint="pin a newer release in osimage/binaries.toml",
            )
    raise BuildError(
        f"{lock.sums} is not signed by the key {lock.key_fingerprint}",
        hint="do not use it; compare with HashiCorp's security page",
    )


def check_sums(sums: str, lock: NomadLock) -> None:
    """Raise unless the list of checksums says what the lock file does.

    Raises:
        BuildError: it does not.
    """
    name = lock.url.rpartition("/")[2]
    for line in sums.splitlines():
        if line.split() == [lock.sha256, name]:
            return
    raise BuildError(f"the signed checksums do not have {name} with {lock.sha256}")
