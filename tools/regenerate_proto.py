"""Regenerate the protobuf modules of `qemu_node.nomad.proto` from its .proto files.

With `--check` nothing is written: the exit code tells whether the committed modules are up to date.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCE_ROOT = Path(__file__).resolve().parents[1] / "src"
PROTO_DIR = SOURCE_ROOT / "qemu_node" / "nomad" / "proto"
_WELL_KNOWN = Path(protoc.__file__).parent / "_proto"


def generate(output_root: Path) -> None:
    """Write the modules below `output_root`, as a tree of packages.

    Raises:
        RuntimeError: protoc found a fault; it has printed which.
    """
    # Import paths start at the source root: the modules then import each other by package name.
    sources = sorted(str(path.relative_to(SOURCE_ROOT)) for path in PROTO_DIR.glob("*.proto"))
    code = protoc.main([
        "protoc",
        f"-I{SOURCE_ROOT}",
        f"-I{_WELL_KNOWN}",
        f"--python_out={output_root}",
        f"--pyi_out={output_root}",
        *sources,
    ])  # fmt: skip
    if code != 0:
        raise RuntimeError(f"protoc failed with exit code {code}")


def differences() -> list[str]:
    """Return the names of modules that differ from what the .proto files give, or should not be."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = _modules(Path(scratch) / PROTO_DIR.relative_to(SOURCE_ROOT))
    committed = _modules(PROTO_DIR)
    names = sorted(fresh.keys() | committed.keys())
    return [name for name in names if fresh.get(name) != committed.get(name)]


def _modules(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*_pb2.py*")}


def main() -> int:
    """Regenerate, or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    if not parser.parse_args().check:
        generate(SOURCE_ROOT)
        return 0
    stale = differences()
    for name in stale:
        sys.stderr.write(f"{name} is not what the .proto files give\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
