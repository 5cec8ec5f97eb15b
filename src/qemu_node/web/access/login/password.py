"""Login by one password for the whole console, where there is no Nomad to ask.

Owns the file's form: one line with scrypt's parameters, salt and hash. Does not own how often
somebody may try (`attempts`). The file is readable by nobody but its owner and the daemon, to which
systemd may hand it over (`LoadCredential=`).
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import ConfigError
from qemu_node.host.files.reading import read_secret

PASSWORD_MIN_CHARS = 12
PASSWORD_MAX_CHARS = 1024
_LOG2_N = 15
_R = 8
_P = 1
"""Cost of one attempt: 32 MiB (128 · N · r) and about 0.1 s of a core."""
_LOG2_N_MAX = 20
_SALT_BYTES = 16
_HINT = "`qemu-node serve --make-password` makes what the file must hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordHash:
    """What a file holds."""

    log2_n: int
    r: int
    p: int
    salt: bytes
    hashed: bytes

    def is_of(self, password: str) -> bool:
        """Tell whether this is the password. Takes time and memory: for a thread."""
        found = _scrypt(password, self.salt, self.log2_n, self.r, self.p)
        return hmac.compare_digest(found, self.hashed)


def make_hash(password: str) -> str:
    """Return the line that the file must hold for `password`.

    Raises:
        ConfigError: it is too short or too long.
    """
    if not PASSWORD_MIN_CHARS <= len(password) <= PASSWORD_MAX_CHARS:
        raise ConfigError(f"a password has at least {PASSWORD_MIN_CHARS} characters")
    salt = secrets.token_bytes(_SALT_BYTES)
    hashed = _scrypt(password, salt, _LOG2_N, _R, _P)
    return f"scrypt${_LOG2_N}${_R}${_P}${_text(salt)}${_text(hashed)}"


def parse_hash(line: str) -> PasswordHash:
    """Return what a line of `make_hash` says.

    Raises:
        ConfigError: it is another one.
    """
    try:
        kind, log2_n, r, p, salt, hashed = line.strip().split("$")
        found = PasswordHash(
            log2_n=int(log2_n),
            r=int(r),
            p=int(p),
            salt=base64.b64decode(salt, validate=True),
            hashed=base64.b64decode(hashed, validate=True),
        )
    except ValueError as exc:
        raise ConfigError("this is no hash of a password", hint=_HINT) from exc
    is_sound = 14 <= found.log2_n <= _LOG2_N_MAX and found.r == _R and 1 <= found.p <= 4
    if kind != "scrypt" or not is_sound or len(found.salt) < 8 or len(found.hashed) != 64:
        raise ConfigError("this is no hash of a password", hint=_HINT)
    return found


def read_hash(path: Path) -> PasswordHash:
    """Return what the file holds.

    Raises:
        ConfigError: it cannot be read, others may read or change it, or it holds no hash.
    """
    text = read_secret(path, hint=_HINT)
    try:
        return parse_hash(text)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}", hint=exc.hint) from exc


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    n = 1 << log2_n
    # OpenSSL refuses more than 32 MiB if it is not told otherwise, and counts its own overhead.
    return hashlib.scrypt(
        password.encode(errors="surrogatepass"),
        salt=salt,
        n=n,
        r=r,
        p=p,
        maxmem=2 * 128 * n * r,
        dklen=64,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
