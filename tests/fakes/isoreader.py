"""A reader of ISO images that knows nothing of our writer: pycdlib."""

from io import BytesIO
from typing import Any

import pycdlib


def read_image(image: bytes) -> dict[str, dict[str, bytes]]:
    """Return the files of an image by path, as seen by Joliet and by Rock Ridge.

    pycdlib refuses an image that is not well-formed: numbers whose byte orders differ, records that
    are not sorted or cross a block, path tables that do not fit the directories.
    """
    iso = pycdlib.PyCdlib()
    iso.open_fp(BytesIO(image))
    try:
        return {
            "joliet": _read(iso, "joliet_path"),
            "rock ridge": _read(iso, "rr_path"),
        }
    finally:
        iso.close()


def _read(iso: Any, kind: str) -> dict[str, bytes]:
    found = {}
    for directory, _, names in iso.walk(**{kind: "/"}):
        for name in names:
            path = f"{directory.rstrip('/')}/{name}"
            content = BytesIO()
            iso.get_file_from_iso_fp(content, **{kind: path})
            found[path.lstrip("/")] = content.getvalue()
    return found
