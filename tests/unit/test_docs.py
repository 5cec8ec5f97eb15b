"""The pages say what the code does: names, defaults, figures, commands, error texts, links."""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import hcl2
import msgspec
import pytest

from qemu_node.cli import errortext as cli_errors
from qemu_node.cli.main import cli
from qemu_node.cli.vm import exec as cli_exec
from qemu_node.config import images as images_config
from qemu_node.config import network as network_config
from qemu_node.config import node as node_config
from qemu_node.config import nodeos as nodeos_config
from qemu_node.config import uplink as uplink_config
from qemu_node.config import web as web_config
from qemu_node.host.process.sandbox import SANDBOX_UID
from qemu_node.images.format import qemuimg
from qemu_node.inventory.state import VMStatus
from qemu_node.nodeos.setup.seed import DataPattern, DiskPattern, Seed, parse_seed
from qemu_node.nomad.agent.encoding import encode_config
from qemu_node.nomad.driver.fingerprint import HostFacts, build_fingerprint
from qemu_node.nomad.task.options import (
    GuestAgentOptions,
    NetworkOptions,
    TaskOptions,
    parse_options,
    task_schema,
)
from qemu_node.qemu.overhead import guest_memory_bytes
from qemu_node.qemu.spec import Accelerator, FirmwareMode
from qemu_node.run.jobfile.reader import JobSource, Parser, load_job
from qemu_node.units import GIB, MIB
from qemu_node.vm.life.stopladder import plan_stop
from qemu_node.vm.record import outcome

_ROOT = Path(__file__).parents[2]
_PAGES = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")])
_SOURCE = _ROOT / "src" / "qemu_node"

_SECTIONS: tuple[type[msgspec.Struct], ...] = (
    node_config.Paths,
    images_config.ImagesConfig,
    node_config.QemuConfig,
    node_config.LogsConfig,
    node_config.DiskConfig,
    network_config.NetworkConfig,
    uplink_config.UplinkConfig,
    nodeos_config.OsConfig,
    web_config.WebConfig,
)

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_MIN_LITERAL_CHARS = 6
_MAX_TEXT_CHARS = 300
"""What is longer is a docstring or a script, and no error."""


def _page(name: str) -> str:
    return (_ROOT / name).read_text()


def _snippets(language: str) -> list[Any]:
    """Return every fenced block of `language`, as a parameter named after its page."""
    return [
        pytest.param(
            re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE),
            id=f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}",
        )
        for page in _PAGES
        for match in _FENCE.finditer(page.read_text())
        if match["language"] == language
    ]


def _rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each table row."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _documented(text: str) -> set[str]:
    """Return the names in the first cells of tables."""
    return {
        name.removesuffix(" { }")
        for cells in _rows(text)
        for name in re.findall(r"`([^`]+)`", cells[0])
    }


def _names(struct: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(struct)}


def test_every_option_of_a_job_has_its_row() -> None:
    documented = _documented(_page("docs/driver.md"))
    assert _names(TaskOptions) <= documented
    nested = {
        f"{name} of {block}"
        for block, struct in (("network", NetworkOptions), ("guest_agent", GuestAgentOptions))
        for name in _names(struct)
    }
    first_cells = {cells[0].replace("`", "") for cells in _rows(_page("docs/driver.md"))}
    assert nested <= first_cells


def test_every_attribute_has_its_row() -> None:
    attributes = build_fingerprint(None, None, HostFacts()).attributes
    assert set(attributes) - {"driver.vm"} <= _documented(_page("docs/driver.md"))


@pytest.mark.parametrize(
    "section",
    [
        *_SECTIONS,
        images_config.CredentialConfig,
        network_config.NetworkPolicy,
        uplink_config.UplinkVlan,
    ],
)
def test_every_setting_has_its_row(section: type[msgspec.Struct]) -> None:
    assert _names(section) <= _documented(_page("docs/node-toml.md"))


def test_the_settings_shown_in_full_are_the_defaults() -> None:
    text, *_ = [m["body"] for m in _FENCE.finditer(_page("docs/node-toml.md")) if m["language"]]
    shown = node_config.parse(text, "node-toml.md")
    assert shown == node_config.NodeConfig(
        paths=node_config.Paths(run="/run/qemu-node", data="/var/lib/qemu-node")
    )
    for section in _SECTIONS:
        names = _names(section) - {"policy", "vlans"}  # tables of their own, none by default
        assert all(re.search(rf"^{name} *=", text, re.MULTILINE) for name in names)


@pytest.mark.parametrize("text", _snippets("toml"))
def test_settings_in_a_page_are_accepted(text: str) -> None:
    if text.startswith("# seed.toml\n"):
        parse_seed(text.encode(), "the page")
    else:
        node_config.parse(text, "the page")


