"""The list of everything in an image, as SPDX 2.3: pure but `python_packages`.

Owns the document. Does not own which Debian packages are installed (`tree.debian`).

Sources: spdx.github.io/spdx-spec/v2.3; github.com/package-url/purl-spec.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

from qemu_node.nodeos.release import IMAGE_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something in the image that has a name and a version."""

    name: str
    version: str
    supplier: str
    purl: str = ""
    sha256: str = ""
    comment: str = ""


def debian_parts(installed: Mapping[str, str]) -> list[Part]:
    """Return the packages of Debian."""
    return [
        Part(
            name=name,
            version=version,
            supplier="Organization: Debian",
            purl=f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch=amd64&distro=debian-13",
        )
        for name, version in sorted(installed.items())
    ]


def python_parts(packages: Iterable[tuple[str, str]]) -> list[Part]:
    """Return Python packages, given by name and version."""
    return [
        Part(
            name=name,
            version=version,
            supplier="NOASSERTION",
            purl=f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}",
        )
        for name, version in sorted(packages)
    ]


def python_packages(root: Path) -> list[tuple[str, str]]:
    """Return name and version of what is in the private environment of our package."""
    found = []
    pattern = "usr/lib/qemu-node/venv/lib/python3.*/site-packages/*.dist-info/METADATA"
    for path in root.glob(pattern):
        headers = HeaderParser().parsestr(path.read_text(errors="replace"))
        found.append((headers["Name"], headers["Version"]))
    return found


def render(parts: Sequence[Part], *, tag: str, digest: str, epoch: int) -> str:
    """Return the document about the image `tag`.

    Args:
        parts: What is in it.
        tag: The image's tag.
        digest: What tells this tree from every other one.
        epoch: When it was made.
    """
    packages: list[dict[str, object]] = [
        {
            "SPDXID": "SPDXRef-image",
            "name": IMAGE_ID,
            "versionInfo": tag,
            "supplier": "NOASSERTION",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "primaryPackagePurpose": "OPERATING-SYSTEM",
        }
    ]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
    for part in parts:
        identity = _identity(part)
        packages.append(_package(part, identity))
        relations.append(("SPDXRef-image", "CONTAINS", identity))
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{IMAGE_ID}-{tag}",
        "documentNamespace": f"urn:{IMAGE_ID}:{quote(tag)}:{digest}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: osimage.build"],
        },
        "packages": packages,
        "relationships": [
            {"spdxElementId": subject, "relationshipType": verb, "relatedSpdxElement": item}
            for subject, verb, item in relations
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _identity(part: Part) -> str:
    """Return an SPDX identifier, which allows letters, digits, dots and dashes only."""
    words = f"{part.name}\0{part.version}\0{part.purl}"
    readable = "".join(char if char.isalnum() and char.isascii() else "-" for char in part.name)
    return f"SPDXRef-{readable}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def _package(part: Part, identity: str) -> dict[str, object]:
    package: dict[str, object] = {
        "SPDXID": identity,
        "name": part.name,
        "versionInfo": part.version,
        "supplier": part.supplier,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
    }
    if part.purl:
        package["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": part.purl,
            }
        ]
    if part.sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": part.sha256}]
    if part.comment:
        package["comment"] = part.comment
    return package
