"""Nomad: the release's archive, whose checksum HashiCorp has signed.

Source: developer.hashicorp.com, "Verify HashiCorp binary downloads"; gpg's doc/DETAILS, "VALIDSIG".
"""

import base64
import re
import zipfile
from pathlib import Path

from osimage.build.binaries.download import download
from osimage.build.binaries.lock import NomadLock
from osimage.build.errors import BuildError
from osimage.build.namespace import run_in
from osimage.build.stages import Stages, digest_of

_SMALL_BYTES = 1 << 20


def fetch_nomad(stages: Stages, tools: Path, lock: NomadLock) -> Path:
    """Return the program of the pinned release, downloaded once.

    Raises:
        BuildError: it cannot be fetched, or is not what the lock file and the signature say.
    """

    def make(target: Path, scratch: Path) -> None:
        archive = scratch / "nomad.zip"
        check_sums(_signed_sums(tools, lock, scratch), lock)
        got = download(lock.url, archive)
        if got != lock.sha256:
            raise BuildError(f"{lock.url} has sha256 {got}, not {lock.sha256} of binaries.toml")
        with zipfile.ZipFile(archive) as unpacked:
            target.write_bytes(unpacked.read("nomad"))
        target.chmod(0o755)

    return stages.get(
        "nomad", digest_of(["nomad 1", repr(lock)]), make, about=f"downloads Nomad {lock.version}"
    )


def _signed_sums(tools: Path, lock: NomadLock, scratch: Path) -> str:
    """Return the release's list of checksums, after its signature was checked."""
    for url, name in ((lock.sums, "sums"), (f"{lock.sums}.sig", "sig"), (lock.key, "key.asc")):
        download(url, scratch / name, max_bytes=_SMALL_BYTES)
    (scratch / "key.gpg").write_bytes(dearmor((scratch / "key.asc").read_text()))
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
    if found is None:
        raise BuildError("the address of HashiCorp's key in binaries.toml has no key")
    return base64.b64decode(found[1])


def check_signature(status: str, lock: NomadLock) -> None:
    """Raise unless gpgv's status lines say that the pinned key signed.

    Raises:
        BuildError: it did not.
    """
    for line in status.splitlines():
        words = line.split()
        # The last word is the primary key; the first fingerprint may be a subkey's.
        if words[:2] == ["[GNUPG:]", "VALIDSIG"] and words[-1] == lock.key_fingerprint:
            return
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
