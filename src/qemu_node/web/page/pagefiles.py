"""The page's files, read and compressed once, under a path that names their content.

Owns what is served: a file is served because it is in the directory, never because of the path in a
request. Does not own HTTP (`pageroutes`) nor fetching the modules of others (tools/webmodules.py).
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import MissingPartError
from qemu_node.web.page.modules import modules_of

DIRECTORY = Path(__file__).parent
ENTRY = "app/main.mjs"
ASSETS = "/assets"

_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"
_ICON = "icon.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file, as it is sent."""

    content_type: str
    packed: bytes
    """By gzip, as every browser takes it. What it unpacks to would take a megabyte more."""
    etag: str

    @property
    def data(self) -> bytes:
        """The file itself."""
        return gzip.decompress(self.packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFiles:
    """All files of one version of the page."""

    version: str
    """Of all files together; a part of their paths, so that a browser can keep them for ever."""
    index: PageFile
    assets: Mapping[str, PageFile]
    """By path below `prefix`."""

    @property
    def prefix(self) -> str:
        """What the paths of `assets` begin with."""
        return f"{ASSETS}/{self.version}"

    @property
    def icon(self) -> PageFile:
        """The icon that a browser asks for by itself."""
        return self.assets[_ICON]


def read_page(directory: Path = DIRECTORY) -> PageFiles:
    """Return the page of `directory`.

    Raises:
        MissingPartError: the modules of others are not there.
    """
    if not (directory / "vendor" / "digests.txt").is_file():
        raise MissingPartError(
            "the modules of the console's page are not there",
            hint="in a clone: `make setup`; the Debian package has them",
        )
    contents = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
    template = (directory / _INDEX).read_text()
    digest = hashlib.sha256(template.encode())
    for name, data in contents.items():
        digest.update(b"%s %d\0" % (name.encode(), len(data)))
        digest.update(data)
    version = digest.hexdigest()[:16]
    texts = {name: data.decode() for name, data in contents.items() if name.endswith(("js", "mjs"))}
    preloads = "\n".join(
        f'<link rel="modulepreload" href="{ASSETS}/{version}/{name}">'
        for name in modules_of(ENTRY, texts)
    )
    index = template.replace("{assets}", f"{ASSETS}/{version}").replace("{preloads}", preloads)
    return PageFiles(
        version=version,
        index=_file("text/html", index.encode()),
        assets={name: _file(_TYPES[Path(name).suffix], data) for name, data in contents.items()},
    )


def _file(content_type: str, data: bytes) -> PageFile:
    return PageFile(
        content_type=content_type,
        packed=gzip.compress(data, mtime=0),
        etag=hashlib.sha256(data).hexdigest()[:24],
    )
