"""OCI images as directories: a variant of one, and a registry that serves them.

Owns the layout on disk (https://github.com/opencontainers/image-spec, image-layout.md) and a
read-only registry on loopback, which a machine reaches as 10.0.2.2.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "nomad-qemu-node"


class Layout:
    """One image in an OCI layout directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def digest(self) -> str:
        """The manifest's."""
        index = json.loads((self.directory / "index.json").read_bytes())
        digest: str = index["manifests"][0]["digest"]
        return digest

    def manifest(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.blob(self.digest).read_bytes())
        return document

    def blob(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        return self.directory / "blobs" / algorithm / name

    def derive(self, directory: Path, files: Mapping[str, tuple[int, str]]) -> "Layout":
        """Return this image with one more layer, in which are `files`: path → mode and text."""
        blobs = directory / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        manifest = self.manifest()
        config = json.loads(self.blob(manifest["config"]["digest"]).read_bytes())
        for layer in manifest["layers"]:
            os.link(self.blob(layer["digest"]), blobs / layer["digest"].partition(":")[2])
        raw = _tar(files)
        packed = gzip.compress(raw, mtime=0)
        config["rootfs"]["diff_ids"].append(_digest(raw))
        manifest["layers"].append(
            {
                "mediaType": manifest["layers"][0]["mediaType"],
                "digest": _store(blobs, packed),
                "size": len(packed),
            }
        )
        body = json.dumps(config).encode()
        manifest["config"].update(digest=_store(blobs, body), size=len(body))
        body = json.dumps(manifest).encode()
        index = json.loads((self.directory / "index.json").read_bytes())
        index["manifests"][0].update(digest=_store(blobs, body), size=len(body))
        (directory / "index.json").write_text(json.dumps(index))
        return Layout(directory)


def _tar(files: Mapping[str, tuple[int, str]]) -> bytes:
    """Return an uncompressed tar of files that belong to root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (mode, text) in files.items():
            member = tarfile.TarInfo(name.lstrip("/"))
            member.mode = mode
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _store(blobs: Path, body: bytes) -> str:
    digest = _digest(body)
    (blobs / digest.partition(":")[2]).write_bytes(body)
    return digest


class LayoutRegistry:
    """Serves layouts by tag and digest, until it is closed.

    Attributes:
        requests: `METHOD path` of every request.
        limit_bytes: Of a blob: so many bytes are sent, then the connection is closed. None: all.
    """

    def __init__(self) -> None:
        self._layouts: list[Layout] = []
        self._tags: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.limit_bytes: int | None = None
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._serve(self, has_body=True)

            def do_HEAD(self) -> None:
                registry._serve(self, has_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                # It has neither before a request was understood: clients try TLS first.
                registry.requests.append(f"{self.command} {getattr(self, 'path', '')}")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def repository(self) -> str:
        """Where a machine finds the images."""
        return f"10.0.2.2:{self._server.server_address[1]}/{REPOSITORY}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def push(self, layout: Layout, *tags: str) -> str:
        """Serve an image, under `tags` too; return its digest."""
        self._layouts.append(layout)
        manifest = layout.blob(layout.digest).read_bytes()
        for name in (*tags, layout.digest):
            self._tags[name] = manifest
        return layout.digest

    def push_artifact(self, tag: str, layers: Mapping[str, bytes]) -> None:
        """Serve a manifest under `tag` whose layers are `layers`: media type → content."""
        empty = b"{}"
        self._blobs[_digest(empty)] = empty
        descriptors = []
        for media_type, body in layers.items():
            self._blobs[_digest(body)] = body
            descriptors.append(
                {"mediaType": media_type, "digest": _digest(body), "size": len(body)}
            )
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.empty.v1+json",
                    "digest": _digest(empty),
                    "size": len(empty),
                },
                "layers": descriptors,
            }
        ).encode()
        self._tags[tag] = self._tags[_digest(manifest)] = manifest

    def _serve(self, request: BaseHTTPRequestHandler, *, has_body: bool) -> None:
        parts = request.path.split("?")[0].strip("/").split("/")
        if parts == ["v2"]:
            self._send(request, b"{}", "application/json", has_body=has_body)
        elif parts[:2] == ["v2", REPOSITORY] and parts[2] == "manifests" and parts[3] in self._tags:
            body = self._tags[parts[3]]
            media_type = json.loads(body).get(
                "mediaType", "application/vnd.oci.image.manifest.v1+json"
            )
            self._send(request, body, media_type, has_body=has_body, digest=_digest(body))
        elif parts[:2] == ["v2", REPOSITORY] and parts[2] == "blobs":
            self._send_blob(request, parts[3], has_body=has_body)
        else:
            request.send_error(404)

    def _send_blob(self, request: BaseHTTPRequestHandler, digest: str, *, has_body: bool) -> None:
        if digest in self._blobs:
            self._send(request, self._blobs[digest], "application/octet-stream", has_body=has_body)
            return
        paths = [layout.blob(digest) for layout in self._layouts]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            request.send_error(404)
            return
        size = path.stat().st_size
        request.send_response(200)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(size))
        request.end_headers()
        if not has_body:
            return
        left = size if self.limit_bytes is None else min(size, self.limit_bytes)
        with path.open("rb") as file:
            while left and (chunk := file.read(min(left, 1 << 20))):
                try:
                    request.wfile.write(chunk)
                except OSError:
                    return
                left -= len(chunk)
        request.close_connection = request.close_connection or self.limit_bytes is not None

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        body: bytes,
        media_type: str,
        *,
        has_body: bool,
        digest: str | None = None,
    ) -> None:
        request.send_response(200)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body)))
        if digest is not None:
            request.send_header("Docker-Content-Digest", digest)
        request.end_headers()
        if has_body:
            request.wfile.write(body)