@pytest.mark.parametrize("struct", [Seed, DiskPattern, DataPattern])
def test_every_answer_of_a_seed_has_its_row_and_is_in_the_example(
    struct: type[msgspec.Struct],
) -> None:
    told = _documented(_page("docs/os-install.md"))
    assert _names(struct) <= {name.removesuffix(" of `data`") for name in told}
    example = (_ROOT / "examples/seed.toml").read_text()
    for name in _names(struct):
        assert re.search(rf"^(?:# )?\[?{name}\b", example, re.MULTILINE), name


@pytest.mark.parametrize("text", _snippets("hcl"))
def test_hcl_in_a_page_parses(text: str) -> None:
    assert hcl2.loads(text)


@pytest.mark.parametrize(
    "text", [p for p in _snippets("hcl") if str(p.values[0]).startswith("job ")]
)
def test_a_job_in_a_page_has_options_that_the_driver_takes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.nomad.hcl"
    path.write_text(text)
    job = load_job(
        JobSource(path=path, env={}, variables=(), var_files=(), parser=Parser.HCL2, nomad=None)
    )
    for group in job.groups:
        for task in group.tasks:
            assert parse_options(encode_config(task_schema(), dict(task.config))).image


def test_the_job_in_the_readme_has_twelve_lines() -> None:
    [text] = [m["body"] for m in _FENCE.finditer(_page("README.md")) if m["language"] == "hcl"]
    assert len(text.splitlines()) <= 12


def test_guest_memory_is_what_the_page_says() -> None:
    rows = [
        cells
        for cells in _rows(_page("docs/driver.md"))
        if cells[0].isdigit() and cells[2].endswith("MiB")
    ]
    assert rows
    for memory, vcpus, *shown in rows:
        for accelerator, text in zip((Accelerator.KVM, Accelerator.TCG), shown, strict=True):
            guest = guest_memory_bytes(
                int(memory) * MIB,
                accelerator=accelerator,
                vcpus=int(vcpus),
                firmware=FirmwareMode.SECURE_BOOT,
            )
            assert text == f"{guest // MIB} MiB"


def test_the_stop_ladder_is_what_the_page_says() -> None:
    page = _page("docs/driver.md")
    for timeout_s, row in ((5, "5 s (Nomad's default)"), (30, "30 s"), (120, "2 min")):
        [cells] = [cells for cells in _rows(page) if cells[0] == row]
        shown = [float(cell.removesuffix(" s")) for cell in cells[1:]]
        planned = [step.at_s for step in plan_stop(timeout_s)]
        assert shown == pytest.approx(planned, abs=0.06)


def test_every_claim_about_security_names_tests_that_exist() -> None:
    _, _, section = _page("docs/security.md").partition("## Tests of these claims")
    claims = {cells[0]: cells[1] for cells in _rows(section) if cells[1].startswith("`")}
    assert len(claims) > 40
    tests = [re.findall(r"`([^`]+)::([^`]+)`", cell) for cell in claims.values()]
    assert all(tests)
    missing = [
        f"{path}::{name}"
        for path, name in itertools.chain.from_iterable(tests)
        if f"def {name}(" not in _page(f"tests/{path}")
    ]
    assert missing == []


