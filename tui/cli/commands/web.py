"""`modiff web`: the app in a browser."""

from __future__ import annotations

import click

from tui.cli.listening import REFUSED, cannot_listen
from tui.cli.output import flush_output
from tui.errors import BAD_INPUT

_EPILOG = """\b
Examples:
  modiff web
  modiff web --port 9000

From another machine: ssh -L 8000:127.0.0.1:8000 THIS-MACHINE, and open the printed address there.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Where to listen; 0 takes a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen at. Others than the loopback's can be reached from the network, unencrypted.",
)
def web(port: int, host: str) -> int:
    """Show the app in a browser.

    The address is printed on stdout, with a token in it: whoever has it drives the app, and nobody else does. It
    holds until Ctrl-C. Each page that is opened is an app of its own on the same store. Needs the extra `web`:
    pip install 'modiff[web]'.
    """
    if not host:
        raise click.BadParameter("expected an address, got nothing", param_hint="--host")
    try:
        from tui.cli.browser.server import is_loopback, listen, new_token, serve
    except ImportError as error:
        click.echo(
            f"modiff: the app in a browser needs {error.name}; pip install 'modiff[web]' brings it",
            err=True,
        )
        return BAD_INPUT
    try:
        listener = listen(host, port)
    except REFUSED as error:
        return cannot_listen(host, port, error)
    with listener:
        token = new_token()
        named = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            click.echo(
                "warning: what goes over the network is not encrypted; an SSH tunnel to 127.0.0.1 is safer",
                err=True,
            )
        click.echo(f"http://{named}:{listener.getsockname()[1]}/{token}/")
        click.echo("open this address in a browser; Ctrl-C ends it, runs go on", err=True)
        flush_output()  # a program that started this waits for the address
        serve(listener, host, token)
    return 0
