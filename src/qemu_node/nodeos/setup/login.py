"""Who may log in to the installed node: what the live system's administrator has set.

Owns reading root's keys and password of the running system, and hashing a password. Does not own
what a seed says (`seed`). Hashes are made and checked by libcrypt, as PAM does.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qemu_node.errors import ConfigError, MissingPartError
from qemu_node.host.files.reading import read_or_empty
from qemu_node.nodeos.setup.seed import check_key, check_password_hash

LIVE_PASSWORD: Final = "elemental"
"""What everybody knows: the live system's password on its console."""

_HASH_METHOD = b"$y$"  # yescrypt, as `passwd` of Debian 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How root logs in to the node."""

    keys: tuple[str, ...] = ()
    """Lines of an authorized_keys file."""
    password_hash: str = field(default="", repr=False)
    """For the console; sshd takes keys only. Empty: no password."""

    @property
    def is_possible(self) -> bool:
        """Whether anybody can log in."""
        return bool(self.keys or self.password_hash)


def read_login(root: Path) -> Login:
    """Return what was set on the running system: nothing that it was shipped with."""
    return Login(
        keys=parse_keys(read_or_empty(root / "root/.ssh/authorized_keys")),
        password_hash=own_password(read_or_empty(root / "etc/shadow")),
    )


def parse_keys(text: str) -> tuple[str, ...]:
    """Return the keys in the text of an authorized_keys file; other lines are left out. Pure."""
    found = []
    for line in map(str.strip, text.splitlines()):
        try:
            if line and not line.startswith("#"):
                check_key(line)
                found.append(line)
        except ConfigError:
            continue
    return tuple(dict.fromkeys(found))


def own_password(shadow: str) -> str:
    """Return root's password hash in the text of /etc/shadow; nothing for the live system's own."""
    for line in shadow.splitlines():
        name, _, rest = line.partition(":")
        value = rest.partition(":")[0]
        if name == "root":
            try:
                check_password_hash(value)
            except ConfigError:
                return ""  # locked, or empty
            return "" if is_password(LIVE_PASSWORD, value) else value
    return ""


def is_password(password: str, hashed: str) -> bool:
    """Tell whether `hashed` is a hash of `password`. Takes some time, on purpose.

    Raises:
        MissingPartError: there is no libcrypt.
    """
    return _crypt(password.encode(), hashed.encode()) == hashed.encode()


def hash_password(password: str) -> str:
    """Return a new hash of `password`.

    Raises:
        MissingPartError: there is no libcrypt.
        ConfigError: it cannot be a password.
    """
    library = _libcrypt()
    library.crypt_gensalt.restype = ctypes.c_char_p
    salt = library.crypt_gensalt(_HASH_METHOD, ctypes.c_ulong(0), None, 0)
    hashed = _crypt(password.encode(), salt or b"*0")
    if not password or hashed is None or not hashed.startswith(b"$"):
        raise ConfigError("this cannot be a password")
    return hashed.decode()


def _crypt(password: bytes, setting: bytes) -> bytes | None:
    """Return crypt(3)'s answer; None if it has none."""
    library = _libcrypt()
    library.crypt.restype = ctypes.c_char_p
    result: bytes | None = library.crypt(password, setting)
    return result


def _libcrypt() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcrypt.so.1")
    except OSError as exc:
        raise MissingPartError(
            "there is no libcrypt.so.1, which hashes passwords", hint="apt install libcrypt1"
        ) from exc
