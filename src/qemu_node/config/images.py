"""`[images]` of node.toml: which images jobs may use, how they are fetched and kept.

Owns the names, defaults and checks of these settings.
"""

import re

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.units import Share, parse_duration, parse_share, parse_size


class CredentialConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[images.credentials]]`: the credentials for one source. The secrets are in files."""

    host: str
    """`host` or `host:port` of a URL or registry; `s3://bucket`."""
    namespaces: tuple[str, ...] = ()
    """Nomad namespaces whose jobs may use them; empty for all."""
    plain_http: bool = False
    """Use http for the registry, and send the secret over it."""
    username: str = ""
    password_file: str = ""
    token_file: str = ""
    access_key_id: str = ""
    secret_key_file: str = ""
    session_token_file: str = ""
    region: str = "us-east-1"
    endpoint: str = ""
    """http(s)://host[:port] of an S3 server; empty for Amazon's in the region."""

    @property
    def is_s3(self) -> bool:
        """Whether this is for an S3 bucket."""
        return self.host.startswith("s3://")

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files with its secrets."""
        named = (self.password_file, self.token_file, self.secret_key_file, self.session_token_file)
        return tuple(filter(None, named))


class ImagesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images]`: which images jobs may use and how they are fetched."""

    image_paths: tuple[str, ...] = ()
    """Directories of this host whose files a job may name as its image."""
    pull_timeout: str = "10m"
    """How long a start waits for a download. The download goes on afterwards."""
    max_size: str = "256G"
    """Largest download, and largest virtual size of a disk."""
    credentials: tuple[CredentialConfig, ...] = ()
    """For sources that need authentication."""
    sources: tuple[str, ...] = ()
    """What jobs may name: hosts, `*.domain`, or prefixes of sources. Empty for anything."""
    allow_networks: tuple[str, ...] = ()
    """Networks to which connections are allowed although they are refused by default."""
    refuse_networks: tuple[str, ...] = ()
    """Further networks to which connections are refused."""
    ca_file: str = ""
    """Certificates (PEM) that are trusted beside the system's; empty: none."""
    proxy: str = ""
    """http://host:port of a proxy for all sources; empty: none."""
    no_proxy: tuple[str, ...] = ()
    """Hosts, or `*.domain`, that are asked without the proxy."""
    ttl: str = "5m"
    """How long a source's answer is valid; also how often prefetched images are checked."""
    downloads: int = 4
    """How many downloads at once."""
    download_timeout: str = "6h"
    """Time limit of a download."""
    unused_for: str = "7d"
    """An image is removed if no VM has used it for this time."""
    low_space: str = "10%"
    """If less of the cache's file system is free, unused images are removed."""
    high_space: str = "20%"
    """The free space at which that stops."""
    prefetch: tuple[str, ...] = ()
    """Sources whose images the driver downloads and keeps in the cache."""

    @property
    def unused_for_s(self) -> float:
        """`unused_for` in seconds."""
        return parse_duration(self.unused_for)

    @property
    def low_space_share(self) -> Share:
        """`low_space` as a share of the file system."""
        return parse_share(self.low_space)

    @property
    def high_space_share(self) -> Share:
        """`high_space` as a share of the file system."""
        return parse_share(self.high_space)

    @property
    def pull_timeout_s(self) -> float:
        """`pull_timeout` in seconds."""
        return parse_duration(self.pull_timeout)

    @property
    def max_size_bytes(self) -> int:
        """`max_size` in bytes."""
        return parse_size(self.max_size)

    @property
    def ttl_s(self) -> float:
        """`ttl` in seconds."""
        return parse_duration(self.ttl)

    @property
    def download_timeout_s(self) -> float:
        """`download_timeout` in seconds."""
        return parse_duration(self.download_timeout)


