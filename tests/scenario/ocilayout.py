"""OCI images as directories: a variant of one, and a registry that serves them.

Owns the layout on disk (https://github.com/opencontainers/image-spec, image-layout.md) and a
read-only registry on loopback, which a machine reaches as 10.0.2.2.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fakes.registry import OCI_MANIFEST, descriptor, digest_of

from osimage.build.artefact.oci import as_json, manifest_of, write_blob, write_index

REPOSITORY = "nomad-qemu-node"


class Layout:
    """One image in an OCI layout directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def digest(self) -> str:
        """The manifest's."""
        return manifest_of(self.directory)[0]

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
        config["rootfs"]["diff_ids"].append(digest_of(raw))
        layer = write_blob(blobs, gzip.compress(raw, mtime=0), manifest["layers"][0]["mediaType"])
        manifest["layers"].append(layer)
        manifest["config"] = write_blob(blobs, as_json(config), manifest["config"]["mediaType"])
        write_index(directory, manifest, directory.name)
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


class LayoutRegistry:
    """Serves layouts by tag and digest, until it is closed."""

    def __init__(self) -> None:
        self._layouts: list[Layout] = []
        self._tags: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._serve(self, has_body=True)

            def do_HEAD(self) -> None:
                registry._serve(self, has_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

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
        self._blobs[digest_of(empty)] = empty
        self._blobs |= {digest_of(body): body for body in layers.values()}
        manifest = as_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(empty, "application/vnd.oci.empty.v1+json"),
                "layers": [descriptor(body, kind) for kind, body in layers.items()],
            }
        )
        self._tags[tag] = self._tags[digest_of(manifest)] = manifest

    def _serve(self, request: BaseHTTPRequestHandler, *, has_body: bool) -> None:
        parts = request.path.split("?")[0].strip("/").split("/")
        if parts == ["v2"]:
            self._send(request, b"{}", "application/json", has_body=has_body)
        elif parts[:2] == ["v2", REPOSITORY] and parts[2] == "manifests" and parts[3] in self._tags:
            body = self._tags[parts[3]]
            media_type = json.loads(body).get("mediaType", OCI_MANIFEST)
            self._send(request, body, media_type, has_body=has_body, digest=digest_of(body))
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
        # A machine whose power was cut reads no further.
        with path.open("rb") as file, contextlib.suppress(OSError):
            shutil.copyfileobj(file, request.wfile, 1 << 20)

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
