"""UEFI firmware of a host that has none: descriptors, and files that they name."""

import json
from pathlib import Path
from typing import Any

SECURE_FEATURES = ["acpi-s3", "enrolled-keys", "requires-smm", "secure-boot", "verbose-dynamic"]


class FirmwareHost:
    """A directory of descriptors and the files that they name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.descriptors = root / "firmware"
        self.descriptors.mkdir()

    def file(self, name: str) -> str:
        path = self.root / name
        path.write_bytes(name.encode())
        return str(path)

    def describe(self, name: str, features: list[str], **changes: Any) -> None:
        """Write a descriptor as Debian 12 and 13 have them; `changes` replace its parts."""
        descriptor: dict[str, Any] = {
            "description": "UEFI firmware for x86_64",
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": self.file(f"{name}.code.fd"), "format": "raw"},
                "nvram-template": {"filename": self.file(f"{name}.vars.fd"), "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
            "features": features,
            "tags": [],
        }
        (self.descriptors / f"{name}.json").write_text(json.dumps(descriptor | changes))

    def describe_debian(self) -> None:
        self.describe("40-edk2-x86_64-secure-enrolled", SECURE_FEATURES)
        self.describe("50-edk2-x86_64-secure", ["acpi-s3", "requires-smm", "secure-boot"])
        self.describe("60-edk2-x86_64", ["acpi-s3", "amd-sev", "verbose-dynamic"])