def check_images(images: ImagesConfig) -> None:
    """Check what the types do not: values that make no sense.

    Raises:
        ConfigError: a value makes no sense; the message names the setting.
    """
    if images.downloads < 1:
        raise ConfigError("images.downloads must be at least 1")
    for credential in images.credentials:
        _check_credential(credential)
    _check_distinct(images.credentials)
    if images.ca_file and not images.ca_file.startswith("/"):
        raise ConfigError(f"images.ca_file must be an absolute path, not {images.ca_file!r}")
    if images.proxy and not _PROXY.fullmatch(images.proxy):
        raise ConfigError(
            "images.proxy is not http://host:port",
            hint="a user and a password are not supported, nor is https",
        )
    for host in images.no_proxy:
        if not _NO_PROXY.fullmatch(host):
            raise ConfigError(
                f"images.no_proxy: {host!r} is not a host",
                hint='write "mirror.example.org", "*.example.org" or an address',
            )
    _ = images.pull_timeout_s, images.max_size_bytes, images.ttl_s, images.download_timeout_s
    _ = images.unused_for_s
    low, high = images.low_space_share, images.high_space_share
    is_comparable = (low.pct is None) == (high.pct is None)
    if is_comparable and (high.pct or high.size_bytes) < (low.pct or low.size_bytes):
        raise ConfigError(
            f"images.high_space ({images.high_space}) is less than images.low_space "
            f"({images.low_space})"
        )


# A bucket's name is a DNS name; old ones may have capitals and underscores.
_CREDENTIAL_HOST = re.compile(
    r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,254}"
    r"|(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_S3_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_PROXY = re.compile(r"http://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?")
_NO_PROXY = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]+\]?")
_REGION = re.compile(r"[a-z0-9-]+")
# RFC 7617, 2: the first colon ends the user's name.
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]+")


def _check_credential(entry: CredentialConfig) -> None:
    """Raise for an entry that makes no sense."""
    name = f"images.credentials of {entry.host!r}"
    if not _CREDENTIAL_HOST.fullmatch(entry.host):
        raise ConfigError(
            f"{name}: the host is wrong", hint='write "host", "host:port" or "s3://bucket"'
        )
    for path in entry.secret_files:
        if not path.startswith("/"):
            raise ConfigError(f"{name}: {path!r} must be an absolute path")
    pairs = {
        "username and password_file": (entry.username, entry.password_file),
        "token_file": (entry.token_file,),
        "access_key_id and secret_key_file": (entry.access_key_id, entry.secret_key_file),
    }
    kinds = [kind for kind, values in pairs.items() if any(values)]
    if len(kinds) > 1:
        raise ConfigError(f"{name} has more than one of {'; '.join(kinds)}")
    for kind in kinds:
        if not all(pairs[kind]):
            raise ConfigError(f"{name} needs both {kind}")
    if entry.is_s3:
        _check_s3_credential(name, entry, kinds)
        return
    if "access_key_id and secret_key_file" in kinds or entry.session_token_file or entry.endpoint:
        raise ConfigError(f"{name} has settings of S3", hint='they go with host = "s3://bucket"')
    if not kinds and not entry.plain_http:
        raise ConfigError(f"{name} names no secret: set one of {'; '.join(pairs)}")
    if entry.username and not _USERNAME.fullmatch(entry.username):
        raise ConfigError(f"{name}: username holds a colon or a control character")


def _check_s3_credential(name: str, entry: CredentialConfig, kinds: list[str]) -> None:
    if entry.plain_http:
        raise ConfigError(f"{name} has plain_http", hint="for S3 the endpoint says it: http://…")
    if kinds and not entry.access_key_id:
        raise ConfigError(f"{name} has {kinds[0]}, S3 takes access_key_id and secret_key_file")
    if entry.session_token_file and not entry.access_key_id:
        raise ConfigError(f"{name} has session_token_file without access_key_id")
    if entry.endpoint and not _S3_ENDPOINT.fullmatch(entry.endpoint):
        raise ConfigError(f"{name}: endpoint is not http(s)://host[:port]: {entry.endpoint!r}")
    if not _REGION.fullmatch(entry.region):
        raise ConfigError(f"{name}: region is wrong: {entry.region!r}")
    if not entry.access_key_id.isascii() or "/" in entry.access_key_id:
        raise ConfigError(f"{name}: access_key_id is wrong")


def canonical_host(host: str) -> str:
    """Return `host`, `host:port` or `s3://bucket` for comparison: lower case, without 443."""
    return host if host.startswith("s3://") else host.lower().removesuffix(":443")


def _check_distinct(entries: tuple[CredentialConfig, ...]) -> None:
    """Raise if two entries are for the same namespace and host."""
    seen: set[tuple[str, str | None]] = set()
    for entry in entries:
        for namespace in set(entry.namespaces) or (None,):
            served = (canonical_host(entry.host), namespace)
            if served in seen:
                used_for = f"namespace {namespace!r}" if namespace else "all namespaces"
                raise ConfigError(
                    f"images.credentials has two entries of {entry.host!r} for {used_for}"
                )
            seen.add(served)
