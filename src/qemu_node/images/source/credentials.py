"""The operator's credentials for sources, found by host and namespace.

Owns which entry of `[[images.credentials]]` is used for which job, when its secret may be sent, and
reading the secret's file at each use, so that a new secret is used at once. Does not own the checks
of the entries (`config.images`) nor the protocols that use them (`http`, `registry`, `s3`).

No secret is kept, shown, or part of a key in the cache.
"""

import base64
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from qemu_node.config.images import CredentialConfig, canonical_host
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.httpfile import Sign
from qemu_node.images.http.url import is_loopback, parse_url

log = logging.getLogger(__name__)

_SECRET_MAX_BYTES = 64 << 10
_LOOSE_MODE = 0o027  # written by the group, or anything by others


class SecretFile:
    """A file that holds one secret on one line."""

    def __init__(self, path: str) -> None:
        """Nothing is read yet."""
        self.path = path
        self._is_judged = False

    def __repr__(self) -> str:
        return f"SecretFile({self.path!r})"

    def read(self) -> str:
        """Return the secret as the file holds it now, without the line's end. Blocks.

        Raises:
            ImageDownloadError: it cannot be read; it may be being replaced just now.
        """
        secret, info = self._load()
        if not self._is_judged:
            self._is_judged = True
            for problem in loose_permissions(info):
                log.warning(
                    "secret file is not protected", extra={"path": self.path, "problem": problem}
                )
        return secret

    def problems(self) -> list[str]:
        """Return what the operator should fix, in sentences without the secret. Blocks."""
        try:
            _, info = self._load()
        except ImageDownloadError as exc:
            return [str(exc)]
        return [f"the secret {self.path}: {problem}" for problem in loose_permissions(info)]

    def _load(self) -> tuple[str, os.stat_result]:
        try:
            content, info = self._read_bytes()
            secret = content.decode().removesuffix("\n").removesuffix("\r")
        except OSError as exc:
            raise self._unusable(f"cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError:
            # Without its cause, which repeats the bytes.
            raise self._unusable("is not text") from None
        if not secret.isprintable() or not secret:
            raise self._unusable("must hold exactly one line")
        return secret, info

    def _read_bytes(self) -> tuple[bytes, os.stat_result]:
        # Links are followed: secrets are often replaced that way. A FIFO must not block us.
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise self._unusable("is not a regular file")
            if info.st_size > _SECRET_MAX_BYTES:
                raise self._unusable("is too large for a secret")
            return os.read(fd, _SECRET_MAX_BYTES), info
        finally:
            os.close(fd)

    def _unusable(self, problem: str) -> ImageDownloadError:
        return ImageDownloadError(
            f"the secret {self.path} {problem}", hint="see images.credentials in node.toml"
        )


def loose_permissions(info: os.stat_result) -> list[str]:
    """Return what is wrong with the owner and mode of a secret's file. Pure."""
    problems = []
    if info.st_uid not in (0, os.geteuid()):
        problems.append(f"it belongs to user {info.st_uid}")
    if info.st_mode & _LOOSE_MODE:
        problems.append(f"its mode is {stat.S_IMODE(info.st_mode):04o}, it should be 0600")
    return problems


def basic_header(user: str, password: str) -> dict[str, str]:
    """Return the Authorization header of a user with a password (RFC 7617). Pure."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicLogin:
    """A user and a password."""

    username: str
    password: SecretFile

    def headers(self) -> dict[str, str]:
        """Return the Authorization header. Blocks for the secret's file."""
        return basic_header(self.username, self.password.read())


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Keys:
    """What signs a request of S3; as text it shows no secret."""

    access_key_id: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """Where a bucket is, and the keys for it."""

    region: str
    endpoint: str = ""
    """http(s)://host[:port]; empty: Amazon's of the region."""
    access_key_id: str = ""
    """Empty: asked for without a signature."""
    secret_key: SecretFile | None = None
    session_token: SecretFile | None = None

    def keys(self) -> S3Keys | None:
        """Return the keys with their secrets. Blocks for the secrets' files."""
        if self.secret_key is None:
            return None
        return S3Keys(
            access_key_id=self.access_key_id,
            secret_key=self.secret_key.read(),
            session_token=None if self.session_token is None else self.session_token.read(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One entry of `[[images.credentials]]`; at most one of `basic`, `bearer`, `s3` is set."""

    scope: str
    """Part of the cache's key: same scope, same rights. Without the secret, which may change."""
    host: str
    plain_http: bool = False
    """Whether http is used for the host, and the secret is sent over it."""
    basic: BasicLogin | None = None
    bearer: SecretFile | None = None
    s3: S3Access | None = field(default=None)

    def sign_http(self) -> Sign | None:
        """Return the `Sign` for a web server; None without a password or token."""
        if self.basic is None and self.bearer is None:
            return None
        return self._http_headers

    def sign_basic(self) -> Sign | None:
        """Return the `Sign` with the user and the password; None without these."""
        return None if self.basic is None else self._http_headers

    def _http_headers(self, _method: str, url: str) -> Mapping[str, str]:
        target = parse_url(url)
        if target.scheme != "https" and not self.plain_http and not is_loopback(target.host):
            raise ImageRefusedError(
                f"the credentials of {self.host} are not sent over plain http",
                hint="use https, or set plain_http in images.credentials in node.toml",
            )
        if self.basic is not None:
            return self.basic.headers()
        assert self.bearer is not None
        return {"Authorization": f"Bearer {self.bearer.read()}"}


class CredentialStore:
    """The operator's credentials."""

    def __init__(self, configs: Iterable[CredentialConfig]) -> None:
        """Take entries that `config` has checked; their files are not read yet."""
        self._by_use: dict[tuple[str, str | None], Credential] = {}
        for entry in configs:
            credential = _credential(entry)
            for namespace in entry.namespaces or (None,):
                self._by_use[credential.host, namespace] = credential

    def find(self, host: str, namespace: str | None) -> Credential | None:
        """Return the credential for `host` and the jobs of `namespace`, or None.

        An entry for the namespace takes precedence over one for all namespaces.

        Args:
            host: `host` or `host:port` of a URL or registry, or `s3://bucket`.
            namespace: The job's; None without a job.
        """
        host = canonical_host(host)
        return self._by_use.get((host, namespace)) or self._by_use.get((host, None))


def secret_problems(configs: Iterable[CredentialConfig]) -> list[str]:
    """Return what is wrong with the files of secrets, for `qemu-node doctor`. Blocks."""
    paths = dict.fromkeys(path for entry in configs for path in entry.secret_files)
    return [problem for path in paths for problem in SecretFile(path).problems()]


def _credential(entry: CredentialConfig) -> Credential:
    basic = bearer = s3 = None
    if entry.is_s3:
        s3 = S3Access(
            region=entry.region,
            endpoint=entry.endpoint.rstrip("/"),
            access_key_id=entry.access_key_id,
            secret_key=_secret(entry.secret_key_file),
            session_token=_secret(entry.session_token_file),
        )
    elif entry.password_file:
        basic = BasicLogin(username=entry.username, password=SecretFile(entry.password_file))
    elif entry.token_file:
        bearer = SecretFile(entry.token_file)
    return Credential(
        scope=_scope(entry),
        host=canonical_host(entry.host),
        plain_http=entry.plain_http,
        basic=basic,
        bearer=bearer,
        s3=s3,
    )


def _secret(path: str) -> SecretFile | None:
    return SecretFile(path) if path else None


def _scope(entry: CredentialConfig) -> str:
    """Return the rights of an entry as text: the host, the user, the namespaces."""
    who = entry.username or entry.access_key_id
    kind = "token" if entry.token_file else "user" if entry.username else "key" if who else "none"
    endpoint = entry.endpoint.rstrip("/")
    namespaces = sorted(set(entry.namespaces))
    parts = [kind, canonical_host(entry.host), who, endpoint, namespaces]
    return msgspec.json.encode(parts).decode()
