"""Fetches the modules of others that the console's page uses, as package-lock.json names them.

    python tools/webmodules.py            into src/qemu_node/web/page/vendor/, unless it is done
    python tools/webmodules.py --tests    into tests/browser/vendor/, what tests of the page need
    python tools/webmodules.py --check    only say whether the page's are there

Owns: the download from the npm registry (NPM_CONFIG_REGISTRY, or npm's own), the check against the
lock file's sha512 digests, what is taken of each package, and the list of the result's digests. It
needs Python alone. Nothing of a package is run, and nothing but what is served is unpacked.

Does not own the versions: `npm install --package-lock-only --omit-lockfile-registry-resolved`, on a
developer's machine, writes those.
"""

import base64
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGESTS = "digests.txt"
REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 60.0
TARBALL_MAX_BYTES = 16 << 20
FILE_MAX_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Modules:
    """Packages that are fetched together."""

    lock: Path
    target: Path
    taken: dict[str, tuple[str, tuple[str, ...]]]
    """Package → its directory here, and which of its files are taken, by their path in it."""


# noVNC's files stay as they are and where they are: its license (MPL-2.0) asks for its sources.
_OF_PAGE: dict[str, tuple[str, tuple[str, ...]]] = {
    "@novnc/novnc": (
        "novnc",
        ("core/*.js", "vendor/pako/lib/*.js", "LICENSE.txt", "AUTHORS", "vendor/pako/LICENSE"),
    ),
    "@preact/signals-core": ("signals", ("dist/signals-core.mjs", "LICENSE")),
    "@xterm/addon-fit": ("xterm-fit", ("lib/addon-fit.mjs", "LICENSE")),
    "@xterm/addon-search": ("xterm-search", ("lib/addon-search.mjs", "LICENSE")),
    "@xterm/xterm": ("xterm", ("lib/xterm.mjs", "css/xterm.css", "LICENSE")),
    "htm": ("htm", ("dist/htm.mjs", "LICENSE")),
    "preact": ("preact", ("dist/preact.mjs", "hooks/dist/hooks.mjs", "LICENSE")),
}
PAGE = Modules(
    lock=ROOT / "package-lock.json", target=ROOT / "src/qemu_node/web/page/vendor", taken=_OF_PAGE
)
TESTS = Modules(
    lock=ROOT / "tests/browser/package-lock.json",
    target=ROOT / "tests/browser/vendor",
    taken={"axe-core": ("axe", ("axe.min.js", "LICENSE"))},
)
# A browser knows no bare names: what they are, from the directory of the file that imports them.
BARE = {"preact": "../../dist/preact.mjs"}

_BARE_IMPORT = re.compile(r"""((?:\bfrom|\bimport)\s*)(["'])([@\w][^"']*)\2""")
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*\n?", re.MULTILINE)


class WebModulesError(Exception):
    """What a person is told."""


def locked(modules: Modules = PAGE) -> dict[str, tuple[str, str]]:
    """Return each package's version and integrity.

    Raises:
        WebModulesError: the lock file has other packages than are taken, or one without sha512.
    """
    packages = json.loads(modules.lock.read_text())["packages"]
    found = {
        path.removeprefix("node_modules/"): (entry["version"], entry.get("integrity", ""))
        for path, entry in packages.items()
        if path
    }
    if found.keys() != modules.taken.keys():
        names = ", ".join(sorted(found.keys() ^ modules.taken.keys()))
        raise WebModulesError(f"{modules.lock} and {Path(__file__).name} differ in: {names}")
    for name, (_, integrity) in found.items():
        if not integrity.startswith("sha512-") or " " in integrity:
            raise WebModulesError(f"{modules.lock} has no single sha512 integrity for {name}")
    return found


