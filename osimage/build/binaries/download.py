"""Files by https, with the certificates and the proxy of this machine."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from osimage.build.errors import BuildError

_TIMEOUT_S = 60.0
_MAX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_HINT = "check the network, https_proxy and SSL_CERT_FILE, or give the program: NOMAD=PATH"


def download(url: str, target: Path, *, max_bytes: int = _MAX_BYTES) -> str:
    """Write what `url` has to the file `target`, and return its sha256.

    Raises:
        BuildError: it could not be fetched whole.
    """
    total = hashlib.sha256()
    size = 0
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer,
            target.open("wb") as file,
        ):
            while chunk := answer.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise BuildError(f"{url} has more than {max_bytes >> 20} MiB")
                total.update(chunk)
                file.write(chunk)
            said = answer.headers["Content-Length"]
    except (urllib.error.URLError, ssl.SSLError, http.client.HTTPException, OSError) as exc:
        raise BuildError(f"cannot fetch {url}: {exc}", hint=_HINT) from exc
    if said is not None and int(said) != size:
        raise BuildError(f"cannot fetch {url}: it ended after {size} of {said} bytes", hint=_HINT)
    return total.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
