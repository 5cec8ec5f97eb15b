"""The ISO: live system and installer."""

from pathlib import Path

from osimage.build.errors import BuildError
from osimage.build.namespace import run_in
from osimage.build.stages import Stages, digest_of

MAX_BYTES = 500_000_000
"""What an ISO of ours alone may have: a BMC's virtual drive reads it over a slow link."""

_COMMAND_LINE = "console=tty0 console=ttyS0,115200 apparmor=1 security=apparmor"
_COMPRESSION = "-comp zstd -Xcompression-level 15"
_LABEL = "COS_LIVE"


def make_iso(
    stages: Stages, tools: Path, tree: Path, elemental: Path, *, overlay: Path | None = None
) -> Path:
    """Return the ISO of the root file system `tree`.

    Args:
        stages: Where it is kept.
        tools: A root with the programs that the CLI calls.
        tree: The root file system.
        elemental: The CLI.
        overlay: Files of the ISO itself, seen at /run/initramfs/live in the live system.
    """

    def digest() -> str:
        return digest_of(
            ["iso 1", tools.name, tree.name, _COMMAND_LINE, _COMPRESSION],
            files=[elemental, *([overlay] if overlay else [])],
        )

    def make(target: Path, scratch: Path) -> None:
        work = scratch / "work"
        out = scratch / "out"
        work.mkdir()
        out.mkdir()
        cli = scratch / "cli"
        cli.mkdir()
        (cli / "elemental").write_bytes(elemental.read_bytes())
        (cli / "elemental").chmod(0o755)
        binds = {tree: "/source", out: "/out", work: "/work", cli: "/cli"}
        more = []
        if overlay is not None:
            binds[overlay.resolve()] = "/overlay"
            more = ["--overlay-iso", "/overlay"]
        run_in(
            tools,
            ["/cli/elemental", "--debug", "build-iso", "--name", "image", "--output", "/out",
             "--label", _LABEL, "--squash-compression", _COMPRESSION,
             "--extra-cmdline", _COMMAND_LINE, *more, "dir:/source"],
            binds=binds, env={"TMPDIR": "/work"},
        )  # fmt: skip
        (out / "image.iso").rename(target)

    return stages.get("iso", digest(), make, about="makes the ISO (a minute)", look_again=digest)


def require_within_budget(iso: Path) -> None:
    """Raise if an ISO has outgrown its budget.

    Raises:
        BuildError: it has.
    """
    size = iso.stat().st_size
    if size > MAX_BYTES:
        raise BuildError(
            f"the ISO has {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f}",
            hint="leave out what has grown, or raise MAX_BYTES in osimage/build/artefact/iso.py",
        )
