"""An OCI registry with its token service, on loopback, that can misbehave.

Speaks as the distribution specification and Docker's token authentication say. Blobs may be kept by
a storage host of their own, which refuses requests with credentials as S3 does.
"""

import base64
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from fakes.http_peer import HttpPeer, PeerRequest, Reply

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<name>[^/]+)")


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def descriptor(body: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body), **more}


@dataclass(frozen=True)
class Stored:
    """A manifest or index as it is served."""

    body: bytes = field(repr=False)
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.body)


class TokenService(HttpPeer):
    """Gives tokens to users, and to anybody for public repositories."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[str, str] = {}
        self.public: set[str] = set()
        self.tokens: dict[str, str] = {}
        """Token → repository that it permits to pull."""
        self.redirect_to: str | None = None

    def answer(self, request: PeerRequest) -> Reply:
        if self.redirect_to is not None:
            return Reply(307, headers={"Location": self.redirect_to})
        [scope] = request.query["scope"]
        kind, repository, actions = scope.split(":")
        assert (kind, actions) == ("repository", "pull")
        authorization = request.headers.get("authorization")
        if authorization is not None and not self.knows(authorization):
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="tokens"'})
        token = secrets.token_urlsafe(64)
        if authorization is not None or repository in self.public:
            # Others get a token as well, which permits nothing, as from real services.
            self.tokens[token] = repository
        return Reply(body=json.dumps({"token": token, "expires_in": 300}).encode())

    def knows(self, authorization: str) -> bool:
        scheme, _, pair = authorization.partition(" ")
        user, _, password = base64.b64decode(pair).decode().partition(":")
        return scheme == "Basic" and self.users.get(user) == password


class BlobHost(HttpPeer):
    """Keeps blobs for a registry, as an object store does behind signed URLs."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}

    def answer(self, request: PeerRequest) -> Reply:
        if "authorization" in request.headers:
            return Reply(400, b"Only one auth mechanism allowed")
        body = self.blobs.get(request.path.removeprefix("/"))
        return Reply(404) if body is None else Reply(body=body)


class Registry(HttpPeer):
    """Keeps images; `tokens`, or the registry itself, decides who may pull."""

    def __init__(self) -> None:
        super().__init__()
        self.manifests: dict[str, Stored] = {}
        """`repository:tag` and `repository@digest`."""
        self.blobs: dict[str, bytes] = {}
        self.tokens: TokenService | None = None
        self.realm: str | None = None
        """The token service's URL, if it says another one than the truth."""
        self.basic: tuple[str, str] | None = None
        """User and password that it wants itself."""
        self.blob_host: BlobHost | None = None
        self.never_enough = False
        """Answers 401 whatever it is given."""
        self.redirect_manifests_to: str | None = None
        self.head_status: int | None = None
        """How it refuses HEAD; None: it knows it."""

    def push(
        self,
        name: str,
        *layers: bytes,
        media_type: str = "application/octet-stream",
        annotations: dict[str, str] | None = None,
    ) -> Stored:
        """Store an image of these layers as `name`, `repository:tag`."""
        config = b"{}"
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, "application/vnd.oci.empty.v1+json"),
            "layers": [
                descriptor(layer, media_type, annotations=annotations or {}) for layer in layers
            ],
        }
        self.blobs |= {digest_of(layer): layer for layer in (config, *layers)}
        return self.store(name, json.dumps(document, indent=3).encode(), OCI_MANIFEST)

    def push_index(self, name: str, images: dict[tuple[str, str], Stored]) -> Stored:
        """Store an index of images by operating system and architecture."""
        manifests = [
            descriptor(
                image.body, image.media_type, platform={"os": system, "architecture": architecture}
            )
            for (system, architecture), image in images.items()
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.store(name, json.dumps(document).encode(), OCI_INDEX)

    def store(self, name: str, body: bytes, media_type: str) -> Stored:
        stored = Stored(body, media_type)
        repository, _, _ = name.partition(":")
        self.manifests[name] = self.manifests[f"{repository}@{stored.digest}"] = stored
        return stored

    def answer(self, request: PeerRequest) -> Reply:
        if request.path == "/v2/":
            # What skopeo asks first, to see whether this is a registry.
            return Reply(200)
        match = _PATH.fullmatch(request.path)
        if match is None:
            return Reply(404)
        if request.method == "HEAD" and self.head_status is not None:
            return Reply(self.head_status)
        if not self._may_pull(request, match["repository"]):
            return Reply(401, headers={"WWW-Authenticate": self._challenge(match["repository"])})
        if match["kind"] == "blobs":
            return self._blob(match["name"])
        if self.redirect_manifests_to is not None:
            return Reply(307, headers={"Location": self.redirect_manifests_to})
        separator = "@" if ":" in match["name"] else ":"
        stored = self.manifests.get(f"{match['repository']}{separator}{match['name']}")
        if stored is None:
            return Reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        if stored.media_type not in request.headers.get("accept", "").split(", "):
            return Reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "Accept"}]}')
        return Reply(
            body=stored.body,
            headers={"Content-Type": stored.media_type, "Docker-Content-Digest": stored.digest},
        )

    def _blob(self, digest: str) -> Reply:
        body = self.blobs.get(digest)
        if body is None:
            return Reply(404)
        if self.blob_host is None:
            return Reply(body=body)
        path = f"{secrets.token_hex(4)}/{digest}"
        self.blob_host.blobs[path] = body
        return Reply(307, headers={"Location": f"{self.blob_host.url}/{path}?X-Amz-Signature=x"})

    def _may_pull(self, request: PeerRequest, repository: str) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if self.never_enough:
            return False
        if self.basic is not None:
            pair = ":".join(self.basic).encode()
            return (scheme, value) == ("Basic", base64.b64encode(pair).decode())
        if self.tokens is None and self.realm is None:
            return True
        tokens = self.tokens.tokens if self.tokens is not None else {}
        return scheme == "Bearer" and tokens.get(value) == repository

    def _challenge(self, repository: str) -> str:
        if self.basic is not None:
            return 'Basic realm="a registry", charset="UTF-8"'
        own = "http://127.0.0.1:9/" if self.tokens is None else f"{self.tokens.url}/token"
        return (
            f'Bearer realm="{self.realm or own}",service="a registry",'
            f'scope="repository:{repository}:pull"'
        )
