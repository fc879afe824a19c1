"""`modiff hosts`: who serves components, under what name, and where the token of each lies."""

from __future__ import annotations

import click

from tui.cli.completion import complete_host
from tui.cli.options import json_option
from tui.cli.output import print_json, print_lines
from tui.text import columns, printable

_EPILOG = """\b
Examples:
  modiff hosts add box http://192.168.1.7:8765 --token-file ~/.modiff-token
  modiff hosts list
  modiff run micro --set components.denoiser.name=remote --set components.denoiser.url=box
"""


@click.group(epilog=_EPILOG)
def hosts() -> None:
    """Know the hosts that serve components, and how to ask them.

    They stand in hosts.toml of the config folder: a token never does, only the file or the variable that holds it.
    """


@hosts.command()
@click.argument("name")
@click.argument("url")
@click.option("--token-file", metavar="FILE", default="", help="The file that holds its token.")
@click.option("--token-env", metavar="VARIABLE", default="", help="The variable that holds it.")
@click.option(
    "--ca-file",
    metavar="FILE",
    default="",
    help="Certificates (PEM) to check its own by, where no known authority has signed that.",
)
@json_option
def add(name: str, url: str, token_file: str, token_env: str, ca_file: str, as_json: bool) -> None:
    """Make a host known by a name.

    URL is the address that `modiff serve` printed there. It need not answer yet.
    """
    from engine.remote.hosts import add as remember
    from engine.remote.hosts import warnings_of
    from tui.describe.hosts import known_as_json

    host = remember(name, url, token_file=token_file, token_env=token_env, ca_file=ca_file)
    warnings = warnings_of(host)
    for line in warnings:
        click.echo(f"warning: {printable(line)}", err=True)
    if as_json:
        print_json({**known_as_json(host), "warnings": warnings})
    else:
        click.echo(f"{printable(host.name)} is {printable(host.url)}")


@hosts.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Ask all known hosts what they serve."""
    from engine.remote.asking import ask
    from engine.remote.hosts import known_hosts
    from tui.describe.hosts import as_json as told
    from tui.describe.hosts import rows

    asked = ask(known_hosts())
    if as_json:
        print_json({"hosts": told(asked)})
        return
    print_lines(columns(rows(asked)))
    if not asked:
        click.echo("no host is known; `modiff hosts add NAME URL` makes one known", err=True)


@hosts.command()
@click.argument("name", shell_complete=complete_host)
@json_option
def rm(name: str, as_json: bool) -> None:
    """Forget a host. The file of its token stays as it is."""
    from engine.remote.hosts import remove
    from tui.describe.hosts import known_as_json

    host = remove(name)
    if as_json:
        print_json(known_as_json(host))
    else:
        click.echo(f"forgot {printable(host.name)} ({printable(host.url)})")