def key(modules: Modules = PAGE) -> str:
    """Return the digest of what the result depends on."""
    return hashlib.sha256(modules.lock.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def is_done(modules: Modules = PAGE) -> bool:
    """Tell whether what is there is what this program makes, to the byte."""
    target = modules.target
    try:
        first, *lines = (target / DIGESTS).read_text().splitlines()
        if first != f"# {key(modules)}":
            return False
        listed = {line[66:]: line[:64] for line in lines}
        there = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
        return there - {DIGESTS} == listed.keys() and all(
            hashlib.sha256((target / path).read_bytes()).hexdigest() == digest
            for path, digest in listed.items()
        )
    except (OSError, ValueError):
        return False


def tarball(name: str, version: str, integrity: str, kept: Path) -> bytes:
    """Return a package's tarball, from `kept` or the registry, with the digest of the lock file.

    Raises:
        WebModulesError: it cannot be had, or is another one.
    """
    wanted = base64.b64decode(integrity.removeprefix("sha512-"))
    file = kept / f"{wanted.hex()[:32]}.tgz"
    if file.is_file() and hashlib.sha512(data := file.read_bytes()).digest() == wanted:
        return data
    registry = (os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY).rstrip("/")
    url = f"{registry}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    if not url.startswith(("https://", "http://")):
        raise WebModulesError(f"NPM_CONFIG_REGISTRY is no address of http or https: {registry}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data = bytes(answer.read(TARBALL_MAX_BYTES + 1))
    except (urllib.error.URLError, OSError) as exc:
        raise WebModulesError(
            f"cannot download {url}: {getattr(exc, 'reason', exc)}; check the network, https_proxy "
            "and NPM_CONFIG_REGISTRY, and SSL_CERT_FILE if your proxy has a CA of its own"
        ) from exc
    if hashlib.sha512(data).digest() != wanted:
        raise WebModulesError(
            f"{url} is not the file that the lock file names; nothing was unpacked"
        )
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept, delete=False) as fresh:
        fresh.write(data)
    Path(fresh.name).replace(file)
    return data


def unpack(data: bytes, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Return the files of a tarball that match one of `patterns`, by their path in the package.

    Raises:
        WebModulesError: a pattern matches nothing, or a file is too large.
    """
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            # The first directory is `package`, mostly.
            path = member.name.partition("/")[2]
            if not member.isfile() or not any(fnmatch(path, pattern) for pattern in patterns):
                continue
            content = archive.extractfile(member)
            if member.size > FILE_MAX_BYTES or content is None or ".." in path.split("/"):
                raise WebModulesError(f"a package has a file that is not taken: {path}")
            files[path] = content.read()
    for pattern in patterns:
        if not any(fnmatch(path, pattern) for path in files):
            raise WebModulesError(f"a package has no {pattern} any more")
    return files


def for_browsers(text: str) -> str:
    """Return a module whose imports a browser can follow, without the mark of a source map.

    Raises:
        WebModulesError: it imports what is not known.
    """

    def resolve(match: re.Match[str]) -> str:
        if match[3] not in BARE:
            raise WebModulesError(f"a module imports {match[3]!r}, which BARE does not have")
        return f"{match[1]}{match[2]}{BARE[match[3]]}{match[2]}"

    return _BARE_IMPORT.sub(resolve, _SOURCE_MAP.sub("", text))


def fetch(modules: Modules, kept: Path) -> None:
    """Make the modules' directory anew; what was there stays until all is well.

    Raises:
        WebModulesError: it cannot be made; nothing has changed.
    """
    lines = []
    target = modules.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vendor-", dir=target.parent) as work:
        for name, (version, integrity) in sorted(locked(modules).items()):
            directory, patterns = modules.taken[name]
            for path, content in unpack(tarball(name, version, integrity, kept), patterns).items():
                is_changed = path.endswith(".mjs") and not path.endswith("xterm.mjs")
                made = for_browsers(content.decode()).encode() if is_changed else content
                file = Path(work, "vendor", directory, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(made)
                file.chmod(0o644)
                lines.append(f"{hashlib.sha256(made).hexdigest()}  {directory}/{path}")
        made_here = Path(work, "vendor")
        listed = "\n".join([f"# {key(modules)}", *sorted(lines, key=lambda line: line[66:])])
        (made_here / DIGESTS).write_text(listed + "\n")
        for part in (made_here, *made_here.rglob("*")):
            if part.is_dir():
                part.chmod(0o755)
        if target.exists():
            target.rename(Path(work, "old"))
        made_here.rename(target)


def cache() -> Path:
    """Return where tarballs are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base, "qemu-node") if base else ROOT / ".cache") / "npm"


def main(argv: list[str]) -> int:
    """Do what `argv` says; return the exit status."""
    if argv not in ([], ["--check"], ["--tests"]):
        sys.stderr.write(__doc__ or "")
        return 2
    modules = TESTS if argv == ["--tests"] else PAGE
    if is_done(modules):
        return 0
    if argv == ["--check"]:
        sys.stderr.write("webmodules: not fetched, or not as package-lock.json says\n")
        return 1
    sys.stderr.write("webmodules: fetching the modules of the console's page\n")
    try:
        fetch(modules, cache())
    except WebModulesError as exc:
        sys.stderr.write(f"webmodules: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
