"""What the list of runs does with runs, beyond looking at them; each asks what it must and says what came of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tui.app.desktop import absolute, taken
from tui.app.dialogs.ask import Ask, Confirm
from tui.app.lab import CommandFailed
from tui.app.messages import ComposeWith, Queued, QueuedRuns
from tui.app.run_view.review import review
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs import run as summary
from tui.describe.verification import verdict_lines
from tui.text import counted, printable, shorten
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.store import Store
    from tui.app.base import ModiffBase
    from tui.describe.runs.run import RunRow

_TOLD_SECONDS = 12
_MAX_TOLD = 12


async def go_on(app: ModiffBase, rows: Sequence[RunRow], *, watch: bool) -> list[str]:
    """Resume runs that stopped, take those to their end that were to stop early; those at their end stay as they are.
    The ids of those that go on.

    watch: show it, where it is a single one.
    """
    from engine import client

    ids: list[str] = []
    reviewed: list[str] = []
    for row in rows:
        record = row.record
        if not summary.can_go_on(record):
            continue
        if is_to_review(record):
            if await review(app, record.id):
                reviewed.append(record.id)
            continue
        try:
            again = client.finish if record.status == "done" else client.resume
            await app.lab.change(again, record.id)
        except Exception as error:  # noqa: BLE001  # told, whatever it is; the others go on
            app.tell_error(error)
        else:
            ids.append(record.id)
    if len(ids) == len(rows) == 1:
        app.post_message(Queued(ids[0], watch=watch))
    elif ids:
        app.post_message(QueuedRuns(ids))
    return [*ids, *reviewed]


async def replay(app: ModiffBase, row: RunRow) -> None:
    """Make the output again and tell where it is: at its own path, or beside it in the place of an earlier replay."""
    run_id = row.record.id
    with app.job(f"replaying {run_id}"):
        done = await app.lab.command("replay", run_id, "--overwrite", "--quiet")
    if done.get("status") != "done":
        told = printable(str(done.get("error") or done.get("status")))
        app.notify(f"run {run_id} was not replayed: {told}", severity="error", markup=False)
        return
    app.notify(
        printable(done["output"]),
        title=f"run {run_id} replayed in {done['seconds']:.1f} s",
        timeout=_TOLD_SECONDS,
        markup=False,
    )


async def verify(app: ModiffBase, row: RunRow) -> None:
    """Compute a run again, in a process of its own, and say whether it is the same."""
    run_id = row.record.id
    app.notify(
        f"run {run_id} is computed again, to be compared; it takes as long as the run did, and its summary keeps "
        "what comes of it"
    )
    with app.job(f"verifying {run_id}"):
        verdict = await app.lab.command("replay", run_id, "--verify", "--quiet")
    if "identical" not in verdict:
        raise CommandFailed(str(verdict.get("error")))
    app.notify(
        "\n".join(verdict_lines(verdict)),
        title=f"verified run {run_id}",
        severity="information" if verdict["identical"] else "warning",
        timeout=_TOLD_SECONDS,
        markup=False,
    )


async def pin(app: ModiffBase, row: RunRow) -> None:
    """Pin a run, or take the pin off: what is pinned is never cleaned up."""
    run = row.record
    await app.lab.change(lambda store: (store.unpin if run.pinned else store.pin)(run.id))


async def edit_tags(app: ModiffBase, row: RunRow) -> None:
    """Ask for all tags of a run."""
    run_id = row.record.id
    line = await app.push_screen_wait(
        Ask(
            "tags",
            f"All tags of run {run_id}, with spaces between them.",
            value=" ".join(row.tags),
        )
    )
    if line is not None:
        await app.lab.change(_set_tags, run_id, list(dict.fromkeys(line.replace(",", " ").split())))


def _set_tags(store: Store, run_id: str, names: Sequence[str]) -> None:
    """Give a run these tags and no others."""
    before = store.tags_of([run_id])[run_id]
    store.tag(run_id, [name for name in names if name not in before])
    store.untag(run_id, [name for name in before if name not in names])


async def edit_note(app: ModiffBase, row: RunRow) -> None:
    """Ask for the note of a run."""
    run_id = row.record.id
    line = await app.push_screen_wait(
        Ask("note", f"A note to run {run_id}; none takes it away.", value=row.record.note)
    )
    if line is not None:
        await app.lab.change(lambda store: store.note(run_id, line.strip()))


async def rate(app: ModiffBase, row: RunRow) -> None:
    """Ask for the stars of a run: one more key."""
    from tui.app.runs.rate import Rate

    rating = await app.push_screen_wait(Rate(row.record.id, row.record.rating))
    if rating is not None and rating != row.record.rating:
        await app.lab.change(lambda store: store.rate(row.record.id, rating))


async def export(app: ModiffBase, rows: Sequence[RunRow]) -> None:
    """Ask for a path and write runs there as a bundle."""
    ids = [row.record.id for row in rows]
    line = await app.push_screen_wait(
        Ask(
            "export a bundle",
            f"{_runs(ids)} as one file, for another machine. Prompts and notes go along.",
            value=absolute(f"{ids[0]}.modiff"),
            check=taken,
        )
    )
    if not line or not line.strip():
        return
    with app.job(f"writing {printable(os.path.basename(absolute(line)))}"):
        done = await app.lab.command("store", "export", *ids, "--output", absolute(line))
    left_out = f", {len(done['left_out'])} left out" if done["left_out"] else ""
    app.notify(
        f"{printable(done['output'])}\n{_runs(done['runs'])}, {size(done['bytes'])}{left_out}",
        title="bundle written",
        timeout=_TOLD_SECONDS,
        markup=False,
    )


async def remove(app: ModiffBase, rows: Sequence[RunRow]) -> bool:
    """Remove runs from the list after asking; whether they were."""
    lines = [_line_of(row) for row in rows[:_MAX_TOLD]]
    if len(rows) > _MAX_TOLD:
        lines.append(f"and {len(rows) - _MAX_TOLD} more")
    ids = [row.record.id for row in rows]
    files = "Its file stays" if len(ids) == 1 else "Their files stay"
    lines += ["", f"{files}; what the store keeps is the first to go when a clean-up needs room."]
    if not await app.push_screen_wait(Confirm(f"remove {_runs(ids)}?", lines, "Remove")):
        return False
    await app.lab.change(lambda store: store.remove(ids))
    app.notify(f"{_runs(ids)} removed")
    return True


def load(app: ModiffBase, row: RunRow) -> None:
    """The settings of a run into the form, for another one. Raises PresetError where this version cannot read them."""
    from presets.encoding import decode_spec
    from presets.output.rules import without_place

    spec = without_place(decode_spec(row.record.spec_json))
    app.post_message(ComposeWith(spec, row.record.preset))


def _line_of(row: RunRow) -> str:
    pinned = f"  {summary.PIN} pinned" if row.record.pinned else ""
    prompt = shorten(printable(row.prompt), 34)
    return f"{row.record.id}  {summary.status_word(row.record)}  {prompt}{pinned}"


def _runs(ids: Sequence[str]) -> str:
    return f"run {ids[0]}" if len(ids) == 1 else counted(len(ids), "run")
