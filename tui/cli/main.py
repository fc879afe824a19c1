"""The `modiff` command: which commands there are, and what becomes of an error.

A command is imported when it is used: `modiff --help` costs click and nothing else. stdout is data,
stderr is narration. Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tui.cli.output import Invocation, close_output, flush_output, is_of_output, print_failure
from tui.cli.repeated import refusing_repeated
from tui.errors import CANCELLED, FAILED, explain
from tui.text import printable

if TYPE_CHECKING:
    from engine.components.needed import ModelsAbsent

# name, where in `tui.cli.commands` the command lives, its line in `modiff --help`, held to its own by a test
_ROWS = (
    ("run", "runs.run", "Make a video from a preset."),
    ("sweep", "runs.sweep", "Make a run for every combination of values."),
    ("plan", "runs.plan", "Tell what a run would compute, before it does."),
    ("runs", "runs.list", "List runs, newest first."),
    ("show", "runs.show", "Show all that is known about one run."),
    ("tree", "runs.tree", "Show which run was branched from which."),
    ("compare", "runs.compare", "Compare two runs, from settings to frames."),
    ("sheet", "runs.sheet", "Draw a contact sheet of runs."),
    ("replay", "runs.replay", "Make the output of a run again, from the store."),
    ("branch", "runs.branch", "Go on from a step of a run with other settings."),
    ("cancel", "runs.list", "Cancel a run that is queued or running."),
    ("pause", "runs.branch", "Pause a run that is queued or running."),
    ("resume", "runs.branch", "Go on with a run that stopped before its end."),
    ("finish", "runs.branch", "Take runs that stopped early to their end."),
    ("tag", "runs.label", "Give a run tags, or take them off."),
    ("note", "runs.label", "Write a note on a run; an empty one removes it."),
    ("rate", "runs.label", "Give a run 1 to 5 stars; 0 takes them off."),
    ("pin", "runs.label", "Keep what a run made from every clean-up."),
    ("rm", "runs.label", "Remove runs from the list; the files that they wrote stay."),
    ("models", "models.group", "Find, download, inspect and check the models on this machine."),
    ("presets", "presets", "List, show, check and save presets."),
    ("store", "store.group", "See what takes space, check it, give it back."),
    ("engine", "engine", "Look after the background engine process."),
    ("web", "web", "Show the app in a browser."),
    ("review", "runs.review", "Read the expanded prompt of a run, and let it go on."),
    ("serve", "serve", "Serve components to runs of this machine or of others."),
    ("hosts", "hosts", "Know the hosts that serve components, and how to ask them."),
    ("completion", "completion", "Print what makes a shell complete modiff."),
    ("doctor", "doctor", "Check what works on this machine."),
)
COMMANDS = {name: (f"tui.cli.commands.{module}:{name}", line) for name, module, line in _ROWS}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return refusing_repeated(getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the nearest command where there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            if not near or "mean" in error.message:
                raise
            line = f"{error.message} Did you mean {near[0]}?"
            raise click.UsageError(line, ctx=error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"modiff {version('modiff')}")
    except PackageNotFoundError:
        click.echo("modiff (run from its source folder, not installed)")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.",
    invoke_without_command=True,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and leave.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Modular Diffusion: a laboratory for compound video-diffusion systems.

    Without a command, the app: configure a pipeline, launch it, watch it think, go back to any step of any run.

    \b
    Examples:
      modiff
      modiff run micro
      modiff run micro --prompt "a small yellow star moves up over a black background"
      modiff run wan2.1-t2v-1.3b --set scheduler.steps=30 --output cat.mp4
      modiff runs
    """
    if ctx.invoked_subcommand is None:
        from tui.app.launch import start

        ctx.exit(start())


def refuse_shadowed_packages() -> None:
    """Raise `ClickException` when Python would import a foreign `presets`, `store` or `engine`.

    These are plain top-level names: a package of the same name that is found first would be
    imported in place of ours.
    """
    from importlib.util import find_spec

    home = Path(__file__).resolve().parents[2]
    for name in ("presets", "store", "engine"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise click.ClickException(f"the package '{name}' of modiff is missing from {home}")
        if Path(spec.origin).resolve().parent != home / name:
            raise click.ClickException(
                f"another package named '{name}' ({spec.origin}) hides modiff's own ({home / name}); "
                "install modiff in an environment of its own, or take that folder off PYTHONPATH"
            )


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; no stack trace leaves here."""
    arguments = list(sys.argv[1:] if args is None else args)
    invocation = Invocation(arguments=tuple(arguments))
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        # A prompt in any script must be printable under any locale.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        refuse_shadowed_packages()
        code = cli.main(args=arguments, prog_name="modiff", standalone_mode=False, obj=invocation)
        # A closed pipe must show here, where it is handled, not while the interpreter shuts down.
        flush_output()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return _report(invocation, CANCELLED, "interrupted")
    except click.UsageError as error:
        shown = StringIO()
        error.show(shown)
        click.echo(_harmless(shown.getvalue()), err=True)
        return _report(invocation, error.exit_code, error.format_message(), shown=True)
    except click.ClickException as error:
        return _report(invocation, error.exit_code, error.format_message())
    except BrokenPipeError:  # who reads has read enough, as `head` does
        close_output()
        return 0
    except SystemExit as error:
        if error.code == 0:  # what a shell asked for to complete a line
            flush_output()
        else:  # which is what click makes of the same, and of nothing else here
            close_output()
        return 0
    except OSError as error:
        if not is_of_output(error):
            return _report(invocation, *explain(error))
        return _report(
            invocation, FAILED, f"the output could not be written ({error.strerror or error})"
        )
    except Exception as error:  # noqa: BLE001  # the edge: people get a line, a log the trace
        from engine.components.needed import ModelsAbsent

        if isinstance(error, ModelsAbsent):
            return _report_models(invocation, error)
        return _report(invocation, *explain(error))


def _report_models(invocation: Invocation, error: ModelsAbsent) -> int:
    """Models that are not here, as the table that tells of them everywhere."""
    from engine.components.choice import OTHER_WAYS
    from tui.describe.models import missing

    code, line = explain(error)
    lacks = missing.absent(error.needed)
    click.echo(
        f"modiff: {len(lacks)} of {len(error.needed)} models are not on this machine, "
        f"{missing.missing_size(error.needed)} to get",
        err=True,
    )
    for each in [*missing.lines(error.needed), OTHER_WAYS]:
        click.echo(each, err=True)
    models = missing.as_json(error.needed)
    return _report(invocation, code, line, shown=True, models=models)


def _report(
    invocation: Invocation,
    code: int,
    line: str,
    *,
    shown: bool = False,
    models: Sequence[dict[str, Any]] = (),
) -> int:
    try:
        if not shown:
            click.echo(f"modiff: {_harmless(line)}", err=True)
        if invocation.wants_json:
            print_failure(invocation, code, line, models)
        flush_output()
    except OSError:
        close_output()
        return FAILED
    return code


def _open_missing_streams() -> None:
    """Streams that were closed before we came, as by `>&-`, lead nowhere; else the next file would get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _harmless(lines: str) -> str:
    return "\n".join(printable(line) for line in lines.splitlines())
