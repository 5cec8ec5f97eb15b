import click
import pytest

from qemu_node.cli.main import cli
from tools.manpages import contexts, escape, page_name, render


@click.group()
def node() -> None:
    """Run a node."""


@node.command(
    help="""Stop it, gently.

    The rest
    is refilled.

    \b
    States:
      off   it is off
    """,
    epilog="""\b
Examples:
  node stop --now
  node stop -f 'a b'

One at a time.
""",
)
@click.option("--timeout", default="30s", show_default=True, help="What the guest\ngets.")
@click.argument("vm")
def stop(timeout: str, vm: str) -> None:
    """Stop it."""


@node.command(hidden=True)
def secret() -> None:
    """Do what a unit does."""


def _pages(group: click.Group = node) -> dict[str, str]:
    found = list(contexts(group))
    names = [page_name(ctx) for ctx in found]
    return {name: render(ctx, names) for ctx, name in zip(found, names, strict=True)}


def test_every_command_that_is_shown_has_a_page() -> None:
    assert list(_pages()) == ["qemu-node", "qemu-node-stop"]


def test_a_group_that_is_hidden_on_this_machine_has_pages_that_say_where_it_works() -> None:
    pages = _pages(cli)
    where = "Only on a node that runs the project\\(aqs own operating system."
    assert f".B os\nManage this node\\(aqs operating system. {where}\n" in pages["qemu-node"]
    below = [name for name in pages if name.startswith("qemu-node-os")]
    assert {"qemu-node-os", "qemu-node-os-status", "qemu-node-os-upgrade"} <= set(below)
    assert all(f".PP\n{where}\n" in pages[name] for name in below)
    assert not any(where in pages[name] for name in pages.keys() - {*below, "qemu-node"})
    # What only units call.
    assert "qemu-node-os-note" not in pages


def test_a_group_lists_its_commands_and_points_to_their_pages() -> None:
    page = _pages()["qemu-node"]
    assert ".SH COMMANDS\n.TP\n.B stop\nStop it, gently" in page
    assert ".BR qemu\\-node\\-stop (1)," in page
    assert "secret" not in page


def test_a_page_has_options_with_their_defaults_and_arguments() -> None:
    page = _pages()["qemu-node-stop"]
    assert ".B qemu\\-node stop\n.I [OPTIONS]\n.I VM\n" in page
    assert ".B \\-\\-timeout TEXT\nWhat the guest gets. [default: 30s]\n" in page


def test_paragraphs_are_filled_and_tables_are_not() -> None:
    page = _pages()["qemu-node-stop"]
    assert ".PP\nThe rest is refilled.\n" in page
    assert ".nf\nStates:\n  off   it is off\n.fi\n" in page


def test_examples_can_be_copied() -> None:
    page = _pages()["qemu-node-stop"]
    examples = "node stop \\-\\-now\nnode stop \\-f \\(aqa b\\(aq"
    assert f".SH EXAMPLES\n.nf\n{examples}\n.fi\n.PP\nOne at a time.\n" in page


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (".hidden file", "\\&.hidden file"),
        ("a\n'b", "a\n\\(aqb"),
        ("C:\\x", "C:\\ex"),
        ("~/-v", "\\(ti/\\-v"),
    ],
)
def test_text_is_no_request_of_man(text: str, printed: str) -> None:
    assert escape(text) == printed
