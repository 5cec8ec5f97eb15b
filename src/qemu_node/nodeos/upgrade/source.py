"""Which image is to be installed: from the option, node.toml or the running image; as a digest.

Owns finding the signed manifest of a tag in a registry. Does not own whether the image may be
installed (`checks`).
"""

import datetime
import functools
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.node import NodeConfig
from qemu_node.errors import ConfigError, JobError
from qemu_node.images.http.address import ANYWHERE
from qemu_node.images.http.httpsettings import HttpSettings
from qemu_node.images.http.small import fetch_small
from qemu_node.images.registry.artifact import fetch_artifact
from qemu_node.images.registry.oci import FetchSmall
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.name import OciSource, parse_source
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release
from qemu_node.nodeos.upgrade.manifest import (
    MEDIA_TYPE,
    SIGNATURE_TYPE,
    ManifestError,
    check_signature,
    parse_manifest,
)

_HINT = "write --system oci:REGISTRY/REPOSITORY:TAG, or set os.source in node.toml"
_PREFIXES = ("oci://", "oci:", "docker://", "docker:")
_OTHER = ("dir:", "file:", "dir://", "file://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The image that is to be installed."""

    source: OciSource
    """With the image's digest."""
    tag: str = ""
    """Empty: only the digest is known."""
    created: datetime.datetime | None = None
    unpacked_bytes: int | None = None
    is_signed: bool = False

    @property
    def digest(self) -> str:
        """The digest of the image's manifest."""
        return self.source.reference

    @property
    def system(self) -> str:
        """The image as Elemental's option --system takes it."""
        return f"oci:{self.source.registry}/{self.source.repository}@{self.digest}"

    @property
    def name(self) -> str:
        """What people call it."""
        return self.tag or self.digest


def choose_source(option: str | None, config: NodeConfig, release: Release) -> OciSource:
    """Return what is asked for: the option's, node.toml's, or that of the running image: pure.

    Raises:
        ConfigError: nothing is named, or it is no image of a registry.
    """
    named = option or config.os.source or release.source
    if not named:
        raise ConfigError("no image is named: this one does not say where it is from", hint=_HINT)
    return parse_system(named)


def parse_system(text: str) -> OciSource:
    """Return the image that `text` names, with or without Elemental's `oci:`: pure.

    Raises:
        ConfigError: it names no image of a registry.
    """
    if text.startswith(_OTHER):
        raise ConfigError(
            f"{text} is no image of a registry, so nothing says whether it is the right one",
            hint=f"`/usr/bin/elemental upgrade --system {text}` installs it unchecked",
        )
    rest = next((text[len(p) :] for p in _PREFIXES if text.startswith(p)), text)
    try:
        source = parse_source(f"oci://{rest}")
    except JobError as exc:
        raise ConfigError(f"{text} is no image of a registry", hint=_HINT) from exc
    assert isinstance(source, OciSource)
    return source


def find_key(config: NodeConfig, paths: NodePaths) -> Path:
    """Return the file with the public key that counts."""
    return Path(config.os.key) if config.os.key else paths.release_key


def find_credential(config: NodeConfig, source: OciSource) -> Credential | None:
    """Return the operator's credential for the registry of `source`."""
    return CredentialStore(config.images.credentials).find(source.host, None)


def http_settings(config: NodeConfig) -> HttpSettings:
    """Return how a registry is asked: as for VMs' images, but at any address.

    Here the operator names the registry, not the author of a job; it may well be on this node.
    """
    return HttpSettings(
        addresses=ANYWHERE,
        ca_file=config.images.ca_file,
        proxy=config.images.proxy,
        no_proxy=config.images.no_proxy,
    )


async def find_target(
    source: OciSource,
    config: NodeConfig,
    paths: NodePaths,
    *,
    fetch: FetchSmall | None = None,
) -> Target:
    """Return the image that `source` names now.

    A digest needs no manifest: whoever names it has chosen the image. A tag is what the signed
    manifest of this tag says.

    Args:
        source: What is asked for.
        config: node.toml.
        paths: The node's.
        fetch: For tests; None asks the registry.

    Raises:
        ImageError: the registry does not answer, or has no such manifest.
        ManifestError: the manifest or its signature is not right, or not for this tag.
        ConfigError: there is no key to check it with.
    """
    if source.is_digest:
        return Target(source=source)
    key = find_key(config, paths)
    wanted = OciSource(source.registry, source.repository, f"{source.reference}.manifest")
    if fetch is None:
        fetch = functools.partial(fetch_small, http=http_settings(config))
    data, signature = await fetch_artifact(
        wanted,
        find_credential(config, source),
        (MEDIA_TYPE, SIGNATURE_TYPE),
        fetch_small=fetch,
    )
    await check_signature(data, signature, key, wanted.shown)
    manifest = parse_manifest(data, wanted.shown)
    if not manifest.is_for(source.reference):
        raise ManifestError(
            f"{source.shown} has the image {manifest.tag}, which was not signed to be "
            f"{source.reference}",
            hint=f"whoever publishes images signs it: `publish --tag={manifest.tag} "
            f"--also={source.reference} --key=FILE`. If you mean this image: "
            f"--system {source.registry}/{source.repository}@{manifest.digest}",
        )
    return Target(
        source=OciSource(source.registry, source.repository, manifest.digest),
        tag=manifest.tag,
        created=manifest.created,
        unpacked_bytes=manifest.unpacked_bytes,
        is_signed=True,
    )
