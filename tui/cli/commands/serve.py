"""`modiff serve`: components of this machine for runs of others."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tui.cli.completion import complete_host, complete_preset
from tui.cli.listening import REFUSED, cannot_listen
from tui.cli.options import json_option
from tui.cli.output import flush_output, print_json, print_lines
from tui.cli.settings.options import set_option
from tui.errors import FAILED
from tui.text import printable

# as on the command line; the names of `engine.remote.contract.SERVED`
_KINDS = ("text-encoder", "image-encoder", "denoiser", "vae")

_EPILOG = """\b
Examples:
  modiff serve text-encoder --preset micro
  modiff serve text-encoder vae --preset wan2.1-t2v-14b --port 8765
  modiff serve denoiser --preset wan2.1-t2v-14b --host 0.0.0.0 --token-file ~/.modiff-token
  modiff serve --check http://127.0.0.1:8765

In a run: --set components.text_encoder.name=remote --set components.text_encoder.url=ADDRESS
"""


@click.command(epilog=_EPILOG)
@click.argument("kinds", metavar="KIND...", nargs=-1, type=click.Choice(_KINDS))
@click.option(
    "--preset",
    default="micro",
    show_default=True,
    help="Whose components.",
    shell_complete=complete_preset,
)
@set_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen. Others than the loopback's need a token.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="0, the default, takes a free one."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The token that whoever asks must send; else that of $MODIFF_SERVE_TOKEN.",
)
@click.option(
    "--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate, as PEM."
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, as PEM.")
@click.option(
    "--queue",
    "max_waiting",
    type=click.IntRange(0, 1000),
    default=8,
    show_default=True,
    help="How many requests may wait for each component.",
)
@click.option(
    "--check",
    "checked",
    metavar="URL",
    help="Serve nothing: check that the server at this address, or of this known host, speaks the contract.",
    shell_complete=complete_host,
)
@json_option
def serve(
    kinds: tuple[str, ...],
    preset: str,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    max_waiting: int,
    checked: str | None,
    as_json: bool,
) -> int:
    """Serve components to runs of this machine or of others.

    KIND is text-encoder, image-encoder, denoiser or vae; several are served side by side. The address is printed on
    stdout once it answers; requests are logged on stderr. It serves until Ctrl-C or SIGTERM.

    With --check, one line for each thing that a server must do; exit code 1 where it does not.
    """
    if checked is not None:
        if kinds:
            raise click.UsageError("--check serves nothing; leave KIND out")
        return _check(checked, as_json=as_json)
    from engine.remote.hosts import is_loopback, readable_by_others
    from engine.serve.server import Address, check_tls, checked_token, listen
    from engine.serve.server import serve as serve_until_asked
    from store.index.index import open_index
    from store.store import open_store
    from tui.cli.run_of_file import load_settings

    if not kinds:
        raise click.UsageError(f"expected what to serve: {', '.join(_KINDS)}")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    tls = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
    address = Address(host, port, tls)
    check_tls(address)
    token = checked_token(address, token_file, os.environ)
    if token_file is not None and (warning := readable_by_others(token_file)):
        click.echo(f"warning: {printable(warning)}", err=True)
    if token and tls is None and not is_loopback(host):
        click.echo(
            "warning: what goes over the network is not encrypted, the token neither; --tls-cert and --tls-key, or "
            "an SSH tunnel to 127.0.0.1, are safer",
            err=True,
        )
    spec, _ = load_settings(preset, overrides)
    names = [kind.replace("-", "_") for kind in dict.fromkeys(kinds)]

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "kinds": names, "pid": os.getpid()})
        else:
            click.echo(url)
        click.echo(f"serving {', '.join(kinds)} of {preset}; Ctrl-C ends it", err=True)
        if host in ("0.0.0.0", "::"):
            click.echo("others write this machine's own name or address in its place", err=True)
        flush_output()  # a program that started this waits for the address

    try:
        listener = listen(address)
    except REFUSED as error:
        raise cannot_listen(host, port, error) from None
    with listener, open_store() as store, open_index(store.root) as index:
        serve_until_asked(
            listener, address, spec, names, index, token=token, max_waiting=max_waiting, ready=ready
        )
    return 0


def _check(url: str, *, as_json: bool) -> int:
    from engine.remote.conformance.check import check
    from engine.remote.hosts import address_of
    from tui.describe.hosts import check_lines

    address = address_of(url, "")
    found = check(address)
    has_passed = not any(each.wrong for each in found)
    checks = [{"name": each.name, "wrong": each.wrong} for each in found]
    if as_json:
        print_json({"url": address, "passed": has_passed, "checks": checks})
    else:
        count, *lines = check_lines({"checks": checks})
        print_lines(lines)
        click.echo(count, err=True)
    return 0 if has_passed else FAILED
