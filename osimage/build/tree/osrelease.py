"""What /etc/os-release says of the image. Pure."""

import re
from collections.abc import Mapping, Sequence

from osimage.build.errors import BuildError
from qemu_node.nodeos.release import IMAGE_ID, TAG_PATTERN

_MANIFEST_SUFFIX = ".manifest"


def check_tag(tag: str) -> None:
    """Raise unless `tag` can be an image's tag in a registry.

    Raises:
        BuildError: it cannot.
    """
    if not TAG_PATTERN.fullmatch(tag) or tag.endswith(_MANIFEST_SUFFIX):
        raise BuildError(
            f"not a tag: {tag!r}",
            hint="letters, digits, dots, dashes and underscores, not ending in .manifest",
        )


def image_lines(
    *, tag: str, version: str, source: str, local_binaries: Sequence[str], epoch: int
) -> dict[str, str]:
    """Return the keys that an image adds to os-release."""
    lines = {
        # What `hostnamectl`, the boot and `qemu-node os status` call the system.
        "PRETTY_NAME": f"Nomad QEMU node {tag}",
        "IMAGE_ID": IMAGE_ID,
        "IMAGE_TAG": tag,
        "IMAGE_VERSION": version,
        "IMAGE_SOURCE": source,
        "IMAGE_EPOCH": str(epoch),
        "GRUB_ENTRY_NAME": f"Nomad QEMU node {tag}",
    }
    if local_binaries:
        lines["IMAGE_LOCAL_BINARIES"] = " ".join(local_binaries)
    return lines


def extend(text: str, lines: Mapping[str, str]) -> str:
    """Return an os-release file's text with keys added, or replaced where they are there.

    Raises:
        BuildError: a value has a character that a shell would expand.
    """
    for key, value in lines.items():
        if re.search(r'["\\$`\n]', value):
            raise BuildError(f"{key} in os-release may not have quotes, dollars or line breaks")
    kept = [line for line in text.splitlines() if line.partition("=")[0] not in lines]
    return "\n".join([*kept, *(f'{key}="{value}"' for key, value in lines.items())]) + "\n"