def test_the_limits_of_the_sandbox_are_what_the_page_says() -> None:
    page = " ".join(_page("docs/security.md").split())
    limits = qemuimg.LIMITS
    assert f"an unused user ({SANDBOX_UID})" in page
    assert (
        f"{limits.cpu_s} s of CPU, at {limits.memory_bytes // GIB} GiB of memory "
        f"or at {limits.file_bytes // MIB} MiB of output"
    ) in page


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    targets = [match["target"] for match in _LINK.finditer(page.read_text())]
    relative = [target for target in targets if "://" not in target]
    missing = [t for t in relative if not (page.parent / t.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings_that_exist(page: Path) -> None:
    for match in _LINK.finditer(page.read_text()):
        path, _, anchor = match["target"].partition("#")
        if anchor and "://" not in path:
            target = page.parent / path if path else page
            assert anchor in _anchors(target.read_text()), match["target"]


def _anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _code(text: str) -> Iterator[str]:
    """Yield what a page prints as code: lines of unnamed fenced blocks, and code spans."""
    for match in _FENCE.finditer(text):
        if not match["language"]:
            yield from match["body"].splitlines()
    yield from re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def _words(command: str) -> list[str]:
    """Return the words of a printed command up to a comment, pipe or redirection."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a here-document, or a quotation that goes on
        return []
    end = next((n for n, word in enumerate(words) if set(word) <= set("|<>;&()")), len(words))
    return words[:end]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_printed_commands_exist_with_their_options(page: Path) -> None:
    for line in _code(page.read_text()):
        match = re.match(r"\s*(?:sudo )?(?:\S*/)?qemu-node ((?!Z).*)", line)
        if match is None:
            continue
        command: click.Command = cli
        context = click.Context(cli)
        for word in _words(match[1]):
            if word == "--":
                break
            if word.startswith("-"):
                known = {option for p in command.get_params(context) for option in p.opts}
                assert word.partition("=")[0] in known, line
            elif isinstance(command, click.Group) and word.islower():
                found = command.get_command(context, word)
                assert found is not None or word.startswith("path"), line
                command = found or command


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with its name after the program's."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _commands(below, f"{path} {name}".strip())


def test_every_command_has_its_row_with_its_options() -> None:
    page = _page("docs/cli.md")
    first_cells = [cells[0] for cells in _rows(page)]
    for path, command in _commands(cli):
        rows = [cell for cell in first_cells if re.search(rf"`{path}(?![\w-])", cell)]
        assert rows, path
        if " " not in path:
            continue  # it has a page, or a section, of its own
        options = {
            max(param.opts, key=len) for param in command.params if isinstance(param, click.Option)
        }
        told = set(re.findall(r"--[a-z-]+", rows[0]))
        assert options - {"--json"} <= told, path


def test_every_state_of_a_vm_has_its_row() -> None:
    assert {status.value for status in VMStatus} <= _documented(_page("docs/cli.md"))


def test_exit_statuses_are_what_the_page_says() -> None:
    told = {int(cells[0]) for cells in _rows(_page("docs/cli.md")) if cells[0].isdigit()}
    modules = (cli_errors, cli_exec)
    known = {v for m in modules for name, v in vars(m).items() if name.startswith("EXIT_")}
    assert told == {0} | known


def test_make_targets_in_the_pages_exist() -> None:
    makefile = _page("Makefile")
    for page in _PAGES:
        for line in _code(page.read_text()):
            match = re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:sudo )?make ([a-z][a-z0-9-]*)", line)
            if match is not None:
                assert f"\n{match[1]}:" in makefile, line


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)(?:::\w+)?`", text))
    places = (_ROOT, _SOURCE, _ROOT / "tests")
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_symbols_in_the_architecture_exist() -> None:
    sources = [*_SOURCE.rglob("*.py"), *(_ROOT / "tests").rglob("*.py"), _ROOT / "pyproject.toml"]
    known = set(re.findall(r"\w+", " ".join(path.read_text() for path in sources)))
    known |= {path.stem for path in sources} | {path.parent.name for path in sources}
    prose = _FENCE.sub("", _page("ARCHITECTURE.md"))
    symbols = set(re.findall(r"`([A-Za-z][\w.]*)`", prose))
    assert len(symbols) > 60
    assert {s for s in symbols if not set(s.split(".")) <= known} == set()


@cache
def _texts() -> frozenset[str]:
    """Return every string that the code can say, NUL for what is filled in."""
    found = {text for path in _SOURCE.rglob("*.py") for text in _strings(path)}
    return frozenset(text for text in found if 0 < len(text) <= _MAX_TEXT_CHARS)


def _strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_said(symptom: str) -> bool:
    """Tell whether the code can say `symptom`, where "…" stands for anything."""
    wanted = re.compile(".*".join(map(re.escape, symptom.split("…"))), re.DOTALL)
    if any(wanted.search(text) for text in _texts()):
        return True
    spoken = symptom.replace("…", "X")
    return any(
        re.fullmatch("(?s:.+)".join(map(re.escape, text.split("\0"))), spoken)
        for text in _texts()
        if "\0" in text and len(re.findall(r"[a-z]", text)) >= _MIN_LITERAL_CHARS
    )


def test_messages_about_a_disk_full_of_images_are_those_of_the_code() -> None:
    _, _, text = _page("docs/images.md").partition("## When the disk is full of images")
    section = text.partition("\n## ")[0]
    messages = {match[1] for cells in _rows(section) if (match := re.fullmatch("`(.+)`", cells[0]))}
    assert len(messages) >= 5
    # What the system says of its errors is not in our source.
    ours = {message.removesuffix("No space left on device") for message in messages}
    assert sorted(message for message in ours if not _is_said(message)) == []


def test_texts_in_troubleshooting_are_those_of_the_code() -> None:
    ours = re.sub(
        r"^## What Nomad says.*?(?=^## )", "", _page("docs/troubleshooting.md"),
        flags=re.DOTALL | re.MULTILINE,
    )  # fmt: skip
    symptoms = {match[1] for cells in _rows(ours) if (match := re.fullmatch("`(.+)`", cells[0]))}
    assert len(symptoms) > 40
    assert sorted(symptom for symptom in symptoms if not _is_said(symptom)) == []


@pytest.mark.parametrize("page", ["docs/driver.md", "docs/troubleshooting.md"])
def test_every_reason_of_an_end_has_its_row(page: str) -> None:
    said = {text.partition("\0")[0].rstrip() for text in _strings(Path(outcome.__file__))}
    reasons = {t for t in said if re.match("(the|QEMU) ", t) and not t.endswith(".")}
    reasons -= {outcome.describe(end) for end in (outcome.POWERED_OFF, outcome.FORCED_OFF)}
    assert len(reasons) >= 9
    told = " ".join(cell for cells in _rows(_page(page)) for cell in cells)
    assert sorted(reason for reason in reasons if reason not in told) == []
