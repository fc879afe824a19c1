"""`modiff web`: the app in a browser."""

from __future__ import annotations

import os

import click

from tui.cli.bad_input import BadInput
from tui.cli.listening import REFUSED, cannot_listen
from tui.cli.options import json_option
from tui.cli.output import flush_output, print_json

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
@json_option
def web(port: int, host: str, as_json: bool) -> None:
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
        raise BadInput(
            f"the app in a browser needs {error.name}; pip install 'modiff[web]' brings it"
        ) from None
    try:
        listener = listen(host, port)
    except REFUSED as error:
        raise cannot_listen(host, port, error) from None
    with listener:
        token = new_token()
        named = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            click.echo(
                "warning: what goes over the network is not encrypted; an SSH tunnel to 127.0.0.1 is safer",
                err=True,
            )
        url = f"http://{named}:{listener.getsockname()[1]}/{token}/"
        if as_json:
            print_json({"url": url, "pid": os.getpid()})
        else:
            click.echo(url)
        click.echo("open this address in a browser; Ctrl-C ends it, runs go on", err=True)
        flush_output()  # a program that started this waits for the address
        serve(listener, host, token)
