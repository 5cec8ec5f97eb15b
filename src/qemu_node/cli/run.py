"""`qemu-node run`: options in, a session, its exit code out."""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.errortext import EXIT_ERROR, EXIT_INTERRUPTED
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import Duration
from qemu_node.errors import JobError

if TYPE_CHECKING:
    from qemu_node.run.session import SessionResult

_EXAMPLES = """\b
Examples:
  qemu-node run examples/debian.nomad.hcl -var image=/srv/debian.qcow2
  qemu-node run --logs web.nomad.hcl              # with the guests' serial consoles
  qemu-node run --json web.nomad.hcl | jq .       # one event per line
  qemu-node run --exit-when-ready web.nomad.hcl   # check that the VMs boot
  generate-job | qemu-node run -                  # the job from standard input

Ctrl-C stops all VMs cleanly, each within its kill_timeout; a second one stops them at once.
"""


_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_JOB_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command(epilog=_EXAMPLES)
@click.argument("job_file", metavar="JOB", type=_JOB_FILE)
@click.option("-var", "--var", "variables", multiple=True, metavar="NAME=VALUE",
              help="Give a variable of the job file a value; may be repeated.")  # fmt: skip
@click.option("-var-file", "--var-file", "var_files", multiple=True, type=_EXISTING_FILE,
              metavar="PATH", help="Read variables from a file; may be repeated.")  # fmt: skip
@click.option("--logs", "show_logs", is_flag=True, help="Show the guests' serial consoles.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
@click.option("--exit-when-ready", is_flag=True,
              help="Stop all VMs when every guest agent has answered.")  # fmt: skip
@click.option("--ready-timeout", type=Duration(), metavar="DURATION",
              help='Fail if a guest agent does not answer in time, e.g. "5m".')  # fmt: skip
@click.option("--console/--no-console", "has_console", default=None,
              help="Serve the web console on 127.0.0.1 and print a link for one login on stderr; "
              "default: yes, unless --exit-when-ready is given.")  # fmt: skip
@click.option("--parser", type=click.Choice(["auto", "nomad", "agent", "hcl2"]),
              default="auto", show_default=True,
              help="What parses HCL: the nomad program, the agent at $NOMAD_ADDR, or the built-in "
              "parser; auto: the first of these that is available.")  # fmt: skip
@click.option("--nomad", envvar="NOMAD", type=click.Path(path_type=str), metavar="PATH",
              help="The nomad program; default: $NOMAD, else the one in PATH, if any.")  # fmt: skip
@pass_app
@click.pass_context
def run(
    ctx: click.Context,
    app: App,
    *,
    job_file: Path,
    variables: tuple[str, ...],
    var_files: tuple[Path, ...],
    show_logs: bool,
    as_json: bool,
    exit_when_ready: bool,
    ready_timeout: float | None,
    has_console: bool | None,
    parser: str,
    nomad: str | None,
) -> None:
    """Run the VMs of a Nomad job file on this machine, in the foreground.

    JOB is a job in HCL, or in JSON as Nomad's API has it; `-` reads it from standard input. Its
    tasks of the driver "vm" start as Nomad would start them; other tasks are skipped. Nothing is
    scheduled, registered or restarted.
    """
    # Imported here: `qemu-node run --help` needs none of it.
    from qemu_node.cli.runview import open_view
    from qemu_node.run.jobfile.reader import STDIN, JobSource, Parser, load_job
    from qemu_node.run.runner import RunSettings, run_job
    from qemu_node.run.session import SessionOptions

    config = app.load_config()
    is_stdin = str(job_file) == "-"
    job = load_job(
        JobSource(
            path=STDIN if is_stdin else job_file,
            text=_read_stdin() if is_stdin else "",
            env=os.environ,
            variables=variables,
            var_files=var_files,
            parser=Parser(parser),
            nomad=nomad or shutil.which("nomad"),
        )
    )
    with open_view(sys.stdout, as_json=as_json) as view:
        options = SessionOptions(
            exit_when_ready=exit_when_ready,
            ready_timeout_s=ready_timeout,
            show_logs=show_logs,
            console_every_s=view.console_every_s,
        )
        settings = RunSettings(
            config=config,
            config_path=app.config_path,
            options=options,
            has_web_console=not exit_when_ready if has_console is None else has_console,
        )
        result = asyncio.run(run_job(job, settings, view.show))
    ctx.exit(exit_code(result))


def _read_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("reading the job from standard input; Ctrl-D ends it", err=True)
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise JobError("the job on standard input is not UTF-8 text") from exc
    if not text.strip():
        raise JobError("there is no job on standard input")
    return text


def exit_code(result: "SessionResult") -> int:
    """Return the exit status: a failed VM counts more than how the session was ended."""
    if result.failed:
        return EXIT_ERROR
    return EXIT_INTERRUPTED if result.was_forced else 0
