"""`qemu-node serve`: the console's daemon, and what its operator needs to set it up.

Owns its options and its log. Does not own what is served (`web`), which is imported only here.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from qemu_node.cli.main import App, pass_app

if TYPE_CHECKING:
    from pathlib import Path

_EXAMPLES = """\b
Examples:
  systemctl start qemu-node          # as a service, of the Debian package and the node's system
  qemu-node serve --fingerprint      # compare it with what the browser shows
  qemu-node serve --make-password    # for a console without Nomad's ACLs
  journalctl -u qemu-node            # who did what
"""


@click.command(epilog=_EXAMPLES)
@click.option("--fingerprint", is_flag=True,
              help="Print the SHA-256 of the certificate in use, and exit.")  # fmt: skip
@click.option("--make-password", is_flag=True,
              help="Ask for a password, print what web.password_file holds, and exit.")  # fmt: skip
@pass_app
def serve(app: App, *, fingerprint: bool, make_password: bool) -> None:
    """Serve the console: web page and API on port 5800.

    Runs until a signal ends it; VMs never notice. Settings are in [web] of node.toml.
    """
    from qemu_node.host.notify import notify

    if make_password:
        click.echo(_make_password())
        return
    config = app.load_config()
    if fingerprint:
        click.echo(_fingerprint(config.paths.console_certificate))
        return
    _set_up_logging()
    if not config.web.enabled:
        notify(READY=1, STATUS="web.enabled is false in node.toml")
        click.echo("web.enabled is false in node.toml: there is no console", err=True)
        return
    # Imported here: `qemu-node serve --help` needs none of it.
    from qemu_node.web.service.daemon import run_daemon

    run_daemon(config)


def _make_password() -> str:
    """Return the hash of a password that is typed, or the first line of what is piped in."""
    from qemu_node.web.access.login.password import make_hash

    if sys.stdin.isatty():
        typed = click.prompt(
            "Password of the console", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        typed = sys.stdin.readline().rstrip("\n")
    return make_hash(typed)


def _fingerprint(path: "Path") -> str:
    """Return the fingerprint of the certificate that the daemon shows to browsers."""
    from qemu_node.errors import MissingPartError
    from qemu_node.web.http.listener.tls import fingerprint

    try:
        return fingerprint(path.read_text())
    except OSError as exc:
        raise MissingPartError(
            f"{path}: {exc.strerror}: the console does not run",
            hint="`systemctl status qemu-node` says why; without systemd start `qemu-node serve`",
        ) from exc


def _set_up_logging(fd: int = 2) -> None:
    """Log to `fd`, stderr: in the journal's form if that is where it goes.

    A line that nobody reads is dropped, and the drops are counted in a later one. A journal that
    waits for its disk would stop the event loop, and with it every screen and the watchdog.
    """
    from qemu_node.nomad.plugin.log import NonBlockingHandler
    from qemu_node.web.service.daemonlog import JournalFormatter

    handler = NonBlockingHandler(fd)
    handler.setFormatter(JournalFormatter(is_journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    level = min(root.level, logging.INFO)
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
