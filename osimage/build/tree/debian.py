"""Root directories of Debian packages: the base of the node's system, and the tools of the build.

Owns how mmdebstrap is called. Does not own which packages (`packages`) nor what becomes of them.

The build's own tools (mksquashfs, xorriso, skopeo and others) run in a Debian 13 of their own: the
same artefacts come out on every machine.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from osimage.build.errors import BuildError
from osimage.build.namespace import REPO, environment
from osimage.build.stages import MAX_AGE_DAYS, Stages, digest_of, say
from osimage.build.tree.packages import differences, parse_record, pins
from qemu_node.host.process.command import SAFE_ENV, ProcessError, run_blocking

SUITE = "trixie"
SOURCES_SCRIPT = REPO / "scripts" / "debian-sources.sh"

_TIMEOUT_S = 1800.0
# Firmware of NICs and microcode are not free software.
_COMPONENTS = ("main", "non-free-firmware")
_UNWANTED = ("doc", "man", "info", "locale", "lintian", "bug")
_TOOLS = (
    "xorriso", "squashfs-tools", "mtools", "dosfstools", "e2fsprogs", "rsync", "fdisk", "pigz",
    "skopeo", "minisign", "gpgv", "unzip", "sbsigntool", "ca-certificates", "zstd", "xz-utils",
)  # fmt: skip


def source_lines(snapshot: str | None = None) -> str:
    """Return apt source lines: this machine's mirrors, or Debian's archive as it was.

    Args:
        snapshot: A time of snapshot.debian.org, as 20260901T000000Z.
    """
    if snapshot:
        base = "[check-valid-until=no] http://snapshot.debian.org/archive"
        lines = [
            f"deb {base}/debian/{snapshot} {SUITE} main",
            f"deb {base}/debian/{snapshot} {SUITE}-updates main",
            f"deb {base}/debian-security/{snapshot} {SUITE}-security main",
        ]
    else:
        lines = (
            run_blocking([str(SOURCES_SCRIPT), SUITE], env=environment())
            .stdout.decode()
            .split("\n")
        )
    return "".join(f"{_with_components(line)}\n" for line in lines if line)


def _with_components(line: str) -> str:
    return f"{line.removesuffix(' main')} {' '.join(_COMPONENTS)}"


def make_base(
    stages: Stages,
    names: Sequence[str],
    *,
    record: Mapping[str, str] | None = None,
    snapshot: str | None = None,
    max_age_days: int = MAX_AGE_DAYS,
) -> Path:
    """Return a root directory with the packages `names`, installed without an initrd.

    Args:
        stages: Where it is kept.
        names: Packages.
        record: Their versions; None for what the mirror has.
        snapshot: A time of snapshot.debian.org.
        max_age_days: Packages that were installed longer ago are installed anew, unless a record
            or a snapshot says which they are.

    Raises:
        BuildError: the mirror does not have the versions of `record`.
        ProcessError: mmdebstrap failed.
    """
    sources = source_lines(snapshot)
    preferences = pins(record) if record else ""
    digest = digest_of(["base 1", sources, preferences, *names])
    if not record and not snapshot:
        digest = _dated(stages, "base", digest, max_age_days)

    def make(target: Path, scratch: Path) -> None:
        options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNWANTED]
        options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        if preferences:
            pinned = scratch / "preferences"
            pinned.write_text(preferences)
            options += [
                '--setup-hook=mkdir -p "$1/etc/apt/preferences.d"',
                # mmdebstrap splits it as a shell does (mmdebstrap(1), "SPECIAL HOOKS").
                f"--setup-hook=copy-in {shlex.quote(str(pinned))} /etc/apt/preferences.d",
                '--customize-hook=rm "$1/etc/apt/preferences.d/preferences"',
            ]
        try:
            _mmdebstrap(target, [*options, f"--include={','.join(names)}"], sources)
        except ProcessError as exc:
            if record:
                raise BuildError(
                    f"cannot install the versions of the record: {exc}", hint=_SNAPSHOT_HINT
                ) from exc
            raise
        if record and (lines := differences(record, installed(target))):
            raise BuildError(
                f"the record cannot be rebuilt: {'; '.join(lines[:5])}", hint=_SNAPSHOT_HINT
            )

    return stages.get(
        "base", digest, make, about=f"installs {len(names)} Debian packages (about 2 minutes)"
    )


_SNAPSHOT_HINT = (
    "mirrors keep the newest versions only; give the day of the record: --snapshot 20260901T000000Z"
)


def make_tools(stages: Stages, *, max_age_days: int = MAX_AGE_DAYS) -> Path:
    """Return a root directory with the programs of the build, not older than `max_age_days`."""
    sources = source_lines()

    def make(target: Path, scratch: Path) -> None:
        del scratch
        options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNWANTED]
        _mmdebstrap(target, [*options, f"--include={','.join(_TOOLS)}"], sources)

    digest = _dated(stages, "tools", digest_of(["tools 1", sources, *_TOOLS]), max_age_days)
    return stages.get("tools", digest, make, about="installs the tools of the build (a minute)")


def _dated(stages: Stages, name: str, digest: str, max_age_days: int) -> str:
    """Return `digest` with the day whose packages are to be used; say it if it is an earlier one.

    The day is a part of the entry's name: all that is made of the entry becomes old with it.
    """
    today = datetime.now(UTC).date()
    day = packages_day(stages.digests(name), digest, today, max_age_days)
    if day != today:
        say(f"{name}: Debian packages of {day}, {(today - day).days} days old")
    return f"{digest}-{day:%Y%m%d}"


def packages_day(kept: Iterable[str], digest: str, today: date, max_age_days: int) -> date:
    """Return the newest day of a kept entry that is not too old, or today.

    Args:
        kept: The digests of kept entries, with their days.
        digest: What goes into the entry, without the day.
        today: The day of this build.
        max_age_days: An entry may be so old; 0: of today.
    """
    days = []
    for name in kept:
        start, _, end = name.rpartition("-")
        if start != digest:
            continue
        try:
            day = datetime.strptime(end, "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            continue
        # One of a later day was made under a wrong clock.
        if 0 <= (today - day).days <= max_age_days:
            days.append(day)
    return max(days, default=today)


def _mmdebstrap(target: Path, options: Sequence[str], sources: str) -> None:
    run_blocking(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
            f"--components={','.join(_COMPONENTS)}",
            '--aptopt=APT::Install-Recommends "false"', *options, SUITE, str(target), "-",
        ],
        # INITRD=No: dracut's kernel hook makes no initrd, which would be the wrong one.
        stdin=sources.encode(), env=environment(INITRD="No"), timeout_s=_TIMEOUT_S,
    )  # fmt: skip


def installed(root: Path) -> dict[str, str]:
    """Return the version of each package of `root`, by its name."""
    shown = "${db:Status-Abbrev}|${binary:Package} ${Version}\n"
    listing = run_blocking(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", f"--showformat={shown}"],
        env=SAFE_ENV,
    ).stdout.decode()
    lines = [line.partition("|")[2] for line in listing.splitlines() if line.startswith("ii")]
    # Libraries are listed with the machine's own architecture.
    return parse_record("\n".join(lines).replace(":amd64 ", " "))
