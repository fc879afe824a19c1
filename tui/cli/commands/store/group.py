"""`modiff store`: what takes space, whether it is sound, and giving it back.

Data goes to stdout. Exit code 1 when something was found wrong, or when runs are in the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from tui.cli.commands.store.bundle import export, import_
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, read_by
from tui.cli.output import print_json, print_lines
from tui.cli.overwritten import Pace, show
from tui.describe.space import (
    overview_data,
    overview_lines,
    plan_data,
    plan_lines,
    run_data,
    runs_lines,
    shares_data,
    shares_lines,
    verdict_data,
    verdict_lines,
)
from tui.errors import FAILED
from tui.units import read_age, read_size, size


@click.group()
def store() -> None:
    """See what takes space, check it, give it back."""


store.add_command(export)
store.add_command(import_)


@store.command()
@json_option
def info(as_json: bool) -> None:
    """Say what is in the store and what takes space."""
    from store.upkeep.contents import look
    from store.upkeep.space import survey

    with store_as_it_is() as opened:
        overview = survey(opened.root, look(opened.lineage))
    if as_json:
        print_json(overview_data(overview))
    else:
        print_lines(overview_lines(overview))


@store.command()
@click.option(
    "--by",
    type=click.Choice(("run", "kind", "age")),
    default="run",
    show_default=True,
    help="What is told of: runs, kinds of blobs, or when blobs were last used.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most so many runs.",
)
@json_option
def ls(by: str, limit: int, as_json: bool) -> None:
    """List what takes space, and what it would cost to compute again.

    A run takes some space alone; what it shares with others stays when it is removed.
    """
    from store.upkeep.contents import look
    from store.upkeep.needs import chains, classify
    from store.upkeep.space import by_age, by_kind, by_run

    with store_as_it_is() as opened:
        contents = look(opened.lineage)
    known = chains(contents)
    stored = classify(contents, known)
    if by == "run":
        runs = by_run(contents, known, stored)
        shown = runs[:limit]
        if as_json:
            print_json({"runs": [run_data(share) for share in shown]})
        else:
            print_lines(runs_lines(shown) if shown else [])
        if not runs:
            click.echo("no runs; `modiff run micro` makes one", err=True)
        elif len(runs) > len(shown):
            click.echo(f"and {len(runs) - len(shown)} more; see --limit", err=True)
        return
    if by == "kind":
        title, shares = "kind", by_kind(stored.values())
    else:
        title, shares = "used", by_age(stored.values(), time.time_ns())
    if as_json:
        print_json({"shares": shares_data(title, shares)})
    else:
        print_lines(shares_lines(title.upper(), shares))
    if not shares:
        click.echo("the store holds no blobs", err=True)


@store.command()
@click.option("--quick", is_flag=True, help="Presence and size only, without reading everything.")
@click.option(
    "--repair",
    "repairs",
    is_flag=True,
    help="Mend rows of the database that are damaged, or set them aside.",
)
@json_option
def verify(quick: bool, repairs: bool, as_json: bool) -> int:
    """Read everything in the store again and check it.

    The database with its rows, then every blob against its name. A damaged blob is set aside in quarantine; it,
    and one that is missing, is forgotten, so that it is computed again. A damaged row is passed over by all
    commands; with --repair it is mended, or moved to quarantine as text. Exit code 1 if anything was found.
    """
    from store.upkeep.verify import verify as verify_store

    with store_as_it_is(to_clean=True) as opened:
        try:
            verdict = verify_store(
                opened.lineage, quick=quick, repairs=repairs, on_progress=_progress()
            )
        finally:
            show("")
    if as_json:
        print_json(verdict_data(verdict))
    else:
        print_lines(verdict_lines(verdict))
    return 0 if verdict.is_sound else FAILED


@store.command()
@click.option(
    "--budget",
    callback=read_by(read_size),
    metavar="SIZE",
    help="What steps, keyframes and leftovers may take, such as 20GB. "
    "By default 50 GB or a fifth of the free space, unless --older-than is given.",
)
@click.option(
    "--older-than",
    callback=read_by(read_age),
    metavar="AGE",
    help="Remove all of them that were not used for so long, such as 30d.",
)
@click.option("--outputs", is_flag=True, help="Count videos and final latents as well.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def gc(
    budget: int | None, older_than: int | None, outputs: bool, dry_run: bool, as_json: bool
) -> None:
    """Give space back.

    What no run needs goes first, then what no run has any more, then the steps of runs: all of it can be
    computed again. What was set aside as damaged goes after a month, or as --older-than says. Never removed:
    what pinned and unfinished runs and their ancestors need, and, without --outputs, videos and final latents.
    Exit code 1, with nothing done, while a run writes.

    \b
    Examples:
      modiff store gc --dry-run
      modiff store gc --budget 20GB
      modiff store gc --older-than 30d --outputs
    """
    from store.store import open_as_it_is
    from store.upkeep.gc import clean, preview
    from store.upkeep.removal import Policy
    from store.upkeep.space import default_budget

    with open_as_it_is(to_clean=True) as opened:
        opened.recover_if_possible()
        if budget is None and older_than is None:
            budget = default_budget(opened.root)
        policy = Policy(budget_bytes=budget, older_than_ns=older_than, outputs=outputs)
        plan = (
            preview(opened.lineage, policy)
            if dry_run
            else clean(opened.lineage, policy, rebuilds=True)
        )
    if as_json:
        print_json(plan_data(plan, budget, dry_run=dry_run))
    else:
        print_lines(plan_lines(plan, budget, dry_run=dry_run))
    if budget is not None and plan.left_bytes > budget:
        click.echo(
            f"{size(plan.left_bytes)} {'would stay' if dry_run else 'stay'}, more than the budget "
            f"of {size(budget)}: pinned and unfinished runs need them",
            err=True,
        )


def _progress() -> Callable[[int, int], None]:
    pace = Pace()

    def tell(done: int, total: int) -> None:
        if pace.is_due:
            show(f"{100 * done // max(1, total):3} %  of {size(total)}")

    return tell
